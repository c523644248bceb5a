"""The schema of the result.json of a finished run, checked once by every command that reads one.

A key that the schema lacks is not read by any command. Only what every version of kdlab has written is required.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kdlab.models.head import HEADS, STAGE_HEADS

LARGEST = 1e30  # beyond all counts and scores; sums and squares of such numbers are floats
LONGEST = 4096  # characters of a text: those of a path


@dataclass(frozen=True)
class Kind:
    """The values that may stand at a place: `fits` tests one, `says` names them in a message."""

    says: str
    fits: Callable[[Any], bool]

    def __or__(self, other: Kind) -> Kind:
        return Kind(f"{self.says} or {other.says}", lambda value: self.fits(value) or other.fits(value))


@dataclass(frozen=True)
class Keys:
    """A mapping: `required` and `optional` keys, and the kind of all `others` (None: not read)."""

    required: Mapping[str, Spec]
    optional: Mapping[str, Spec] | None = None
    others: Spec | None = None
    nullable: bool = False


@dataclass(frozen=True)
class ListOf:
    """A list whose items are all of one kind."""

    item: Spec


Spec = Kind | Keys | ListOf


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _whole(value: Any) -> bool:
    return _number(value) and value >= 0 and (isinstance(value, int) or value.is_integer())


def _score(value: Any) -> bool:
    # a diverged student scores NaN: comparisons leave it out by the metric that they compare
    return _number(value) or (isinstance(value, float) and not math.isfinite(value))


def _text(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > LONGEST:
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _one_of(*values: str) -> Kind:
    return Kind(" or ".join(values), lambda value: isinstance(value, str) and value in values)


NULL = Kind("null", lambda value: value is None)
NUMBER = Kind("a number", _number)
AMOUNT = Kind("a number of at least 0", lambda value: _number(value) and value >= 0)
COUNT = Kind("a count", _whole)
SEED = Kind("a whole number", lambda value: type(value) is int and 0 <= value < LARGEST)
SHARE = Kind("a share in (0, 1]", lambda value: _number(value) and 0 < value <= 1)
SCORE = Kind("a score", _score)
TEXT = Kind(f"a text of UTF-8 with at most {LONGEST:,} characters", _text)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
LAYERS = Kind(
    "layers", lambda value: _whole(value) or _text(value) or (isinstance(value, list) and all(map(_whole, value)))
)

_COST = {name: AMOUNT | NULL for name in ("queries", "cached", "flops", "seconds", "steps")}
_QUERIES = {name: COUNT for name in ("unique", "cached")}
SCHEMA = Keys(
    required={
        "status": _one_of("finished"),
        "seed": SEED,
        "select": Keys({"name": TEXT, "ratio": SHARE}),
        "data": Keys(
            {},
            {
                "source": TEXT | NULL,
                "path": TEXT | NULL,
                "task": TEXT | NULL,
                "fingerprint": TEXT | NULL,
                "splits": Keys({}, others=Keys({}, {"rows": COUNT}), nullable=True),
            },
        ),
        "metrics": Keys({"student": Keys({}, others=SCORE | NULL)}, others=Keys({}, others=SCORE | NULL)),
        "ledger": Keys(
            {
                "teacher_queries": Keys(
                    {"total": COUNT}, {**_QUERIES, "per_teacher": Keys({}, others=Keys({}, others=COUNT))}
                ),
                "flops": Keys({"total": AMOUNT}, others=AMOUNT),
                "seconds": Keys({}, others=NUMBER | NULL),
            },
            {"rows_seen": COUNT, "speedup": Keys({}, others=AMOUNT | NULL, nullable=True)},
        ),
    },
    optional={
        "name": TEXT,
        "scale": TEXT,
        "stage": _one_of(*STAGE_HEADS),
        "head": _one_of(*HEADS),
        "steps": COUNT,
        "knowledge": TEXT,
        "adopt": TEXT | NULL,
        "policy": Keys({}, {"name": TEXT, "reward_data": TEXT | NULL}, nullable=True),
        "preparation": ListOf(Keys({"what": TEXT}, {"made_now": FLAG, "baseline": FLAG, **_COST})),
        "teacher": Keys({}, {"name": TEXT | NULL, "sha256": TEXT | NULL, "layers": COUNT | NULL}, nullable=True),
        "teachers": ListOf(Keys({}, {"name": TEXT, "layers": COUNT | NULL, "made_of": TEXT | NULL})),
        "student": Keys({}, {"layers": LAYERS | NULL, "made_of": TEXT | NULL, "parameters": COUNT}),
        "versions": Keys({}, others=TEXT | NULL),
        "command": ListOf(TEXT),
        "devices": Keys({}, {"world": COUNT, "kind": TEXT, "precision": TEXT}),
        "artifacts": ListOf(TEXT),
        "warnings": ListOf(TEXT),
    },
)


def fault(result: Any) -> str:
    """The first place where a result is not as a run writes it, and the kind of value expected; "" if there is none."""
    found = _fault(result, SCHEMA, "")
    if found:
        return found
    data = result["data"]
    return "" if any(data.get(key) for key in ("task", "path", "source")) else "data names no task, path or source"


def inside(node: Any, name: str) -> Any:
    """The value at a dotted name; None if it is absent."""
    for part in name.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _fault(value: Any, spec: Spec, where: str) -> str:
    if isinstance(spec, Kind):
        return "" if spec.fits(value) else f"{where} is {_shown(value)}, not {spec.says}"
    if isinstance(spec, ListOf):
        if not isinstance(value, list):
            return f"{where} is {_shown(value)}, not a list"
        return next((said for i, one in enumerate(value) if (said := _fault(one, spec.item, f"{where}[{i}]"))), "")
    if value is None and spec.nullable:
        return ""
    if not isinstance(value, dict):
        return f"{where or 'it'} is {_shown(value)}, not a mapping"
    if lacking := [key for key in spec.required if key not in value]:
        return f"{where + ' has' if where else 'it has'} no {' and no '.join(sorted(lacking))}"
    known = {**spec.required, **(spec.optional or {})}
    for key, one in value.items():
        inner = known.get(key, spec.others)
        place = f"{where}.{key}" if where else key
        if inner is not None and not _text(key):
            return f"{where} has the key {_shown(key)}, which is not {TEXT.says}"
        if inner is not None and (said := _fault(one, inner, place)):
            return said
    return ""


def _shown(value: Any) -> str:
    if isinstance(value, str) and len(value) > 40:
        return f"{value[:30]!r}... ({len(value):,} characters)"
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value):,}"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:30]}... ({len(text):,} digits)"
