"""Costs of a run: teacher queries, model FLOPs and seconds, exact over ranks and across resumes.

A ledger holds a *base*, the whole run's counts at the last collective call, and this rank's counts since. A
collective call (`totals`, `state_dict`) adds all ranks' counts to the base of each. A checkpoint is the base, so any
number of ranks may load it and nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.runtime import distributed

ALWAYS = -1  # the epoch of inputs that are the same in every epoch
MANY = 256  # queries whose rows are entered into a bit map together


@dataclass
class Queries:
    """Queries of one teacher: `total` rows, `cached` answers, `closed` distinct inputs of past epochs and trainings,
    `unkept` rows whose answers were read to choose among them and not trained on. `bitmaps[epoch]`: the rows queried in the
    current epoch, 8 to a byte; `unmarked`: epochs, and ids (k,), of rows that are not entered there yet (`mark`). `positions`
    of text, with a label, at which forwards have answered."""

    total: int = 0
    cached: int = 0
    closed: int = 0
    unkept: int = 0
    positions: int = 0
    bitmaps: dict[int, np.ndarray] = field(default_factory=dict)
    unmarked: list[tuple[int, np.ndarray]] = field(default_factory=list)

    def mark(self) -> None:
        """Enter the rows that are not entered yet into the bit maps, all at once: one by one takes far longer."""
        unmarked, self.unmarked = self.unmarked, []
        for epoch in {epoch for epoch, _ in unmarked}:
            ids = np.concatenate([ids for one, ids in unmarked if one == epoch])
            np.bitwise_or.at(self.bitmaps[epoch], ids >> 3, (1 << (ids & 7)).astype(np.uint8))

    def add(self, other: Queries) -> None:
        """Add the counts of `other`; rows queried by both count as one distinct row."""
        self.mark()
        other.mark()
        self.total += other.total
        self.cached += other.cached
        self.closed += other.closed
        self.unkept += other.unkept
        self.positions += other.positions
        for epoch, bits in other.bitmaps.items():
            self.bitmaps[epoch] = self.bitmaps[epoch] | bits if epoch in self.bitmaps else bits

    def close(self, everything: bool = False) -> None:
        """Replace the bit maps of past epochs by their counts; `everything`: of all epochs."""
        self.mark()
        for epoch in [e for e in self.bitmaps if everything or ALWAYS < e < max(self.bitmaps)]:
            self.closed += _ones(self.bitmaps.pop(epoch))

    def unique(self) -> int:
        """The number of distinct inputs queried."""
        self.mark()
        return self.closed + sum(_ones(bits) for bits in self.bitmaps.values())


@dataclass
class Counts:
    """Counts that add up over ranks: queries of each teacher, FLOPs of each part, all-data FLOPs, rows seen, and positions
    of text that were seen and kept."""

    teachers: dict[str, Queries] = field(default_factory=dict)
    flops: dict[str, int] = field(default_factory=dict)
    all_data: int = 0
    rows_seen: int = 0
    positions_seen: int = 0
    positions_kept: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of `other`."""
        for name, queries in other.teachers.items():
            self.teachers.setdefault(name, Queries()).add(queries)
        for part, amount in other.flops.items():
            self.flops[part] = self.flops.get(part, 0) + amount
        self.all_data += other.all_data
        self.rows_seen += other.rows_seen
        self.positions_seen += other.positions_seen
        self.positions_kept += other.positions_kept


