"""docs/methods: every strategy, policy, adoption rule, weighing rule and term has a card, and every card is whole."""

from __future__ import annotations

import inspect
import re

import pytest
import yaml

from kdlab.config.composition import CONF
from kdlab.methods.selection import policies
from tests.support.documents import ROOT

FOLDER = ROOT / "docs" / "methods"
PARTS = ["What", "Equation", "Cost", "When", "Evidence"]
PAGES = ["strategies", "policies", "adoption", "weighing", "terms"]


def cards(page: str) -> dict[str, str]:
    """The cards of a page by their names."""
    _, *sections = re.split(r"^## ", (FOLDER / f"{page}.md").read_text(encoding="utf-8"), flags=re.M)
    found = {name: body for name, _, body in (section.partition("\n") for section in sections)}
    return {name: body for name, body in found.items() if name != "Sets"}


def choices(group: str) -> set[str]:
    return {file.stem for file in (CONF / group).glob("*.yaml")}


def targets(value: object) -> set[str]:
    """The names of the functions and classes that a configuration's `_target_`s have."""
    if isinstance(value, dict):
        own = {str(value["_target_"]).rpartition(".")[2]} if "_target_" in value else set()
        return own.union(*map(targets, value.values()))
    return set().union(*map(targets, value)) if isinstance(value, list) else set()


def test_every_choice_of_rows_has_a_card():
    found = {*cards("strategies"), *cards("policies")}
    assert choices("select") <= found and not cards("strategies").keys() & cards("policies").keys()


def test_every_policy_of_the_package_has_a_card():
    names = {name for name, kind in inspect.getmembers(policies, inspect.isclass) if hasattr(kind, "choose")}
    named = {
        "RandMix": "randmix",
        "Online": "adads",
        "UCB": "ucb",
        "DiscountedUCB": "discounted_ucb",
        "WindowUCB": "window_ucb",
    }
    classes = names - {"Policy", "Learner"}
    assert len(classes) >= 6 and {named.get(name, name.lower()) for name in classes} <= cards("policies").keys()


@pytest.mark.parametrize(("group", "page"), [("adopt", "adoption"), ("weigh", "weighing")])
def test_every_rule_has_a_card(group, page):
    assert choices(group) == cards(page).keys()


def test_every_term_has_a_card_and_every_set_is_listed():
    files = sorted((CONF / "knowledge").glob("*.yaml"))
    terms = set().union(*(targets(yaml.safe_load(file.read_text())) for file in files))
    assert len(terms) > 10 and terms == cards("terms").keys()
    _, _, sets = (FOLDER / "terms.md").read_text(encoding="utf-8").partition("## Sets")
    rows = re.findall(r"^\|([^|]+)\|", sets, re.M)[2:]
    assert choices("knowledge") == {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("page", PAGES)
def test_every_card_has_what_equation_cost_use_and_evidence(page):
    for name, body in cards(page).items():
        found = re.findall(r"^- \*\*(\w+)\.\*\* (.+)$", body, re.M)
        assert [part for part, _ in found] == PARTS, name
