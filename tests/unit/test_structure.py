"""Structure of the package: files per folder, lengths of functions, first lines of docstrings, names of classes."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import kdlab

PACKAGE = Path(kdlab.__file__).parent
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Lightning and torch document these, or their names do
HOOKS = re.compile(r"on_\w+|\w+_step|configure_\w+|(load_)?state_dict|state_key|forward|setup|\w+_dataloader")


@cache
def trees() -> dict[Path, Any]:
    """Each module of the package, parsed."""
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(PACKAGE.rglob("*.py"))}


@cache
def nodes() -> list[tuple[Path, Any]]:
    """Each node of each module, with the module's file."""
    return [(file, node) for file, tree in trees().items() for node in ast.walk(tree)]


def test_folders_are_small_enough_to_read():
    assert len(trees()) > 200
    files = Counter(file.parent for file in trees())
    assert files[PACKAGE] <= 14
    assert max(files.values()) <= 20, files.most_common(1)


def test_functions_are_at_most_60_lines():
    lengths = {
        (file.name, n.name): (n.end_lineno or 0) - n.lineno + 1 for file, n in nodes() if isinstance(n, FUNCTIONS)
    }
    assert len(lengths) > 1000
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_docstrings_begin_with_a_verb_or_a_noun():
    documented = [
        (file.name, text.splitlines()[0])
        for file, n in nodes()
        if isinstance(n, (*FUNCTIONS, ast.ClassDef, ast.Module)) and (text := ast.get_docstring(n))
    ]
    assert len(documented) > 1000
    questions = re.compile(r"(What|Which|Whether|How|Where|Whose|Who)\b")
    assert [(name, line) for name, line in documented if questions.match(line)] == []


def test_no_two_classes_share_a_name():
    names = Counter(n.name for _, n in nodes() if isinstance(n, ast.ClassDef) and not n.name.startswith("_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_public_functions_and_classes_are_documented():
    """Methods may leave it to the base class or protocol of kdlab that documents the same name."""
    documented = {
        member.name
        for _, n in nodes()
        if isinstance(n, ast.ClassDef)
        for member in n.body
        if isinstance(member, FUNCTIONS) and ast.get_docstring(member)
    }
    missing = []
    for file, tree in trees().items():
        for n in tree.body:
            if not isinstance(n, (*FUNCTIONS, ast.ClassDef)) or n.name.startswith("_"):
                continue
            if not ast.get_docstring(n):
                missing.append(f"{file.name}: {n.name}")
            for member in n.body if isinstance(n, ast.ClassDef) else ():
                public = isinstance(member, FUNCTIONS) and not member.name.startswith("_")
                if public and not ast.get_docstring(member) and not HOOKS.fullmatch(member.name):
                    missing += [] if member.name in documented else [f"{file.name}: {n.name}.{member.name}"]
    assert missing == []
