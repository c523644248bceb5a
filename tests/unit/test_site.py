"""The site's navigation has every page, and its hook turns the repository's links into the site's."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
import yaml

from tests.support.documents import ROOT

DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    (name,) = CONFIG["hooks"]
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(nav: object) -> list[str]:
    """The pages of a navigation, in its order."""
    if isinstance(nav, dict):
        nav = list(nav.values())
    return [page for part in nav for page in leaves(part)] if isinstance(nav, list) else [str(nav)]


def test_the_navigation_has_every_page_once(hooks):
    outside = hooks.pages()
    assert all(page.is_file() for page in outside)
    inside = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md") if page not in outside}
    shown = leaves(CONFIG["nav"])
    studies = {uri for page, uri in outside.items() if page.parent.parent == ROOT / "experiments"}
    assert len(studies) > 20 and CONFIG["not_in_nav"].split() == ["/experiments/*.md"]
    assert sorted(shown) == sorted(inside | set(outside.values()) - studies)


def test_the_navigation_has_the_parts_of_the_manual():
    parts = [next(iter(part)) for part in CONFIG["nav"]]
    assert parts == ["Home", "Get started", "Choose", "How-to", "Methods", "Reference", "How it is built"]


def test_warnings_are_errors_and_links_are_checked():
    assert CONFIG["strict"] is True
    assert set(CONFIG["validation"]["links"].values()) == set(CONFIG["validation"]["nav"].values()) == {"warn"}


@pytest.mark.parametrize(
    ("source", "uri", "link", "there"),
    [
        ("README.md", "index.md", "docs/choosing.md", "choosing.md"),
        ("README.md", "index.md", "CONTRIBUTING.md", "contributing.md"),
        ("docs/README.md", "contents.md", "../README.md", "index.md"),
        ("docs/methods/terms.md", "methods/terms.md", "README.md", "README.md"),
        ("docs/methods/terms.md", "methods/terms.md", "../../experiments/README.md", "../experiments/index.md"),
        ("experiments/dekd_runs/README.md", "experiments/dekd_runs.md", "../dekd_methods/README.md", "dekd_methods.md"),
        ("experiments/dekd_runs/README.md", "experiments/dekd_runs.md", "../../docs/tasks.md", "../tasks.md"),
        ("docs/report.md", "report.md", "report.png", "report.png"),
        ("docs/report.md", "report.md", "https://example.org/README.md", "https://example.org/README.md"),
        ("docs/report.md", "report.md", "no_such.md", "no_such.md"),  # mkdocs names it
    ],
)
def test_links_between_files_become_links_between_pages(hooks, source, uri, link, there):
    assert hooks._in_site(link, ROOT / source, uri) == there


def test_links_keep_their_anchors_and_code_its_brackets(hooks):
    class File:
        abs_src_path, src_uri = str(DOCS / "tasks.md"), "tasks.md"

    class Page:
        file = File()

    text = "[a](../CONTRIBUTING.md#style) `x[0](y)` [b](#knowledge) ![c](schedule.png)"
    changed = "[a](contributing.md#style) `x[0](y)` [b](#knowledge) ![c](schedule.png)"
    assert hooks.on_page_markdown(text, Page(), None, None) == changed
