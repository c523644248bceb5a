"""Arguments of the code that a configuration names (`_target_`), checked against the ranges that the code declares.

Terms, adoption and weighing rules, strategies, policies, rewards, row sources: all of kdlab's, and a user's own. This is
the one place where they are checked; `kdlab.ranges` says how a range is declared.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from hydra.utils import get_object

from kdlab import ranges
from kdlab.config import targets
from kdlab.errors import UserError, nearest
from kdlab.plugins import own_modules

# Arguments that the run gives itself: the inputs of rules and terms, and the sizes of the models
GIVEN = frozenset(
    ["arms", "context", "count", "evidence", "student", "student_width", "teacher", "teacher_widths", "teachers", "terms"]
)  # fmt: skip
HYDRAS = frozenset({"_target_", "_partial_", "_convert_", "_recursive_"})


@dataclass(frozen=True)
class Argument:
    """An argument that a configuration may set: its annotation, and its default (`inspect.Parameter.empty`: required)."""

    name: str
    hint: Any
    default: Any


def check(config: Any) -> None:
    """UserError for an argument of code in a checked configuration that is unknown or outside of its declared range.

    Imports the code, so torch, but neither builds nor reads anything.
    """
    for where, node in _named_code(config, ""):
        _check(where, node, config.confirm)


def arguments_of(target: str) -> dict[str, Argument]:
    """The arguments that a configuration may set of the function or class named `target`."""
    code = get_object(target)
    defaults = inspect.signature(code).parameters
    hints = {name: hint for name, hint in ranges.hints_of(code).items() if name not in GIVEN}
    return {name: Argument(name, hint, defaults[name].default) for name, hint in hints.items()}


def code_names() -> Iterator[str]:
    """The dotted names of all functions and classes that a configuration may name and that have arguments to write."""
    for module in targets.MODULES:
        for name in targets.public_names(module):
            target = f"kdlab.{module}.{name}"
            is_protocol = getattr(get_object(target), "_is_protocol", False)
            if not is_protocol and any(ranges.is_plain(argument.hint) for argument in arguments_of(target).values()):
                yield target


def _check(where: str, node: Mapping[str, Any], confirmed: Collection[str]) -> None:
    target = node["_target_"]
    known = arguments_of(target)
    for name, value in node.items():
        key = f"{where}.{name}"
        if name in HYDRAS:
            continue
        if name not in known and (name in GIVEN or not _is_open(target)):
            given = name in GIVEN and name in inspect.signature(get_object(target)).parameters
            found = "the run gives it itself" if given else nearest(name, known) if known else "it has none"
            raise UserError(
                f"{key}={ranges.shown(value)}: no argument of {target.rpartition('.')[2]} to set; {found}; "
                f"~{key} leaves it out"
            )
        if not any(True for _ in _named_code(value, "")):
            ranges.check(key, value, known[name].hint if name in known else Any, confirmed)


def _is_open(target: str) -> bool:
    """True for code that takes arguments of any name."""
    kinds = [parameter.kind for parameter in inspect.signature(get_object(target)).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def _named_code(node: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The mappings with a `_target_` of kdlab, or of the user's own code, in a configuration, at any depth, each with its dotted key."""
    if is_dataclass(node) and not isinstance(node, type):
        node = {field.name: getattr(node, field.name) for field in fields(node)}
    if isinstance(node, Mapping):
        target = str(node.get("_target_", ""))
        if target.startswith("kdlab.") or own_modules.of_target(target) is not None:
            yield where, node
        for key, value in node.items():
            yield from _named_code(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _named_code(value, f"{where}[{number}]")