class Ledger:
    """The costs of one run over a data set of `rows` rows.

    `fixed_inputs`: a row is the same input in every epoch (classification). Otherwise (dynamic masking) a row in
    another epoch is another input; a negative epoch marks inputs that stay the same (selector-evaluation rows).
    """

    def __init__(self, rows: int, fixed_inputs: bool = False) -> None:
        self.rows = rows
        self.fixed_inputs = fixed_inputs
        self._base = Counts()
        self._since = Counts()
        self._base_seconds: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._mark = 0.0

    def begin_training(self) -> None:
        """Begin another training in this ledger, as an episode of KSM is one (collective); its epochs start at 0.

        Fixed inputs are the same in all trainings. Others are new in each: it masks its rows with its own seed.
        """
        if self.fixed_inputs:
            return
        self._agree()
        for queries in self._base.teachers.values():
            queries.close(everything=True)

    def count_queries(self, teacher: str, rows: Tensor, epoch: int) -> None:
        """Count a forward of `teacher` on this rank for the rows with ids `rows` (k,) int64 of `epoch`.

        Epochs of one teacher never go back within a training (ValueError; `begin_training`): only the rows of the newest
        one are stored.
        """
        epoch = ALWAYS if self.fixed_inputs or epoch < 0 else epoch
        ids = np.array(rows.detach().cpu().numpy(), np.int64)
        if not len(ids):  # a row that only keeps an idle rank in step is no query
            return
        if ids.view(np.uint64).max() >= self.rows:  # a negative number is a very large one there
            raise ValueError(f"row ids {ids.min()} to {ids.max()} in a ledger of {self.rows} rows")
        queries = self._own(teacher)
        if (
            epoch not in queries.bitmaps or len(queries.bitmaps) > 1
        ):  # else it was compared when its first row was counted
            known = self._base.teachers.get(teacher, Queries())
            newest = max([*known.bitmaps, *queries.bitmaps], default=ALWAYS)
            if ALWAYS < epoch < newest:
                raise ValueError(f"teacher {teacher!r} was queried about epoch {epoch} after epoch {newest}")
            queries.bitmaps.setdefault(epoch, np.zeros((self.rows + 7) // 8, np.uint8))
        queries.unmarked.append((epoch, ids))
        queries.total += len(ids)
        if len(queries.unmarked) >= MANY:
            queries.mark()

    def _own(self, teacher: str) -> Queries:
        """This rank's queries of a teacher since the last collective call."""
        if teacher not in self._since.teachers:
            self._since.teachers[teacher] = Queries()
        return self._since.teachers[teacher]

    def count_cached(self, teacher: str, rows: Tensor) -> None:
        """Count cached answers of `teacher` for `rows` (k,): no forward was run, so these are no queries."""
        self._own(teacher).cached += len(rows)

    def count_unkept(self, teacher: str, rows: int) -> None:
        """Count `rows` rows whose answers of `teacher` selection has read, and which are not kept."""
        if rows:
            self._own(teacher).unkept += rows

    def count_positions(self, teacher: str, positions: int) -> None:
        """Count `positions` of text at which forwards of `teacher` have answered, on this rank."""
        if positions:
            self._own(teacher).positions += positions

    def count_kept_positions(self, positions: int) -> None:
        """Count `positions` of text that are trained on, on this rank."""
        self._since.positions_kept += positions

    def add_part(self, part: str, other: Ledger) -> None:
        """Add what this rank has counted in `other` as one part: its FLOPs, and its queries as those of teachers named
        `TEACHER (part)`, each row of which counts as a distinct input."""
        self.flops(part, sum(other._since.flops.values()))
        for name, queries in other._since.teachers.items():
            own = self._since.teachers.setdefault(f"{name} ({part})", Queries())
            own.total += queries.total
            own.closed += queries.total

    def flops(self, part: str, amount: float) -> None:
        """Count `amount` FLOPs of this rank for `part`; fractions are rounded, integers exact."""
        if part in ("total", "all_data"):
            raise ValueError(f"{part!r} is a sum of the ledger, not a part")
        self._since.flops[part] = self._since.flops.get(part, 0) + int(round(amount))

    def all_data(self, flops: float, rows: int, positions: int = 0) -> None:
        """Count `rows` rows offered to this rank, with `positions` labels in text, which would have cost all-data
        distillation `flops` FLOPs."""
        self._since.all_data += int(round(flops))
        self._since.rows_seen += rows
        self._since.positions_seen += positions

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Add the wall-clock seconds of the block to `part`, less those of timers inside it.

        There is no wait for the GPU: its work counts for the block that next needs the result.
        """
        self._lap()
        self._running.append(part)
        try:
            yield
        finally:
            self._lap()
            self._running.pop()

    def _lap(self) -> None:
        now = perf_counter()
        if self._running:
            part = self._running[-1]
            self._seconds[part] = self._seconds.get(part, 0.0) + now - self._mark
        self._mark = now

    def elapsed(self, part: str = "") -> float:
        """Seconds so far of `part`, or of all parts, on this rank (not collective), running timers included."""
        self._lap()
        since = self._seconds.get(part, 0.0) if part else sum(self._seconds.values(), 0.0)
        return self._base_seconds.get(part or "total", 0.0) + since

    def queries(self) -> int:
        """Queries so far (not collective): of all ranks up to the last collective call, of this rank since."""
        return _total(self._base) + _total(self._since)

    def total_queries(self) -> int:
        """Queries so far of all ranks (collective, cheap)."""
        return _total(self._base) + int(distributed.all_sum(torch.tensor(_total(self._since))))

    def so_far(self) -> dict[str, Any]:
        """Sums so far of all ranks (collective, without distinct inputs): "queries" of each teacher, "flops", "seconds"."""
        teachers: dict[str, int] = {name: one.total for name, one in sorted(self._base.teachers.items())}
        flops = sum(self._base.flops.values())
        own = {name: queries.total for name, queries in self._since.teachers.items()}
        for theirs, amount in distributed.gather_objects((own, sum(self._since.flops.values()))):
            flops += amount
            for name, count in sorted(theirs.items()):
                teachers[name] = teachers.get(name, 0) + count
        return {"queries": teachers, "flops": flops, "seconds": self._all_seconds()}

    def answered(self, parts: Collection[str]) -> tuple[int, dict[str, int]]:
        """FLOPs so far of these parts, and answers of each teacher, from a cache or not; of all ranks (collective)."""

        def counted(counts: Counts) -> tuple[int, dict[str, int]]:
            teachers = {name: one.total + one.cached for name, one in counts.teachers.items()}
            return sum(counts.flops.get(part, 0) for part in parts), teachers

        flops, answers = counted(self._base)
        for more, theirs in distributed.gather_objects(counted(self._since)):
            flops += more
            for name, count in theirs.items():
                answers[name] = answers.get(name, 0) + count
        return flops, dict(sorted(answers.items()))

    def totals(self) -> dict[str, Any]:
        """All counts so far of all ranks (collective).

        `teacher_queries`: `total` rows queried, `unique` distinct inputs among them, `cached` answers without a
        forward, and the same `per_teacher`; `unkept` rows whose answers were read to choose among them and which were not
        kept, where there are any. `flops`: each part, their `total`, and `all_data`. `seconds`: each part
        and their `total`, each the maximum over ranks. `rows_seen`: rows offered. `positions` of text with a label, where
        there are any: `seen` in these rows, `kept` for training, `queried`, at which teachers' forwards have answered.
        """
        self._agree()
        base = self._base
        per_teacher = {
            name: {"unique": queries.unique(), "total": queries.total, "cached": queries.cached}
            for name, queries in sorted(base.teachers.items())
        }
        queries = {key: sum(one[key] for one in per_teacher.values()) for key in ("unique", "total", "cached")}
        unkept = {"unkept": amount} if (amount := sum(one.unkept for one in base.teachers.values())) else {}
        return {
            "teacher_queries": {**queries, **unkept, "per_teacher": per_teacher},
            "flops": {
                **dict(sorted(base.flops.items())),
                "total": sum(base.flops.values()),
                "all_data": base.all_data,
            },
            "seconds": self._all_seconds(),
            "rows_seen": base.rows_seen,
            **self._positions(),
        }

    def _positions(self) -> dict[str, Any]:
        base, queried = self._base, sum(one.positions for one in self._base.teachers.values())
        if not base.positions_seen:
            return {}
        return {"positions": {"seen": base.positions_seen, "kept": base.positions_kept, "queried": queried}}

    def state_dict(self) -> dict[str, Any]:
        """The whole run's counts (collective), in types that load under weights_only=True."""
        self._agree()
        teachers = {
            name: {
                "total": queries.total,
                "cached": queries.cached,
                "closed": queries.closed,
                **({"unkept": queries.unkept} if queries.unkept else {}),
                **({"positions": queries.positions} if queries.positions else {}),
                "asked": {epoch: torch.from_numpy(bits.copy()) for epoch, bits in queries.bitmaps.items()},
            }
            for name, queries in self._base.teachers.items()
        }
        return {
            "rows": self.rows,
            "fixed_inputs": self.fixed_inputs,
            "teachers": teachers,
            "flops": dict(self._base.flops),
            "all_data": self._base.all_data,
            "rows_seen": self._base.rows_seen,
            "positions": {"seen": self._base.positions_seen, "kept": self._base.positions_kept},
            "seconds": self._all_seconds(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, the same on every rank; what was counted before is dropped.

        UserError if it was saved for other data.
        """
        if (state["rows"], state["fixed_inputs"]) != (self.rows, self.fixed_inputs):
            raise UserError(
                f"the checkpoint's ledger counts {state['rows']} rows (fixed inputs: {state['fixed_inputs']}), this "
                f"run's data has {self.rows} (fixed inputs: {self.fixed_inputs}): resume with the data of that run"
            )
        teachers = {
            name: Queries(
                saved["total"],
                saved["cached"],
                saved["closed"],
                saved.get("unkept", 0),
                saved.get("positions", 0),
                {int(epoch): bits.cpu().numpy().copy() for epoch, bits in saved["asked"].items()},
            )
            for name, saved in state["teachers"].items()
        }
        positions = state.get("positions", {"seen": 0, "kept": 0})  # checkpoints before 2026-11-30 have none
        self._base = Counts(
            teachers, dict(state["flops"]), state["all_data"], state["rows_seen"], positions["seen"], positions["kept"]
        )
        self._since = Counts()
        self._base_seconds, self._seconds = dict(state["seconds"]), {}
        self._mark = perf_counter()

    def _agree(self) -> None:
        """Add every rank's counts to the base of each rank."""
        since, self._since = self._since, Counts()
        for queries in since.teachers.values():
            queries.mark()  # what is sent to other ranks is short
        for counts in distributed.gather_objects(since):
            self._base.add(counts)
        for queries in self._base.teachers.values():
            queries.close()

    def _all_seconds(self) -> dict[str, float]:
        self._lap()
        local = {**self._seconds, "total": sum(self._seconds.values(), 0.0)}
        seconds = dict(self._base_seconds)
        slowest: dict[str, float] = {}
        for one in distributed.gather_objects(local):
            for part, spent in one.items():
                slowest[part] = max(slowest.get(part, 0.0), spent)
        for part, spent in slowest.items():
            seconds[part] = seconds.get(part, 0.0) + spent
        return seconds


def speedup(totals: dict[str, Any], all_data_seconds: float | None = None) -> dict[str, float | None]:
    """Factors by which a run was cheaper than all-data distillation over the same rows (one query a row).

    `totals` of a ledger; `all_data_seconds` the wall-clock seconds of all-data distillation, if measured.
    None if the divisor is 0.
    """
    return {
        "flops": _quotient(totals["flops"]["all_data"], totals["flops"]["total"]),
        "queries": _quotient(totals["rows_seen"], totals["teacher_queries"]["total"]),
        "wallclock": None
        if all_data_seconds is None
        else _quotient(all_data_seconds, totals["seconds"].get("total", 0.0)),
    }


def _quotient(dividend: float, divisor: float) -> float | None:
    return dividend / divisor if divisor else None


def _total(counts: Counts) -> int:
    return sum(queries.total for queries in counts.teachers.values())


def _ones(bits: np.ndarray) -> int:
    return int(np.unpackbits(bits).sum(dtype=np.int64))
