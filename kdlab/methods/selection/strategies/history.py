"""Rows that the student has learnt and forgotten: a strategy with a history of each row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.marks import needs
from kdlab.methods.selection.strategies.base import double, logits_of
from kdlab.types import Evidence

EVENTS, CORRECT, LEARNT = 63, 64, 128  # of a row's byte: forgetting events, the last answer was right, one was right


def answers_to_labels(evidence: Evidence) -> Tensor:
    """(N, 2) of each row: 1 if the predicted class is the label, else 0, and 1 - p(label); -1 without a label."""
    logits, labels = logits_of(evidence), evidence.labels
    if logits.ndim != 2:
        raise UserError("forgetting counts how often a row's class is forgotten, and masked text has none")
    if labels is None:
        raise ValueError("forgetting needs labels, found none in the evidence")
    doubt = -double(logits).log_softmax(-1).gather(1, labels.clamp(min=0)[:, None]).squeeze(1).expm1()
    answers = torch.stack([(logits.argmax(-1) == labels).to(doubt.dtype), doubt], dim=1)
    return torch.where(labels[:, None] >= 0, answers, -1)


@needs("logits", "labels", "rows", summary=answers_to_labels, per_row=True)
class Forgetting:
    """Forgetting events of each row so far (Toneva et al. 2019, arXiv 1812.05159, section 3, Algorithm 1).

    An event: the student's answer was right at the row's visit before, and is wrong at this one. A visit is a batch in
    which this strategy scores the row, selected or not. A row that was never right comes first: the paper counts its
    events as infinite. Among equals 1 - p(label) decides (ours). Rows without a label are kept last.

    It keeps a byte a row, 10 MB for 10 million rows, in the checkpoint too; up to 63 events are counted. Every rank
    keeps the history of all rows.
    """

    def __init__(self) -> None:
        self._history = torch.zeros(0, dtype=torch.uint8)

    def __call__(self, evidence: Evidence) -> Tensor:
        """(N,) scores: events + 1 - p(label), in [0, 64]; 64 + 1 - p(label) for a row that was never right."""
        if evidence.rows is None:
            raise ValueError("forgetting needs the ids of the rows, found none in the evidence")
        answers = answers_to_labels(evidence) if evidence.summary is None else evidence.summary
        right, doubt = answers.unbind(1)
        rows = evidence.rows.cpu()
        if len(rows) and int(rows.max()) >= len(self._history):
            self._history = torch.cat(
                [self._history, self._history.new_zeros(int(rows.max()) + 1 - len(self._history))]
            )
        before, now = self._history[rows].int(), (right > 0).cpu().int()
        events = (before & EVENTS) + ((before & CORRECT) > 0).int() * (1 - now)
        learnt = ((before & LEARNT) > 0).int() | now
        events = events.clamp(max=EVENTS)
        known = (right >= 0).cpu()
        self._history[rows[known]] = (events + CORRECT * now + LEARNT * learnt)[known].to(torch.uint8)
        scores = torch.where(learnt > 0, events, EVENTS + 1).to(doubt) + doubt
        return torch.where(right >= 0, scores, -torch.inf)

    def state_dict(self) -> dict[str, Any]:
        """The history, a byte a row."""
        return {"history": self._history.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; UserError if another strategy saved it."""
        history = state.get("history")
        if not isinstance(history, torch.Tensor) or history.dtype != torch.uint8 or history.ndim != 1:
            raise UserError("the checkpoint has no history of rows: its state is that of another strategy")
        self._history = history.cpu().clone()
