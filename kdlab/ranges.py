"""Ranges of settings: declared once, in type annotations, and checked by one function, `check`.

    def soft_loss(student: Outputs, teacher: Outputs, temperature: Positive = 1.0) -> Tensor: ...

Fields of the configuration and arguments of the code that it names (terms, rules, strategies, policies, rewards, row
sources; also a user's own) declare ranges alike: `Annotated[float, Range(0, 1)]`, or one of the names below; Literal for
words; unions, lists and mappings of these. A number without a declared range is refused, so that none goes unchecked.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from kdlab.errors import UserError, as_typed, nearest

Function = TypeVar("Function", bound=Callable[..., Any])

LARGEST_WHOLE = 2**63 - 1  # of an int64 tensor
LARGEST = sys.float_info.max
EXAMPLE = "Annotated[float, Range(0, 1)] of kdlab.ranges"


@dataclass(frozen=True)
class Range:
    """The valid numbers: finite ones from `low` to `high` (None: no bound), without the bound itself where `above` or
    `below`; whole ones where the annotated type is int. Numbers over `usual` are valid but must be confirmed."""

    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False
    usual: float | None = None

    def contains(self, value: Any, whole: bool) -> bool:
        """True for a valid number; NaN, infinity, a bool and a text are none."""
        if isinstance(value, bool) or not isinstance(value, numbers.Integral if whole else numbers.Real):
            return False
        number: Any = value
        low = self.low if self.low is not None else -(LARGEST_WHOLE if whole else LARGEST)
        high = self.high if self.high is not None else (LARGEST_WHOLE if whole else LARGEST)
        return (number > low if self.above else number >= low) and (number < high if self.below else number <= high)

    def words(self, whole: bool) -> str:
        """The range in words: "a number above 0", "a whole number, at least 1", "a number in (0, 1]"."""
        noun = "a whole number" if whole else "a number"
        if self.low is not None and self.high is not None:
            return f"{noun} in {'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"
        if self.low is not None:
            return f"{noun} above {self.low:g}" if self.above else f"{noun}, at least {self.low:g}"
        if self.high is not None:
            return f"{noun} below {self.high:g}" if self.below else f"{noun}, at most {self.high:g}"
        return noun if whole else "a finite number"


Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Temperature = Annotated[float, Range(1e-3, 1e3)]  # its square times a divergence is exact enough in float32
Probability = Annotated[float, Range(0, 1)]  # [0, 1]
Share = Annotated[float, Range(0, 1, above=True)]  # (0, 1]
BelowOne = Annotated[float, Range(0, 1, below=True)]  # [0, 1)
InnerShare = Annotated[float, Range(0, 1, above=True, below=True)]  # (0, 1)
# Beyond these, float32 overflows or an optimizer's step is 0
LearningRate = Annotated[float, Range(0, 1e30, above=True)]
Epsilon = Annotated[float, Range(1e-30, 1)]  # of a denominator
Weight = Annotated[float, Range(0, 1e6)]
Whole = Annotated[int, Range(0)]
Count = Annotated[int, Range(1)]
# Numbers that cost time or memory: more than any known use needs must be confirmed
Steps = Annotated[int, Range(1, usual=10_000_000)]  # of an optimizer: BERT's pre-training took 1,000,000
Epochs = Annotated[int, Range(1, usual=10_000)]
Rows = Annotated[int, Range(1, usual=1_000_000)]  # of a batch, or of a measurement that is repeated
Width = Annotated[int, Range(1, usual=100_000)]  # of layers
Processes = Annotated[int, Range(1, usual=1024)]
Layers = Count | InnerShare | list[Whole]  # a number of layers, a share of them, or a list of them, from 0


def check(name: str, value: Any, hint: Any, confirmed: Collection[str] = ()) -> None:
    """UserError unless `value` of the setting `name` is as the annotation `hint` declares.

    `confirmed`: names of settings whose unusually large value is meant.
    """
    if not fits(value, hint):
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        valid = nearest(value, choices) if choices and isinstance(value, str) else words(hint)
        if any(isinstance(number, int) and number > LARGEST_WHOLE for number in _numbers(value)):
            valid += f", at most {LARGEST_WHOLE:,}"
        raise UserError(f"{name}={shown(value)}: {valid}")
    most = _usual(hint)
    if most is not None and name not in confirmed and any(number > most for number in _numbers(value)):
        raise UserError(
            f"{name}={shown(value)}: more than {most:,.0f} is unusual and may never end; if it is meant, add "
            + as_typed(f"confirm=[{name}]")
        )


def fits(value: Any, hint: Any) -> bool:
    """True if `value` is as the annotation `hint` declares; any text or object for a hint that declares nothing."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        base, *declared = inner
        bounds = [one for one in declared if isinstance(one, Range)]
        if bounds:
            return all(bound.contains(value, base is int) for bound in bounds)
        return any(fits(value, form) for form in declared)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if _is_sequence(origin):
        return isinstance(value, list | tuple) and all(fits(item, inner[0]) for item in value)
    if _is_mapping(origin):
        return isinstance(value, Mapping) and all(fits(item, inner[1]) for item in value.values())
    if hint in (bool, str, None, types.NoneType):
        return isinstance(value, hint or types.NoneType)
    if hint in (int, float):
        return False
    return not any(True for _ in _numbers(value))


