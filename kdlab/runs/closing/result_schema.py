"""The schema of the result.json of a finished run, checked once by every command that reads one.

A key that the schema lacks is not read by any command. Only what every version of kdlab has written is required: other
fields have a default, so that a run may lack them. A field is null only where its type names None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import ErrorDetails, PydanticCustomError

from kdlab.errors import one_line
from kdlab.models.head import HEADS, STAGE_HEADS
from kdlab.storage.escaping import shortened

T = TypeVar("T")
LARGEST = 1e30  # beyond all counts and scores; sums and squares of such numbers are floats
LONGEST = 4096  # characters of a text: those of a path


def _is(expected: str, test: Callable[[Any], bool]) -> AfterValidator:
    def check(value: Any) -> Any:
        if not test(value):
            raise PydanticCustomError("kind", "Input should be {expected}", {"expected": expected})
        return value

    return AfterValidator(check)


def _one_of(names: Collection[str]) -> AfterValidator:
    return _is(" or ".join(names), lambda value: value in names)


def _layers(value: Any, check: Callable[[Any], Any]) -> Any:
    """Check with one error for all members of the union."""
    try:
        return check(value)
    except ValidationError as error:
        raise PydanticCustomError("layers", "Input should be a count, a list of counts or a text") from error


Text = Annotated[str, Field(max_length=LONGEST)]  # pydantic refuses what is not UTF-8
Number = Annotated[float, Field(gt=-LARGEST, lt=LARGEST, allow_inf_nan=False)]
Amount = Annotated[Number, Field(ge=0)]
Count = Annotated[Amount, _is("a whole number", float.is_integer)]
Seed = Annotated[int, Field(ge=0, lt=int(LARGEST))]
Share = Annotated[float, Field(gt=0, le=1)]
# a diverged student scores NaN: comparisons leave it out by the metric that they compare
Score = Annotated[float, _is("a score", lambda value: abs(value) < LARGEST or not math.isfinite(value))]
ListOf = Annotated[list[T], Field(fail_fast=True)]  # of a million faults only the first is named
Scores = dict[Text, Score | None]
Layers = Annotated[Count | Text | ListOf[Count], WrapValidator(_layers)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, defer_build=True)


class _Select(_Part):
    name: Text
    ratio: Share
    unit: Text = "row"
    per_row: bool = True
    positions: Share | None = None


class _Split(_Part):
    rows: Count = 0


class _Shape(_Part):
    metrics: ListOf[Text] = []


class _Data(_Part):
    name: Text | None = None
    source: Text | None = None
    path: Text | None = None
    task: Text | None = None
    fingerprint: Text | None = None
    max_length: Count | None = None
    label_values: ListOf[Text] | None = None
    splits: dict[Text, _Split] | None = None
    shape: _Shape | None = None
    metric: Text | None = None


class _Metrics(_Part, extra="allow"):
    student: Scores
    __pydantic_extra__: dict[Text, Scores]


class _Details(_Part, extra="allow"):
    interval: Annotated[ListOf[Score], Field(min_length=2, max_length=2)]
    classes: dict[Text, dict[Text, Score]] = {}
    __pydantic_extra__: dict[Text, Score]


class _TeacherQueries(_Part):
    total: Count
    unique: Count = 0
    cached: Count = 0
    per_teacher: dict[Text, dict[Text, Count]] = {}


class _Flops(_Part, extra="allow"):
    total: Amount
    __pydantic_extra__: dict[Text, Amount]


class _Ledger(_Part):
    teacher_queries: _TeacherQueries
    flops: _Flops
    seconds: dict[Text, Number | None]
    rows_seen: Count = 0
    positions: dict[Text, Count] | None = None
    speedup: dict[Text, Amount | None] | None = None


class _Policy(_Part):
    name: Text = ""
    reward_data: Text | None = None


class _Preparation(_Part):
    what: Text
    made_now: bool = False
    baseline: bool = False
    queries: Amount | None = None
    cached: Amount | None = None
    flops: Amount | None = None
    seconds: Amount | None = None
    steps: Amount | None = None


class _Teacher(_Part):
    name: Text | None = None
    sha256: Text | None = None
    layers: Count | None = None


class _OneOfTeachers(_Part):
    name: Text = ""
    layers: Count | None = None
    made_of: Text | None = None


class _Student(_Part):
    layers: Layers | None = None
    hidden: Count | None = None
    made_of: Text | None = None
    parameters: Count = 0


class _Size(_Part):
    parameters: Count
    without_embeddings: Count
    megabytes: Amount | None = None
    milliseconds: dict[Text, Amount] = {}


class _Devices(_Part):
    world: Count = 0
    kind: Text = ""
    precision: Text = ""
    name: Text = ""
    threads: Count | None = None


class _Caveat(_Part):
    kind: Text
    text: Text


class _Code(_Part):
    module: Text
    sha256: Text
    file: Text | None = None
    version: Text | None = None


class _Observation(_Part):
    interval: Count
    rows: Count
    share: Amount
    rewards: Count


class _Collapsed(_Part):
    what: Text = ""
    step: Count
    value: Score
    bound: Number
    text: Text = ""


class _Budget(_Part):
    asked: dict[Text, Amount] = {}
    planned: dict[Text, Amount] = {}
    spent: dict[Text, Amount] = {}
    rates: dict[Text, Amount | None] = {}
    preparation: bool = False
    ended_by: Text = ""


class _Plan(_Part):
    steps: dict[Text, Count] = {}
    forecast: dict[Text, Amount] = {}
    real: dict[Text, Amount] = {}


class _Saved(_Part):
    queries: Amount | None = None
    flops: Amount | None = None
    wallclock: Amount | None = None
    pays_from_run: Count | Literal["never"] | None = None


class _Result(_Part):
    status: Literal["finished"]
    seed: Seed
    select: _Select
    data: _Data
    metrics: _Metrics
    ledger: _Ledger
    name: Text = ""
    scale: Text = ""
    stage: Annotated[str, _one_of(STAGE_HEADS)] = ""
    head: Annotated[str, _one_of(HEADS)] = ""
    steps: Count = 0
    knowledge: Text = ""
    adopt: Text | None = None
    policy: _Policy | None = None
    preparation: ListOf[_Preparation] = []
    saved_with_preparation: _Saved | None = None
    teacher: _Teacher | None = None
    teachers: ListOf[_OneOfTeachers] = []
    student: _Student = Field(default_factory=_Student)
    versions: dict[Text, Text | None] = {}
    git: Text | None = None
    date: Text = ""
    command: ListOf[Text] = []
    budget: _Budget | None = None
    plan: _Plan | None = None
    devices: _Devices = Field(default_factory=_Devices)
    size: dict[Text, _Size] = {}
    artifacts: ListOf[Text] = []
    warnings: ListOf[Text] = []
    removed: ListOf[Text] = []
    caveats: ListOf[_Caveat] = []
    observation: _Observation | None = None
    collapsed: _Collapsed | None = None
    code: ListOf[_Code] = []
    test: _Metrics | None = None
    scores: dict[Text, dict[Text, _Details]] = {}


def fault(result: Any) -> str:
    """The first place where a result is not as a run writes it, its value, and the kind of value expected; "" if none."""
    try:
        data = _Result.model_validate(result).data
    except ValidationError as error:
        return _said(error.errors(include_url=False))
    return "" if data.task or data.path or data.source else "data names no task, path or source"


def _said(errors: list[ErrorDetails]) -> str:
    """One line on the first error; all that the same mapping lacks counts as one."""
    *parent, last = errors[0]["loc"] or ("",)
    if errors[0]["type"] == "missing":
        lacking = sorted(str(e["loc"][-1]) for e in errors if e["type"] == "missing" and [*e["loc"][:-1]] == parent)
        return f"{_place(parent)} has no {' and no '.join(lacking)}"
    mapping = errors[0]["type"] in ("model_type", "dict_type")  # pydantic's own message names a class of this file
    said = "Input should be a mapping" if mapping else errors[0]["msg"]
    return f"{_place([*parent, last])} is {_shown(errors[0]['input'])}: {said}"


def _place(parts: list[int | str]) -> str:
    names = (f"[{part}]" if isinstance(part, int) else f".{shortened(one_line(part), 60)}" for part in parts)
    return "".join(names).removeprefix(".") or "it"


def _shown(value: Any) -> str:
    if isinstance(value, str) and len(value) > 40:
        return f"{value[:30]!r}... ({len(value):,} characters)"
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value):,}"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:30]}... ({len(text):,} digits)"
