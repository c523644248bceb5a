"""Configuration groups of what the student learns (`knowledge=`): terms of the loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kdlab.config.validators import one_of
from kdlab.errors import UserError
from kdlab.ranges import (
    BelowOne,
    InnerShare,
    LearningRate,
    Share,
    Weight,
)


@dataclass
class TermConfig:
    """A term of the loss: one kind of knowledge with its weight."""

    weight: Weight = 1.0
    "Weight of the term in the loss; 0 leaves the term out"
    at: str = "all"
    "Units: labelled or masked (labelled rows, masked positions), all (rows, tokens) or tokens (rows by length)"
    since: BelowOne = 0.0
    "Share of the training at which the term begins to count"
    until: Share = 1.0
    "Share of the training at which the term ceases to count, above since"
    teacher: str = "adopted"
    "Teacher that the term reads: adopted (those that adoption gives a row) or largest (for every row; DeKD's layers)"
    trains: str = "all"
    "Parameters that a term on logits trains: all, or head (a task's classifier, without gradient into the layers below)"
    term: Any = None
    "Function or class of the term (_target_ in kdlab.methods.knowledge) and its arguments, such as temperature"


@dataclass
class KnowledgeConfig:
    """The loss: terms of knowledge and their weights."""

    name: str = "distilbert"
    "Name of the choice in result.json, tables and figures"
    reduce: str = "tokens"
    "Mean of the loss: tokens (over the positions of all rows, DistilBERT script) or rows (over rows of row means)"
    ce_on: str = "masked"
    "Positions of the soft loss on text: masked, or all real tokens (DistilBERT script)"
    labels_on: str = "selected"
    "Rows whose labels are learned: selected, or all rows of the batch (Dynamic KD's public code)"
    phases: list[InnerShare] = field(default_factory=list)
    "Shares of the training at which the learning rate schedule restarts (TinyBERT: 20 of 23 epochs)"
    phase_lrs: list[LearningRate] = field(default_factory=list)
    "Peak learning rates, one for each phase (one more than phases); empty: optim.lr (TinyBERT: 5e-5, 2e-5)"
    terms: dict[str, TermConfig] = field(default_factory=dict)
    "Terms of the loss by name; knowledge.terms.NAME.weight=0 leaves one out"

    def check(self) -> None:
        """UserError for a value out of range, and where no term counts in a part of the training."""
        one_of("knowledge.reduce", self.reduce, ("tokens", "rows"))
        one_of("knowledge.ce_on", self.ce_on, ("masked", "all"))
        one_of("knowledge.labels_on", self.labels_on, ("selected", "all"))
        if not any(term.weight > 0 for term in self.terms.values()):
            raise UserError("knowledge.terms: no term has a positive weight, so there is nothing to learn")
        for name, term in self.terms.items():
            one_of(f"knowledge.terms.{name}.at", term.at, ("masked", "labelled", "all", "tokens"))
            one_of(f"knowledge.terms.{name}.teacher", term.teacher, ("adopted", "largest"))
            one_of(f"knowledge.terms.{name}.trains", term.trains, ("all", "head"))
            if not term.since < term.until:
                raise UserError(
                    f"knowledge.terms.{name}: it counts from since={term.since} until={term.until}, shares of the "
                    "training with 0 <= since < until <= 1"
                )
        if self.phase_lrs and len(self.phase_lrs) != len(self.phases) + 1:
            raise UserError(
                f"knowledge.phase_lrs={self.phase_lrs}: knowledge.phases={self.phases} make {len(self.phases) + 1} phases, "
                "so as many learning rates, or none"
            )
        covered = 0.0
        for term in sorted((t for t in self.terms.values() if t.weight > 0), key=lambda t: t.since):
            if term.since > covered:
                break
            covered = max(covered, term.until)
        if covered < 1:
            raise UserError(f"knowledge.terms: no term counts after {covered:g} of the training, until the next begins")
