"""Imports between packages: the table in docs/design.md, and no circle between packages or files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

import kdlab

PACKAGE = Path(kdlab.__file__).parent
DESIGN = PACKAGE.parent / "docs" / "design.md"
ROOT = "(root)"
FREE = {"kdlab.types", "kdlab.errors", "kdlab.ranges"}  # modules that all packages may import
FILES = {
    ".".join(["kdlab", *file.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}


def table() -> dict[str, tuple[set[str], set[str]]]:
    """Each package of the table in docs/design.md: the packages and the libraries that it may import."""
    text = DESIGN.read_text(encoding="utf-8").partition("| package |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ([a-z()]+) \| [^|]+\|([^|]*)\|([^|]*)\|$", text, re.M)
    return {name: (set(packages.split()), set(libraries.split())) for name, packages, libraries in rows}


def package_of(module: str) -> str:
    parts = module.split(".")[1:]
    return parts[0] if parts and (PACKAGE / parts[0]).is_dir() else ROOT


def imported(module: str) -> set[str]:
    """Modules that a file of kdlab imports, lazy imports included: kdlab's by their full name, others by their first part."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else str(node.module) for name in inner]
        else:
            continue
        found |= {name if name.split(".")[0] == "kdlab" else name.split(".")[0] for name in names}
    return found - {"kdlab", module}


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (strongly connected components of more than one node)."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, rest = set(), list(graph[start])
        while rest:
            if (node := rest.pop()) not in seen:
                seen.add(node)
                rest += graph.get(node, ())
        reach[start] = seen
    groups = {frozenset({a, *(b for b in reach[a] if a in reach.get(b, ()))}) for a in graph if a in reach[a]}
    return sorted(sorted(group) for group in groups)


def test_the_table_has_every_package():
    folders = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert set(table()) == folders | {ROOT}
    assert len(FILES) > 190
    assert {name for packages, _ in table().values() for name in packages} <= set(table())


@pytest.mark.parametrize("package", sorted(table()))
def test_a_package_imports_what_the_table_allows(package):
    packages, libraries = table()[package]
    modules = [module for module in FILES if package_of(module) == package]
    assert modules
    for module in modules:
        for name in imported(module):
            if name.split(".")[0] == "kdlab":
                assert name in FREE or package_of(name) in packages | {package}, f"{module} imports {name}"
            else:
                assert name in libraries | set(sys.stdlib_module_names), f"{module} imports {name}"


def test_circles_are_found():
    assert circles({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a", "d"]}) == [["a", "b", "c"], ["d"]]
    assert circles({"a": ["b", "c"], "b": ["c"], "c": []}) == []


def test_no_circle_between_files():
    assert circles({module: imported(module) & FILES.keys() for module in FILES}) == []


def test_no_circle_between_packages():
    graph: dict[str, set[str]] = defaultdict(set)
    for module in FILES:
        for name in imported(module) & FILES.keys() - FREE:
            if package_of(name) != package_of(module):
                graph[package_of(module)].add(package_of(name))
    assert circles(graph) == []


def test_the_equations_work_with_torch_alone():
    code = (
        "import sys, torch\n"
        "from kdlab.methods.knowledge import logits\n"
        "from kdlab.methods.selection import policies, rewards, strategies\n"
        "from kdlab.types import Evidence\n"
        "print(strategies.entropy(Evidence(logits=torch.zeros(2, 4))).tolist())\n"
        "bad = {'transformers', 'datasets', 'pytorch_lightning', 'hydra', 'faiss', 'wandb'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[1.386")
