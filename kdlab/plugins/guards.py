"""Guards around the user's own code: what it raises, or returns in a wrong type or shape or with NaN, is one line.

`guarded` replaces what a configuration has built of a module of the user's own by the same thing with checked calls;
kdlab's own code stays as it is. NaN is the code's own fault only where its inputs are finite.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from kdlab.data.tasks.rows import LabelledRow, TaskData
from kdlab.errors import UserError, nearest
from kdlab.methods.marks import function_of, marks_of
from kdlab.methods.selection.strategy_state import has_state
from kdlab.plugins import own_modules, places
from kdlab.types import Evidence, Outputs, WeighingContext

Kind = Literal["strategy", "policy", "reward", "term", "adoption", "weighing", "rows", "text"]


_END = object()  # after the last document


class _Wrong(Exception):
    """A wrong result, in words that follow "returned"."""


@dataclass(frozen=True)
class Guard:
    """The facts that a guard goes by: `where` the configuration names it, its `kind`; the `arms` of a policy; `tolerant`: NaN passes."""

    where: str
    kind: Kind
    arms: Sequence[str] = ()
    tolerant: bool = False

    def call(self, function: Callable[..., Any], code: Any, check: Check | None, *args: Any, **kwargs: Any) -> Any:
        """The checked result of a call of `function`, which `code` defines; UserError with file and line."""
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            raise self.error(places.raised(error, self._is_own(code), code)) from error
        try:
            return result if check is None else check(self, code, result, *args, **kwargs)
        except _Wrong as wrong:
            raise self.error(f"{places.defined(code)} returned {wrong}") from None

    def error(self, text: str) -> UserError:
        """A UserError that begins with the place in the configuration."""
        return UserError(f"{self.where}: {text}")

    @staticmethod
    def _is_own(code: Any) -> Callable[[str], bool]:
        file = places.file_of(code)
        return lambda name: name == file or places.is_foreign(name)


# (guard, code, result, arguments of the call ...) -> the result; `_Wrong` for a wrong one
Check = Callable[..., Any]


def guarded(built: Any, guard: Guard) -> Any:
    """`built` with checked calls where it, or a member of it, is the user's own; classes that the run builds later stay.

    UserError for an object that lacks a method of its kind.
    """
    _guard_parts(built, guard)
    if not own_modules.is_own(function_of(built)):
        return built
    function = function_of(built)
    if guard.kind in METHODS and not isinstance(function, type):
        return _with_checked_methods(built, guard, METHODS[guard.kind])
    if isinstance(function, type) or not callable(built):
        return built
    check = CALLS.get(guard.kind)
    if inspect.isroutine(function) or function is not built:
        return _checked_function(built, guard, check)
    methods: dict[str, Check | None] = {"__call__": check}
    if isinstance(built, torch.nn.Module):
        methods["build"] = None
    if guard.kind == "strategy" and has_state(built):
        methods |= {"state_dict": _state, "load_state_dict": None}
    return _with_checked_methods(built, guard, methods, required=False)


def call_error(error: Exception, where: str, code: Any) -> UserError:
    """The UserError for what building `code` of the user's own at `where` has raised."""
    file = places.file_of(code)
    return UserError(f"{where}: {places.raised(error, lambda name: name == file or places.is_foreign(name), code)}")


def _guard_parts(built: Any, guard: Guard) -> None:
    """Guard, in place, the members of an ensemble of kdlab's, and the sources of a mixture."""
    members = getattr(built, "members", None)
    if guard.kind == "strategy" and isinstance(members, dict):
        members.update({name: guarded(member, guard) for name, member in members.items()})
    for source in getattr(built, "sources", ()) if guard.kind == "text" else ():
        guarded(source, guard)


def _checked_function(built: Callable[..., Any], guard: Guard, check: Check | None) -> Callable[..., Any]:
    code = function_of(built)

    def call(*args: Any, **kwargs: Any) -> Any:
        return guard.call(built, code, check, *args, **kwargs)

    functools.update_wrapper(call, code)  # its marks too, which a partial has not
    call.__wrapped__ = built  # pyright: ignore[reportFunctionMemberAccess]  # with the arguments that are set
    return call


