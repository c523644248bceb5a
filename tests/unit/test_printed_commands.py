"""No place but kdlab.config.quoting and kdlab.errors builds a command with values: these would lack a shell's quotes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

KDLAB = Path(__file__).parents[2] / "kdlab"
NAMES = sorted(file.stem for file in KDLAB.glob("*.py") if not file.stem.startswith("_"))
COMMAND = re.compile(rf"python -m kdlab|\bkdlab (?:{'|'.join(NAMES)})(?: |$)|pip install |uv (?:add|pip) ")
QUOTING = {"as_typed", "command", "install"}  # functions that quote for a shell
BUILDERS = {"config/quoting.py"}


def unquoted(source: str) -> list[int]:
    """Lines of the expressions that put a value into a command without quoting it for a shell."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.expr) and _builds(node)]


def _builds(node: ast.expr) -> bool:
    if isinstance(node, ast.JoinedStr):
        begun = False
        for part in node.values:
            if isinstance(part, ast.Constant):
                begun = begun or COMMAND.search(str(part.value)) is not None
            elif begun and isinstance(part, ast.FormattedValue) and not _quotes(part.value):
                return True
        return False
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
        return (
            _starts(node.left) and not isinstance(node.right, ast.Constant | ast.JoinedStr) and not _quotes(node.right)
        )
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("format", "join"):
        if node.func.attr == "join" and not (
            isinstance(node.func.value, ast.Constant) and node.func.value.value == " "
        ):
            return False  # lines or clauses, no words of a command
        listed = [one for given in node.args for one in getattr(given, "elts", ())]
        values = [
            one for one in listed if not isinstance(one, ast.Constant) and not _quotes(getattr(one, "value", one))
        ]
        words = " ".join(str(one.value) for one in listed if isinstance(one, ast.Constant))
        return _starts(node.func.value) or bool(values and COMMAND.search(words))
    return False


def _starts(node: ast.expr) -> bool:
    texts = [str(one.value) for one in ast.walk(node) if isinstance(one, ast.Constant)]
    return any(COMMAND.search(text) for text in texts)


def _quotes(node: ast.expr) -> bool:
    name = node.func if isinstance(node, ast.Call) else None
    return getattr(name, "attr", getattr(name, "id", "")) in QUOTING


@pytest.mark.parametrize(
    "source",
    [
        'f"next: python -m kdlab.run {overrides}"',
        'f"kdlab compare {folder}"',
        '"python -m kdlab.report " + str(folder)',
        '"python -m kdlab.report %s" % folder',
        '"kdlab export {}".format(folder)',
        '" ".join(["python", "-m", "kdlab.run", *given])'.replace(
            '"python", "-m", "kdlab.run"', '"python -m kdlab.run"'
        ),
        'f"pip install {name}"',
    ],
)
def test_a_value_without_quotes_is_found(source):
    assert unquoted(source) == [1]


@pytest.mark.parametrize(
    "source",
    [
        'f"{n} runs; next: python -m kdlab.report RUN"',
        'f"pip install {as_typed(name)}"',
        '"kdlab run " "--help"',
        'f"kdlab {version}"',
    ],
)
def test_quoted_values_and_plain_commands_are_none(source):
    assert unquoted(source) == []


def test_no_command_is_built_by_hand():
    files = {str(file.relative_to(KDLAB)): file.read_text(encoding="utf-8") for file in sorted(KDLAB.rglob("*.py"))}
    found = {name: lines for name, text in files.items() if name not in BUILDERS and (lines := unquoted(text))}
    assert found == {}
    assert any("quoting.command(" in text for text in files.values())
