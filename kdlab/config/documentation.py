"""The keys of the configuration with their types and documentation lines, read from the dataclasses.

A field's documentation is the string below it. Python drops these strings, so the source is parsed.
"""

from __future__ import annotations

import ast
import inspect
import sys
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from kdlab.config.field_types import group_in
from kdlab.config.schema import Config
from kdlab.ranges import Range

NAME = "NAME"  # stands for a key that the user names: knowledge.terms.NAME.weight


@dataclass(frozen=True)
class Key:
    """A dotted key: its type in words, its documentation line, the default in its dataclass `owner`, and its group's
    dataclass (None: a plain value)."""

    name: str
    type: str
    line: str
    default: Any = None
    group: type | None = None
    owner: type = Config

    @property
    def is_open(self) -> bool:
        """True where keys below are arguments of the code that a `_target_` names."""
        return self.type in ("any", "mapping") and self.group is None


@cache
def keys() -> dict[str, Key]:
    """Every key of the configuration by its dotted name, groups before the keys below them."""
    return {key.name: key for key in _below(Config, "")}


def _below(group: type, where: str) -> list[Key]:
    hints, lines, found = get_type_hints(group, include_extras=True), lines_of(group), []
    for field in fields(group):
        name, hint = f"{where}{field.name}", hints[field.name]
        inner = group_in(hint)
        found.append(Key(name, type_words(hint), lines.get(field.name, ""), _default(field), inner, group))
        if inner is not None:
            found += _below(inner, f"{name}.{NAME}." if get_origin(hint) is dict else f"{name}.")
    return found


def _default(field: Field[Any]) -> Any:
    value = field.default if field.default_factory is MISSING else field.default_factory()
    return {} if is_dataclass(value) else value


@cache
def lines_of(group: type) -> dict[str, str]:
    """The documentation line of each field of a dataclass that has one, by name; those of its bases included."""
    found: dict[str, str] = {}
    for base in reversed(group.__mro__):
        body = _classes(base.__module__).get(base.__name__, ())
        for statement, string in zip(body, body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and _is_string(string):
                found[statement.target.id] = string.value.value  # pyright: ignore[reportAttributeAccessIssue]
    return found


@cache
def _classes(module: str) -> dict[str, list[ast.stmt]]:
    """The statements of each top-level class of a module; none for a module without a source file."""
    if not module.startswith("kdlab."):
        return {}
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def type_words(hint: Any) -> str:
    """A type annotation in words: `list[Annotated[int, Range(1)]] | None` -> "list of int at least 1, or null"."""
    if get_origin(hint) is Annotated:
        base, *declared = get_args(hint)
        return " or ".join(f"{base.__name__} {_short(r)}" if isinstance(r, Range) else type_words(r) for r in declared)
    if get_origin(hint) in (Union, types.UnionType):
        inner = [one for one in get_args(hint) if one is not types.NoneType]
        null = ", or null" if len(inner) < len(get_args(hint)) else ""
        return f"{' or '.join(map(type_words, inner))}{null}"
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) in (list, Sequence):
        return f"list of {type_words(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return "mapping"
    if is_dataclass(hint):
        return "group"
    return "any" if hint is Any else hint.__name__


def _short(bounds: Range) -> str:
    """A range in words, with the largest number that needs no `confirm`: "at least 1 (over 1,000: confirm)"."""
    words = bounds.words(whole=False).removeprefix("a number").removeprefix(",").strip()
    return words if bounds.usual is None else f"{words} (over {bounds.usual:,.0f}: confirm)"