def words(hint: Any) -> str:
    """The valid values of an annotation in words: "uniform, skip or last, or a list, each a whole number, at least 1"."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        base, *declared = inner
        bounds = [one.words(base is int) for one in declared if isinstance(one, Range)]
        return " and ".join(bounds) if bounds else ", or ".join(map(words, declared))
    if origin in (Union, types.UnionType):
        return ", or ".join(words(one) for one in sorted(inner, key=lambda one: one is types.NoneType))
    if origin is Literal:
        return " or ".join(filter(None, [", ".join(map(str, inner[:-1])), str(inner[-1])]))
    if _is_sequence(origin):
        return f"a list, each {words(inner[0])}"
    if _is_mapping(origin):
        return f"a mapping, each {words(inner[1])}"
    named = {bool: "true or false", str: "a text", None: "null", types.NoneType: "null"}
    if hint in named:
        return named[hint]
    if hint in (int, float):
        return f"a number whose range the code does not declare: annotate it, for example {EXAMPLE}"
    return f"no number, since the code declares no range for one: annotate it, for example {EXAMPLE}"


def undeclared(hint: Any) -> bool:
    """True if an annotation has a number without a range anywhere."""
    if hint in (int, float):
        return True
    if get_origin(hint) is Annotated:
        base, *declared = get_args(hint)
        ranged = any(isinstance(one, Range) for one in declared)
        return not ranged and (undeclared(base) or any(undeclared(form) for form in declared))
    return get_origin(hint) is not Literal and any(undeclared(one) for one in get_args(hint))


def is_plain(hint: Any) -> bool:
    """True if a configuration can write every value of an annotation: texts, numbers, null, lists and mappings of them."""
    if get_origin(hint) in (Annotated, Literal) or hint in (bool, str, int, float, types.NoneType):
        return True
    origin, inner = get_origin(hint), [one for one in get_args(hint) if one is not Ellipsis]
    nested = origin in (Union, types.UnionType) or _is_sequence(origin) or _is_mapping(origin)
    return nested and all(map(is_plain, inner))


def hints_of(code: Callable[..., Any]) -> dict[str, Any]:
    """The annotation of each argument of a function, or of a class's constructor; Any where there is none to read."""
    function = code.__init__ if isinstance(code, type) else code
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # a name that exists for type checkers alone
        hints = {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(code).parameters.values()
    return {parameter.name: hints.get(parameter.name, Any) for parameter in parameters if parameter.kind in named}


def checked(function: Function) -> Function:
    """Check the arguments of each call against their declared ranges: for constructors, which Python code calls too."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        hints = hints_of(function)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if _declares(hints.get(name)):
                check(name, value, hints[name], confirmed=(name,))
        return function(*args, **kwargs)

    return typing.cast(Function, call)


def shown(value: Any, longest: int = 80) -> str:
    """A value as a message shows it, cut to `longest` characters."""
    try:
        text = "null" if value is None else f"{value}"
    except ValueError:  # more digits than Python converts
        text = "a number of thousands of digits"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _numbers(value: Any) -> typing.Iterator[Any]:
    """The numbers in a value and in its lists and mappings."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _numbers(item)


def _declares(hint: Any) -> bool:
    """True if an annotation has a range or a choice anywhere."""
    return get_origin(hint) in (Annotated, Literal) or any(map(_declares, get_args(hint)))


def _usual(hint: Any) -> float | None:
    """The largest number of an annotation that needs no confirmation; None without one."""
    if isinstance(hint, Range):
        return hint.usual
    inner = [] if get_origin(hint) is Literal else get_args(hint)
    return max((most for most in map(_usual, inner) if most is not None), default=None)


def _is_sequence(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Sequence) and origin is not str


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)
