"""Arms, policy and ratio of a selection: `RowSelector`, the core of `Select` and of selection in any other loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.marks import STRATEGY_FIELDS, UNDECLARED, marks_of, members_of
from kdlab.methods.selection.arm_selector import ArmSelector
from kdlab.methods.selection.candidates import candidate_count, candidates, reads_student
from kdlab.methods.selection.credit import Credit
from kdlab.methods.selection.evidence_checks import (
    check_ids,
    check_labels,
    check_step,
    evidence_device,
    labelled,
    row_count,
)
from kdlab.methods.selection.keeping import CLASS, Keeping, Kept, classed, keep_of_groups
from kdlab.methods.selection.policies import Policy
from kdlab.methods.selection.rewards import Reward
from kdlab.methods.selection.rewards.base import reads
from kdlab.methods.selection.scores import arm_scores
from kdlab.methods.selection.strategies import Strategy, random
from kdlab.methods.selection.strategy_state import arm_states, restore_arm_states, stateful_members
from kdlab.methods.selection.top_k import selection_size, top_k
from kdlab.ranges import BelowOne, check
from kdlab.runtime import distributed
from kdlab.runtime.seeding import generator
from kdlab.types import Evidence

WARMUP = "random"  # the arm in force during the warm-up


class RowSelector(ArmSelector):
    """Selects the share `ratio` in (0, 1] of the rows of each batch: those that the strategy in force scores highest.

    `arms`: strategies (`kdlab.strategies`) by name; the `policy` picks one of them (`ArmSelector` has the rest). In a
    training loop of any kind, `rows` does a step's whole selection. `look` in (0, 1]: the share of the rows that are scored,
    drawn at random; in a loop of one's own `candidates` returns them before `rows`. `keeping`: which rows are kept by their
    scores. `warmup`: the share of the training, in [0, 1), whose rows are drawn uniformly first (the arm `WARMUP`), without
    scores, observations or rewards; the policy begins after it, and later observations are compared with its first one. `ratios`: the
    ratio of each arm that has one of its own; `ratio` is then their mean over the training, which the policy keeps.
    """

    def __init__(
        self,
        arms: Mapping[str, Strategy],
        policy: Policy,
        ratio: float,
        total_steps: int,
        seed: int,
        reward: Reward | None = None,
        observe: Callable[[], float | None] | None = None,
        interval: int = 10,
        write: Callable[[dict[str, Any]], None] = lambda row: None,
        tolerant: bool = False,
        objective: Callable[[], list[str]] = list,
        look: float = 1.0,
        credit: Credit | None = None,
        learning_rate: Callable[[int], float] | None = None,
        cost: Callable[[], tuple[float, int]] | None = None,
        keeping: Keeping | None = None,
        warmup: float = 0.0,
        probe: Callable[[int, Sequence[str]], dict[str, float]] | None = None,
        probe_every: int | None = None,
        ratios: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            "policy", arms, policy, total_steps, seed, reward, observe, interval, write, tolerant, objective,
            credit, learning_rate, cost, probe, probe_every,
        )  # fmt: skip
        selection_size(1, ratio)
        candidate_count(1, look, 1)
        check("warmup", warmup, BelowOne)
        self.ratio, self.look, self.keeping = ratio, look, keeping or Keeping()
        self.ratios = dict(ratios or {})
        self.first = warmup_steps(warmup, total_steps)
        self._step: int | None = None  # of the last call of `rows`,
        self._calls = 0  # and how many there were for it
        self._shown: tuple[int, Tensor] | None = None  # rows of the batch, and those that `candidates` has returned
        self._warm = False
        self.weights: Tensor | None = None  # importance weights (k,) of the rows that `rows` gave last (`Keeping`)

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `Evidence` that some arm reads: of "logits", "features", "labels", "teacher", "reference_loss", "votes", "rows"."""
        arms = [classed(arm, self.keeping.balance) for arm in self.arms.values()]
        return frozenset().union(*(marks_of(arm).needs for arm in arms)) & STRATEGY_FIELDS

    @property
    def share(self) -> float:
        """The share of the rows that is kept with the arm in force."""
        return self.ratios.get(self.arm or "", self.ratio)

    @property
    def rule(self) -> Strategy:
        """The strategy in force, with the classes of rows where these are kept evenly; in the warm-up `random`."""
        return random if self._warm else classed(super().rule, self.keeping.balance)

    def kept(self, scores: Tensor, of: int, drawn: Tensor | None, draw: tuple[int | str, ...]) -> Kept:
        """The rows kept of a batch of `of` rows by what `rule` gave for the rows `drawn` (n,) (None: for all of them).

        `scores` (n,), or (2, n) with classes; `draw` keys the random numbers.
        """
        keeping, scores = Keeping() if self._warm else self.keeping, scores.cpu()  # what follows decides on the host
        classes = None if scores.ndim == 1 else scores[1].long()
        scores = scores if classes is None else scores[0]
        if self.facts is not None:
            looked = not self._warm and reads_student(self.arms[self.arm])  # pyright: ignore[reportArgumentType]
            self.facts.scored(scores if looked else None)
        if drawn is not None and keeping == Keeping():
            return Kept(drawn.cpu()[top_k(scores, self.share, of)])
        if drawn is not None:  # rows without a score may still be kept at random
            drawn = drawn.cpu()
            scores = torch.full((of,), -torch.inf, dtype=torch.float64).index_copy(0, drawn, scores.double())
            if classes is not None:
                classes = classes.new_full((of,), -1).index_copy(0, drawn, classes)
        return keeping.keep(scores, self.share, generator(self.seed, "keep", *draw), classes)

    def kept_units(self, scores: Tensor, ratio: float, draw: tuple[int | str, ...], group: Tensor | None) -> Kept:
        """The units kept by `scores` (U,) that `rule` gave: the share `ratio` of all, or of each `group` (U,), by its number.

        `draw` keys the random numbers.
        """
        if self.facts is not None:
            looked = not self._warm and reads_student(self.arms[self.arm])  # pyright: ignore[reportArgumentType]
            self.facts.scored(scores if looked else None)
        keeping, scores = Keeping() if self._warm else self.keeping, scores.cpu()
        return keep_of_groups(keeping, scores, ratio, generator(self.seed, "keep", *draw), group)

    def candidates(self, step: int, rows: int) -> Tensor:
        """The rows (n,) int64, ascending, of a batch of `rows` rows to be scored, to be called before `rows`.

        n = max(k, floor(rows * look)); all rows at `look` 1. `rows` then takes the student's outputs for these alone,
        and returns rows of the whole batch. `step`: as of `rows`, which selects the same rows without this call, from the
        outputs for all of them. The step's observation comes first (`observe` is that of the constructor).
        """
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
            raise UserError(f"candidates(): rows={rows!r}: the number of rows of the batch, a whole number, at least 1")
        if self.ratio == 1:
            return torch.arange(rows)
        self._begin(step)
        self._shown = (rows, self.drawn(rows, self._draw(step)))
        return self._shown[1]

    def drawn(self, rows: int, draw: tuple[int | str, ...]) -> Tensor:
        """The candidates (n,) among `rows` rows by the random numbers of the key `draw`."""
        if self.look == 1:
            return torch.arange(rows)
        return candidates(rows, self.look, selection_size(rows, self.share), self._generator("look", draw))

    def rows(
        self,
        step: int,
        *,
        logits: Tensor | None = None,
        labels: Tensor | None = None,
        features: Tensor | None = None,
        mask: Tensor | None = None,
        votes: Tensor | None = None,
        rows: Tensor | None = None,
        teacher: Tensor | None = None,
        reference_loss: Tensor | None = None,
        observe: Callable[[], float] | None = None,
    ) -> Tensor:
        """The rows to keep of a batch of B rows, (k,) int64 ascending, k = max(1, floor(B ratio)), on the batch's
        device.

        `step`: optimizer steps done so far; at the first call of a step the policy observes, learns and picks its
        strategy; further ones (accumulation) are micro-batches of that step. `logits` (B, C), or (B, P, C) at P
        predicted positions with `mask` (B, P); `labels` (B,) int64, -100 where unknown; `features` (B, H): the
        student's for the batch, without dropout; `votes` (V, B, C): logits of V versions of it; `rows` (B,) int64 from
        0: ids of the rows in the data set, the same at each visit; `teacher`: the teacher's logits, as `logits`;
        `reference_loss` (B,): a reference model's cross-entropy of the labels. What `needs` does not name may be left out.
        `observe`: returns the loss, in nats, on rows that stay the same, for a policy that learns (None: that of the
        constructor). Ranks select from their own rows. UserError for inputs that the strategy lacks, of other lengths, or
        not finite.
        """
        check_step(step)
        given = Evidence(
            rows, logits, features, labels, mask, votes=votes, teacher=teacher, reference_loss=reference_loss
        )
        if self.ratio == 1:
            return torch.arange(row_count(given, "rows()"), device=evidence_device(given))
        self.observe = observe or self.observe
        self._begin(step)
        draw, shown, self._shown = self._draw(step), self._shown, None
        self._calls += 1
        kept = self.chosen(given, step, draw, "rows()", shown)
        self.weights = kept.weights
        return kept.rows

    def _begin(self, step: int) -> None:
        """Decide on the arm at the first call of an optimizer step."""
        check_step(step)
        if step != self._step:
            self.decide(step)
            self._step, self._calls, self._shown = step, 0, None

    def _draw(self, step: int) -> tuple[int | str, ...]:
        """The key of the random numbers of the next micro-batch."""
        return (step, *(("micro", self._calls) if self._calls else ()))

    def _generator(self, name: str, draw: tuple[int | str, ...]) -> torch.Generator:
        """The random numbers of this rank for a batch with the key `draw`."""
        return generator(self.seed, name, *draw, *_rank())

    def chosen(
        self,
        given: Evidence,
        step: int,
        draw: tuple[int | str, ...],
        origin: str,
        shown: tuple[int, Tensor] | None = None,
    ) -> Kept:
        """The rows (k,), and their weights, that the arm in force selects by the evidence `given` for a batch at optimizer step `step`.

        `draw` keys the random numbers of the batch, `origin` names the source of the evidence in messages. `shown`: the
        number of rows of the batch, and its candidates that `given` is of (None: `given` is of the whole batch).
        """
        count = row_count(given, origin)
        if shown is None:
            shown = (count, self.drawn(count, draw))
            given = given.take(shown[1]) if len(shown[1]) < count else given
        elif count != len(shown[1]):
            raise UserError(f"{origin}: outputs of {count} rows, and candidates() returned {len(shown[1])}")
        of, rows = shown[0], shown[1].to(evidence_device(given))
        count = len(rows)
        self._check(given, origin)
        fields = {name: value.detach() for name in STRATEGY_FIELDS if (value := getattr(given, name)) is not None}
        fields.setdefault("rows", rows)
        whole = replace(
            given,
            keep=selection_size(of, self.share),
            progress=self.progress(step),
            rng=self._generator("select", draw),
            **fields,
        )
        try:
            with torch.no_grad():
                scores = arm_scores(self.rule, whole, [whole])
                expected = (count,) if CLASS not in members_of(self.rule) else (2, count)
                if not isinstance(scores, Tensor) or scores.shape != expected:
                    shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                    raise UserError(
                        f"the strategy {self.arm} returned {shape}; a tensor ({count},) is expected, a score a row"
                    )
                if self.facts is not None and whole.logits is not None:
                    self.facts.predicted(whole.logits, whole.mask)
                kept = self.kept(scores, of, shown[1] if len(shown[1]) < of else None, (*draw, *_rank()))
                device = rows.device
                return Kept(kept.rows.to(device), None if kept.weights is None else kept.weights.to(device))
        except ValueError as error:  # scores that are NaN, by their rows
            raise UserError(f"the strategy {self.arm}: {error}") from error

    def _check(self, given: Evidence, origin: str) -> None:
        """UserError for evidence that the arm in force reads and `given` lacks."""
        for name, member in members_of(self.rule).items():
            marks = marks_of(member)
            who = f"balance={self.keeping.balance}" if name == CLASS else f"the strategy {name or self.arm}"
            for field in sorted(marks.needs & STRATEGY_FIELDS) if marks is not UNDECLARED else ():
                value = getattr(given, field)
                if value is None:
                    what = "rows (their ids in the data set)" if field == "rows" else field
                    raise UserError(f"{origin} has no {what}, which {who} reads")
                if field == "labels" and not labelled(value):
                    raise UserError(f"{origin}: no row has a label, which {who} reads")
                if field == "rows":
                    check_ids(value, origin)
            if marks is not UNDECLARED and "labels" in marks.needs and name != CLASS:
                check_labels(given, origin)
        if distributed.world() > 1 and any(True for _ in stateful_members({str(self.arm): self.rule})):
            raise UserError(
                f"the strategy {self.arm} keeps a history of rows, which ranks of a loop of your own do not share: "
                "kdlab.StudentModule shares it, or train in one process"
            )

    def require_observe(self) -> None:
        """UserError if the policy learns from rewards and there is nothing to observe."""
        if self.reward is not None and self.observe is None:
            raise UserError(
                f"the policy {type(self.policy).__name__} learns from a loss that it observes: give observe=, a function "
                "that returns the loss on some training rows, always the same"
            )
        if self.probe is None and "probe" in reads(self.reward):
            raise UserError(
                "the reward Probe trains copies of the student, which a loop of your own cannot: kdlab.rewards.Trend"
            )
        if self.cost is None and "cost" in reads(self.reward):
            raise UserError(
                f"the reward {type(self.reward).__name__} reads FLOPs and queries, which a loop of your own does not count: "
                "kdlab.rewards.Trend"
            )

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict() | ({"warm": self._warm} if self.first else {})
        if arms := arm_states(self.arms):
            state["arms"] = arms
        return state if self._step is None else {**state, "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if "arms" in state:  # checkpoints before 2026-11-30 have none
            restore_arm_states(self.arms, state["arms"])
        self._step, self._calls = state.get("step"), 0
        self._warm = state.get("warm", False)

    def steps_left(self, step: int) -> int | None:
        """Optimizer steps from `step` to the next observation; None where the training ends before it."""
        left = self.first - step if step < self.first else self.interval - (step - self.first) % self.interval
        return left if step + left < self.total_steps else None

    def decide(self, step: int, ledger: Any = None) -> None:
        self.require_observe()
        if step < self.first:
            before, self.arm, self._warm = self.arm, WARMUP, True
            if step % self.interval == 0 or before is None:
                self._record(ledger, step, None, None, None)
            return
        if self._warm:
            self.arm, self._warm = None, False  # no arm of the policy has been in force, so none is rewarded
        super().decide(step, ledger)


def _rank() -> tuple[int, ...]:
    """The key of this rank's own random numbers."""
    return (distributed.rank(),) if distributed.world() > 1 else ()


def warmup_steps(share: float, total_steps: int) -> int:
    """The optimizer steps of a warm-up of `share` of `total_steps`."""
    return round(share * total_steps)
