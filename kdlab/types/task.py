"""Facts of a task and of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Caveat:
    """A fact about a run that its reader needs beside the numbers.

    `kind`: a short slug ("cut_texts", "learnt_nothing", ...); `text`: one line that states the fact and the remedy."""

    kind: str
    text: str


@dataclass(frozen=True)
class TaskShape:
    """Inputs, classes and metrics of a task.

    `columns` texts a row (1, or 2 for pairs); `labels` the C class names in index order (None: regression on one
    number); `metrics` the names of its metrics (`kdlab.data.tasks.metrics`).
    """

    columns: int
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """Numbers that a model gives for a row: C classes, or 1 in regression."""
        return 1 if self.labels is None else len(self.labels)

    @property
    def regression(self) -> bool:
        """True where the label is a number and not a class."""
        return self.labels is None

    def __str__(self) -> str:
        texts = "pairs of texts" if self.columns == 2 else "single texts"
        if self.labels is None:
            kind = "regression"
        else:
            some = [*self.labels[:6], "..."] if len(self.labels) > 7 else self.labels
            kind = f"{len(self.labels)} classes ({', '.join(some)})"
        return f"{texts}, {kind}, {' and '.join(self.metrics)}"