def _with_checked_methods(built: Any, guard: Guard, methods: Mapping[str, Check | None], required: bool = True) -> Any:
    """The same object, of a subclass of its class that checks these methods."""
    base = type(built)
    for name in methods:
        if required and name not in OPTIONAL and not callable(getattr(built, name, None)):
            known = ", ".join(method for method in methods if method not in OPTIONAL)
            raise guard.error(f"{places.defined(base)} has no method {name}; expected: {known}")

    def method(name: str, check: Check | None) -> Any:
        inner = getattr(base, name)

        @functools.wraps(inner)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return guard.call(getattr(super(subclass, self), name), base, check, *args, **kwargs)

        return call

    checked = {name: method(name, check) for name, check in methods.items() if callable(getattr(base, name, None))}
    about = {"__slots__": (), "__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    subclass = type(base.__name__, (base,), {**about, **checked})
    object.__setattr__(built, "__class__", subclass)
    return built


# ---- results


def _tensor(result: Any, shapes: Iterable[tuple[int, ...]], of: str) -> Tensor:
    """`result` if it is a floating-point tensor of one of the shapes."""
    shapes = list(shapes)
    expected = " or ".join(str(shape) for shape in shapes)
    if not isinstance(result, Tensor):
        raise _Wrong(f"{_kind(result)}, not a tensor of shape {expected}: {of}")
    if tuple(result.shape) not in shapes:
        raise _Wrong(f"a tensor of shape {tuple(result.shape)}, not {expected}: {of}")
    if not result.is_floating_point():
        raise _Wrong(f"a tensor of {str(result.dtype).removeprefix('torch.')}, not of floating-point numbers: {of}")
    return result


def _refuse_nan(guard: Guard, result: Tensor, *inputs: Any, infinity: bool = False) -> None:
    """`_Wrong` for NaN (or `infinity`, which is refused too) from inputs that are finite."""
    bad = ~result.isfinite() if infinity else result.isnan()
    if guard.tolerant or not bool(bad.any()) or not all(_finite(one) for one in inputs):
        return
    what = "NaN" if bool(result.isnan().any()) else "infinity"
    raise _Wrong(f"{what} for {int(bad.sum())} of {bad.numel()} numbers, from inputs that are finite")


def _finite(value: Any) -> bool:
    """True if all tensors in an argument of a call are finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if is_dataclass(value) and not isinstance(value, type):
        return all(_finite(getattr(value, field.name)) for field in fields(value))
    return all(map(_finite, value)) if isinstance(value, list | tuple) else True


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of the type {type(value).__name__}"


def _scores(guard: Guard, code: Any, result: Any, evidence: Evidence) -> Tensor:
    scores = _tensor(result, [(len(evidence),)], "a score for each row")
    _refuse_nan(guard, scores, evidence)
    return scores


def _teacher_weights(guard: Guard, code: Any, result: Any, student: Tensor, teachers: Any, count: int) -> Tensor:
    weights = _tensor(result, [(len(student), count)], "a weight of each teacher for each row")
    _refuse_nan(guard, weights, student, teachers, infinity=True)
    if bool((weights < 0).any()):
        raise _Wrong("weights below 0")
    return weights


def _term_weights(guard: Guard, code: Any, result: Any, context: WeighingContext, terms: Sequence[str]) -> Tensor:
    whole = next(
        (one for one in (context.teacher_weights, context.uncertainty, context.student) if one is not None), None
    )
    shapes = [(len(terms),), *([] if whole is None else [(len(whole), len(terms))])]
    weights = _tensor(result, shapes, "a weight of each term, or of each term for each row")
    _refuse_nan(guard, weights, context, infinity=True)
    return weights


def _losses(guard: Guard, code: Any, result: Any, student: Outputs, teacher: Any = None) -> Tensor:
    on_logits = "logits" in marks_of(code).needs
    parts = (student.logits,) if on_logits else (student.mask, student.hidden, *(student.states or ()))
    count = next((len(part) for part in parts if part is not None), None)
    unit = "a number for each unit" if on_logits else "a number for each row"
    shape = (count,) if count is not None else tuple(getattr(result, "shape", (0,)))
    values = _tensor(result, [shape], unit)
    _refuse_nan(guard, values, student, teacher, infinity=True)
    learns = any(part is not None and part.requires_grad for part in parts)
    if learns and torch.is_grad_enabled() and not values.requires_grad:
        raise _Wrong("numbers without a gradient: the student learns nothing from them")
    return values


def _arm(guard: Guard, code: Any, result: Any, *given: Any, **named: Any) -> str:
    if not isinstance(result, str) or result not in guard.arms:
        found = (
            nearest(result, guard.arms) if isinstance(result, str) else f"an arm was expected: {', '.join(guard.arms)}"
        )
        raise _Wrong(f"{result!r}: {found}")
    return result


def _speed_and_reward(guard: Guard, code: Any, result: Any, *given: Any, **named: Any) -> Any:
    valid = isinstance(result, tuple) and len(result) == 2
    for number in result if valid else ():
        is_number = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
        valid = valid and (number is None or is_number)
    if not valid:
        raise _Wrong(f"{_cut(result)}, not a pair (speed, reward), each a finite number or None")
    return result


def _state(guard: Guard, code: Any, result: Any) -> dict[str, Any]:
    if not isinstance(result, dict) or not _plain(result):
        raise _Wrong(f"{_cut(result)}, not a dictionary of plain Python values and tensors, as a checkpoint takes them")
    return result


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_plain(key) and _plain(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(_plain, value))
    return value is None or isinstance(value, Tensor) or type(value) in (bool, int, float, str)


def _fingerprint(guard: Guard, code: Any, result: Any) -> str:
    """The fingerprint with that of the code: rows that other code has read are other rows."""
    if not isinstance(result, str) or not result:
        raise _Wrong(f"{_cut(result)}, not a text that identifies the rows")
    return f"{result} {own_modules.sha256_of_target(f'{code.__module__}.{code.__name__}')}"


def _size(guard: Guard, code: Any, result: Any) -> int | None:
    if result is not None and (type(result) is not int or result < 0):
        raise _Wrong(f"{_cut(result)}, not a number of bytes or None")
    return result


def _documents(guard: Guard, code: Any, result: Any) -> Iterator[str]:
    if isinstance(result, str) or not isinstance(result, Iterable):
        raise _Wrong(f"{_kind(result)}, not an iterator of texts")

    def stream() -> Iterator[str]:
        documents = iter(result)
        while True:
            document = guard.call(next, code, None, documents, _END)
            if document is _END:
                return
            if not isinstance(document, str):
                raise guard.error(f"{places.defined(code)} returned {_kind(document)} among its documents, not a text")
            yield document

    return stream()


def _rows(guard: Guard, code: Any, result: Any) -> TaskData:
    if not isinstance(result, TaskData):
        raise _Wrong(f"{_kind(result)}, not kdlab.data.tasks.rows.TaskData")
    for split in ("train", "dev"):
        if not result.splits.get(split):
            raise _Wrong(f"no rows of the split {split}; it has {', '.join(result.splits) or 'none'}")
    for split, rows in result.splits.items():
        for number, row in enumerate(rows):
            if not isinstance(row, LabelledRow):
                raise _Wrong(f"{_kind(row)} as row {number} of {split}, not a LabelledRow")
            _check_row(row, result, f"row {number} of {split}", split.startswith("test"))
    return result


def _check_row(row: LabelledRow, data: TaskData, place: str, hidden_allowed: bool) -> None:
    columns, labels = data.shape.columns, data.shape.labels
    texts_are = isinstance(row.texts, tuple) and all(isinstance(text, str) for text in row.texts)
    if not texts_are or len(row.texts) != columns:
        raise _Wrong(f"{place} with the texts {_cut(row.texts)}, not a tuple of {columns}")
    if row.label is None and hidden_allowed:
        return
    is_number = isinstance(row.label, int | float) and not isinstance(row.label, bool) and math.isfinite(row.label)
    if labels is None and not is_number:
        raise _Wrong(f"{place} with the label {_cut(row.label)}, not a finite number")
    if labels is not None and not (is_number and row.label in range(len(labels))):
        raise _Wrong(f"{place} with the label {_cut(row.label)}, not the index of one of {len(labels)} classes")


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


CALLS: dict[str, Check] = {
    "strategy": _scores, "term": _losses, "adoption": _teacher_weights, "weighing": _term_weights,
}  # fmt: skip
METHODS: dict[str, dict[str, Check | None]] = {
    "policy": {"choose": _arm, "learn": None, "state_dict": _state, "load_state_dict": None},
    "reward": {"observe": _speed_and_reward, "restart": None, "state_dict": _state, "load_state_dict": None},
    "rows": {"check": None, "fingerprint": _fingerprint, "read": _rows},
    "text": {"check": None, "fingerprint": _fingerprint, "documents": _documents, "size": _size},
}
OPTIONAL = ("learn",)  # of a policy
