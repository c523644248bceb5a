"""Which teacher, which knowledge, how much: every choice of every group beside others, as a user combines them.

The choices are found in conf/ and what a combination needs is read from the marks of its rules and terms, so a new YAML
file is tried without a word here. All pairs, and triples of choices that differ in kind: tests/nightly/test_compositions.py.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from kdlab import run as entry
from kdlab import tables
from kdlab.adoption import marks_of
from kdlab.terms import asks_teacher, is_joint, on_logits, wants
from kdlab.weighing import looks_of
from tests.conftest import write_task
from tests.end_to_end.test_finetune import BATCH, KEPT, STEPS, Lab, plainly, result_of, weights
from tests.runs import KillAt, call, outcome, tiny

# ---- what can be combined

TEACHERS = {"one": [], "two": ["+teachers.others.small.layers=3"], "specialists": ["teachers.split=2"]}
GROUPS = {
    name: sorted(file.stem for file in (entry.CONF / name).glob("*.yaml"))
    for name in ("knowledge", "select", "adopt", "policy")
} | {"teachers": list(TEACHERS)}
BRIEF = [  # the module that learns to weigh does so in an episode of a few steps, from a few rows
    "policy.episodes=1", "policy.phase=3", "policy.reward_rows=16",
]  # fmt: skip


@functools.cache
def read(group: str, choice: str) -> Any:
    """A choice's YAML with what it is made from, as Hydra would put it together."""
    own = OmegaConf.load(entry.CONF / group / f"{choice}.yaml")
    found = OmegaConf.create({})
    for base in own.pop("defaults", []):
        if base != "_self_":
            where, _, name = base.removesuffix("@_here_").lstrip("/").rpartition("/")
            found = OmegaConf.merge(found, read(where or group, name))
    return OmegaConf.merge(found, own)


def functions(group: str, choice: str) -> dict[str, Any]:
    """The functions and classes that a choice names, by arm (of knowledge: by term that has a weight)."""
    given = read(group, choice)
    if group == "knowledge":
        return {name: hydra.utils.get_object(t.term["_target_"]) for name, t in given.terms.items() if t.weight > 0}
    return {name: hydra.utils.get_object(arm["_target_"]) for name, arm in given.arms.items()}


def learns(policy: str) -> bool:
    """Whether a module learns to weigh, before the run."""
    return any(isinstance(arm, type) for arm in functions("policy", policy).values())


def needs(group: str, choice: str) -> tuple[Any, ...]:
    """The kind of a choice: all that decides what it reads and what it can be combined with."""
    if group == "teachers":
        return (choice,)
    found, given = functions(group, choice), read(group, choice)
    match group:
        case "knowledge":
            asked = {name: term for name, term in found.items() if asks_teacher(term)}
            return (
                bool(asked), any(map(is_joint, found.values())), any(map(on_logits, asked.values())),
                any(not on_logits(term) for term in found.values()), frozenset().union(*map(wants, found.values())),
                bool(given.get("phases")), any(getattr(term, "chooses", None) for term in found.values()),
            )  # fmt: skip
        case "adopt":
            marks = [marks_of(rule) for rule in found.values()]
            return (given.assistant is not None, *((rule.reads, rule.mixes, rule.fewest) for rule in marks))
        case "policy":
            return (learns(choice), *(looks_of(rule) for rule in found.values()))
    return (given.policy["_target_"], *(found if len(found) == 1 else ()), given.get("ratio") == 1)


def contradiction(one: dict[str, str]) -> str | None:
    """What the line that refuses a combination (choices by group) says; None where it must train."""
    asked, joint = needs("knowledge", one["knowledge"])[:2]
    assistant, *rules = needs("adopt", one["adopt"])
    looks = set().union(*needs("policy", one["policy"])[1:])
    if one["teachers"] == "specialists" and assistant:
        return "teachers.split"
    if "features" in looks and not asked:
        return "asks none"
    if not asked:
        return None
    if any(fewest > 1 for *_, fewest in rules) and one["teachers"] == "one" and not assistant:
        return "chooses among"
    if not rules and one["teachers"] == "two" and not joint:
        return "nothing says which"
    if joint and any(reads == {"own"} for reads, *_ in rules):
        return "all teachers"
    return None


def command(one: dict[str, str]) -> list[str]:
    """The overrides that a combination needs."""
    found = [f"{group}={choice}" for group, choice in one.items() if group != "teachers"] + TEACHERS[one["teachers"]]
    if read("select", one["select"]).get("ratio") == 1:
        found.append("select.ratio=1")
    if learns(one["policy"]):
        found += BRIEF
    terms = functions("knowledge", one["knowledge"])
    for name, rule in read("policy", one["policy"]).arms.items():
        if "certain" in rule:  # names of terms: answers of the teacher, and its states
            answers = [term for term, function in terms.items() if on_logits(function) and asks_teacher(function)]
            states = [term for term, function in terms.items() if not on_logits(function)]
            lists = {"certain": answers, "uncertain": states}
            found += [f"policy.arms.{name}.{key}=[{','.join(names)}]" for key, names in lists.items()]
    return found


def covering(strength: int, alike: bool = False, seed: int = 0) -> Iterator[dict[str, str]]:
    """Combinations in which every `strength` choices of different groups meet, wherever they can (greedily few).

    `alike`: choices of one kind stand for each other. Strength 1: each row takes the partners that are newest together.
    """
    rng = random.Random(seed)
    kinds = {g: {c: needs(g, c) if alike else c for c in choices} for g, choices in GROUPS.items()}

    def met(one: dict[str, str], size: int) -> Iterator[tuple[Any, ...]]:
        for some in itertools.combinations(GROUPS, size):
            if all(group in one for group in some):
                yield tuple((group, kinds[group][one[group]]) for group in some)

    every = [dict(zip(GROUPS, choices, strict=True)) for choices in itertools.product(*GROUPS.values())]
    valid = [one for one in every if contradiction(one) is None]
    rng.shuffle(valid)
    left = {key for one in valid for key in met(one, strength)}
    new = {key for one in valid for key in met(one, max(2, strength))}
    while left:
        some = rng.sample(valid, min(300, len(valid)))
        best = max(some, key=lambda one: (sum(k in left for k in met(one, strength)), sum(k in new for k in met(one, max(2, strength)))))  # fmt: skip
        if not any(key in left for key in met(best, strength)):
            best = next(one for one in valid if any(key in left for key in met(one, strength)))
        left.difference_update(met(best, strength))
        new.difference_update(met(best, max(2, strength)))
        yield best


def title(one: dict[str, str]) -> str:
    return "-".join(one.values())
