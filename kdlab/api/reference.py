"""docs/api.md: every public name of kdlab with its signature and docstring. `python -m kdlab.api.reference` writes it."""

from __future__ import annotations

import inspect
import sys
import types
from pathlib import Path
from typing import Any

import kdlab
from kdlab.storage.files import atomic_write_text

PAGE = Path(kdlab.__file__).resolve().parent.parent / "docs" / "api.md"
# the sections of the page and their names, in the order of reading
SECTIONS = {
    "Runs": ("distill", "Result", "UserError"),
    "Selection in any training loop": ("Selector", "Select", "SelectableModule", "take_rows", "Evidence"),
    "Modules and data for a Lightning trainer": (
        "StudentModule",
        "Teacher",
        "Encoder",
        "student_from",
        "WeightedTerm",
        "OptimizerSettings",
        "TaskScore",
        "task_data",
        "GLUEDataModule",
        "CorpusDataModule",
        "CausalDataModule",
        "Batch",
        "TeacherModule",
        "AssistantModule",
        "Adopt",
        "Weigh",
        "ArmSelector",
        "LossObserver",
    ),
    "Equations": ("strategies", "policies", "rewards", "adoption", "weighing", "terms"),
}
HEAD = """# The API

Every public name of `kdlab`; [From Python](python.md) shows them at work. Letters in shapes, everywhere: B rows of a batch, k rows kept,
L tokens of a row, U units (where a row makes a prediction), P units of one row at most, C classes (or the vocabulary), H hidden size,
T teachers, M terms. Losses and entropies are in nats, scores and shares in [0, 1], costs in rows (queries), FLOPs and seconds. The
sources of the equations are on the [cards](methods/README.md) as well. `python -m kdlab.api.reference` writes this page.
"""


def page() -> str:
    """The Markdown of the page."""
    parts = [HEAD]
    for title, names in SECTIONS.items():
        parts.append(f"## {title}\n")
        for name in names:
            value = getattr(kdlab, name)
            parts += _module(name, value) if isinstance(value, types.ModuleType) else _entry(name, value)
    return "\n".join(parts)


def equations(module: types.ModuleType) -> dict[str, Any]:
    """The public functions and classes of a module of equations, by name, in the order of the file (or of its __all__)."""
    listed = getattr(module, "__all__", None)
    own = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and (value.__module__ == module.__name__ if listed is None else name in listed)
    }
    return own if listed is None else {name: own[name] for name in listed}


def _module(name: str, module: types.ModuleType) -> list[str]:
    parts = [f"### kdlab.{name}\n", f"{_prose(module)}\n"]
    for one, value in equations(module).items():
        parts += _entry(f"{name}.{one}", value, "####", members=False)
    return parts


def _entry(name: str, value: Any, level: str = "###", members: bool = True) -> list[str]:
    parts = [f"{level} kdlab.{name}\n"]
    if not (inspect.isclass(value) and (issubclass(value, BaseException) or getattr(value, "_is_protocol", False))):
        parts.append(f"```python\n{name}{_signature(value)}\n```\n")
    parts.append(f"{_prose(value)}\n")
    public = {
        member: function
        for member, function in (vars(value).items() if members and inspect.isclass(value) else ())
        if not member.startswith("_") and getattr(function, "__doc__", None) and not isinstance(function, type)
        and (inspect.isfunction(function) or isinstance(function, property) or hasattr(function, "func"))
    }  # fmt: skip
    for member, function in public.items():
        code = function.fget if isinstance(function, property) else getattr(function, "func", function)
        call = _signature(code, bound=True) if inspect.isfunction(function) else ""
        parts.append(f"- `{member}{call}`: {' '.join(inspect.cleandoc(code.__doc__ or '').split())}")
    return [*parts, ""] if public else parts


def _signature(value: Any, bound: bool = False) -> str:
    """The signature of a callable as its source has it; functions as defaults by their names."""
    signature = inspect.signature(value)
    words, star = [], False
    for parameter in list(signature.parameters.values())[1 if bound else 0 :]:
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            words.append("*")
        star = star or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        text = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "") + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {_annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {_default(parameter.default)}"
        words.append(text)
    returned = signature.return_annotation
    no_result = returned is signature.empty or inspect.isclass(value)
    return f"({', '.join(words)})" + ("" if no_result else f" -> {_annotation(returned)}")


def _annotation(given: Any) -> str:
    return given if isinstance(given, str) else getattr(given, "__name__", str(given))


def _default(given: Any) -> str:
    if not callable(given):
        return repr(given)
    return "..." if given.__name__ == "<lambda>" else given.__name__


def _prose(value: Any) -> str:
    """A docstring as Markdown: its code stays a block, the angle brackets of a placeholder stay text."""
    return inspect.cleandoc(value.__doc__ or "").replace("<", "&lt;")


def main() -> int:
    """Write the page; returns the exit code 0."""
    atomic_write_text(PAGE, page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
