"""Collapse of a classifier: it predicts no better than the majority class, or its loss on labels stays above log C."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdlab.data.tasks.metrics import hardly_better
from kdlab.methods.knowledge.logits import label_loss
from kdlab.methods.marks import function_of
from kdlab.modules.objective import WeightedTerm
from kdlab.plotting.run_tables import rows_of
from kdlab.runtime.caveats import print_aside

LATE = 0.5  # share of the training from which a student that has never been above the majority class has collapsed
STAYS = 0.25  # share of the training for which a loss above log C stays there


@dataclass(frozen=True)
class Collapse:
    """`what` "score" or "loss" collapsed, from `step` on; its `value` there, and the `bound` that it should have passed."""

    what: str
    step: int
    value: float
    bound: float

    @property
    def text(self) -> str:
        """One line."""
        if self.what == "score":
            return (
                f"the student has collapsed: at step {self.step} its held-out score {self.value:.3f} is no better than "
                f"always answering the majority class ({self.bound:.3f})"
            )
        return (
            f"the student has collapsed: since step {self.step} its loss on labels, {self.value:.3f}, stays above that of a "
            f"uniform guess, log C = {self.bound:.3f}, and its held-out score is hardly better than the majority class"
        )


@dataclass
class CollapseWatch:
    """Notices a collapse from the lines of metrics.csv, as they are written, and prints it once.

    `majority`: the score of the majority class; `classes` C; `steps` of the whole training; `terms`: its knowledge terms;
    `table`: metrics.csv, whose earlier lines an interrupted run has written.

    Score: at an evaluation after the first step it is not above `majority`, and has been before, or `LATE` of the training
    is done. Loss: the mean of a term on labels is above log C in every line for `STAYS` of the training, and the last
    score is hardly better than the majority class: a strategy that keeps the hardest rows trains above log C by design.
    """

    majority: float
    classes: int
    steps: int
    terms: Mapping[str, WeightedTerm]
    table: Path
    rows: list[Mapping[str, Any]] | None = None
    noticed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        labels = [name for name, w in self.terms.items() if function_of(w.term) is label_loss]
        self._label = f"train_{labels[0]}" if labels else ""

    def see(self, row: Mapping[str, Any]) -> None:
        """Take a line of metrics.csv."""
        if self.rows is None:
            self.rows = [one for one in rows_of(self.table, ("step",)) if float(one["step"]) < float(row["step"])]
            self.noticed = self.found() is not None
        self.rows.append(row)
        if not self.noticed and (found := self.found()) is not None:
            self.noticed = True
            print_aside(f"kdlab: {found.text}")

    def found(self) -> Collapse | None:
        """The collapse that the lines so far end in; None without one."""
        score, loss = None, None
        above, since, last = False, None, math.nan
        for row in self.rows or ():
            step, value, train = int(float(row["step"])), _number(row, "heldout_score"), self._label_loss(row)
            if math.isfinite(train):
                since = (step, train) if train > math.log(self.classes) and since is None else since
                since = None if train <= math.log(self.classes) else since
            if step > 0 and math.isfinite(value):
                last = value
                if value > self.majority:
                    above, score = True, None
                elif score is None and (above or step >= LATE * self.steps):
                    score = Collapse("score", step, value, self.majority)
            stays = since is not None and step - since[0] >= STAYS * self.steps
            weak = math.isfinite(last) and hardly_better(last, self.majority)
            loss = Collapse("loss", *since, math.log(self.classes)) if since and stays and weak else None  # pyright: ignore
        return score or loss

    def _label_loss(self, row: Mapping[str, Any]) -> float:
        """The mean loss on labels of a line; NaN without one."""
        return _number(row, self._label) if self._label else math.nan


def watched(write: Callable[[dict[str, Any]], None], watch: CollapseWatch | None) -> Callable[[dict[str, Any]], None]:
    """A writer of metrics.csv whose lines `watch` sees too."""
    if watch is None:
        return write

    def both(row: dict[str, Any]) -> None:
        write(row)
        watch.see(row)

    return both


def watch_of(
    baselines: Mapping[str, Mapping[str, float]], labels: Sequence[str] | None, steps: int,
    terms: Mapping[str, WeightedTerm], table: Path,
) -> CollapseWatch | None:  # fmt: skip
    """The watch of a run; None on text and in regression, which have no classes."""
    majority = baselines.get("majority class", {}).get("score")
    if majority is None or labels is None or len(labels) < 2:
        return None
    return CollapseWatch(majority, len(labels), steps, terms, table)


def entry(watch: CollapseWatch | None) -> dict[str, Any]:
    """The entry `collapsed` of result.json, from the whole table; empty without a collapse."""
    if watch is None:
        return {}
    watch.rows = list(rows_of(watch.table, ("step",)))
    found = watch.found()
    return {} if found is None else {"collapsed": {**asdict(found), "text": found.text}}


def _number(row: Mapping[str, Any], name: str) -> float:
    try:
        return float(row.get(name))  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return math.nan
