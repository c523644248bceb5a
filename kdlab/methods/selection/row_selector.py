"""Arms, policy and ratio of a selection: `RowSelector`, the core of `Select` and of selection in any other loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.marks import STRATEGY_FIELDS, UNDECLARED, marks_of, members_of
from kdlab.methods.selection.arm_selector import ArmSelector
from kdlab.methods.selection.policies import Policy
from kdlab.methods.selection.rewards import Reward
from kdlab.methods.selection.scores import arm_scores
from kdlab.methods.selection.strategies import Strategy
from kdlab.methods.selection.top_k import selection_size, top_k
from kdlab.runtime import distributed
from kdlab.runtime.seeding import generator
from kdlab.types import Evidence


class RowSelector(ArmSelector):
    """Selects the share `ratio` in (0, 1] of the rows of each batch: those that the strategy in force scores highest.

    `arms`: strategies (`kdlab.strategies`) by name; the `policy` picks one of them (`ArmSelector` has the rest). In a
    training loop of any kind, `rows` does a step's whole selection.
    """

    def __init__(
        self,
        arms: Mapping[str, Strategy],
        policy: Policy,
        ratio: float,
        total_steps: int,
        seed: int,
        reward: Reward | None = None,
        observe: Callable[[], float] | None = None,
        interval: int = 10,
        write: Callable[[dict[str, Any]], None] = lambda row: None,
        tolerant: bool = False,
        objective: Callable[[], list[str]] = list,
    ) -> None:
        super().__init__(
            "policy", arms, policy, total_steps, seed, reward, observe, interval, write, tolerant, objective
        )
        selection_size(1, ratio)
        self.ratio = ratio
        self._step: int | None = None  # of the last call of `rows`,
        self._calls = 0  # and how many there were for it

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `Evidence` that some arm reads: of "logits", "features", "labels"."""
        return frozenset().union(*(marks_of(arm).needs for arm in self.arms.values())) & STRATEGY_FIELDS

    def rows(
        self,
        step: int,
        *,
        logits: Tensor | None = None,
        labels: Tensor | None = None,
        features: Tensor | None = None,
        mask: Tensor | None = None,
        observe: Callable[[], float] | None = None,
    ) -> Tensor:
        """The rows to keep of a batch of B rows, (k,) int64 ascending, k = max(1, floor(B ratio)), on the batch's
        device.

        `step`: optimizer steps done so far; at the first call of a step the policy observes, learns and picks its
        strategy; further ones (accumulation) are micro-batches of that step. `logits` (B, C), or (B, P, C) at P
        predicted positions with `mask` (B, P); `labels` (B,) int64, -100 where unknown; `features` (B, H): the
        student's for the batch, without dropout; what `needs` does not name may be left out. `observe`: returns the
        loss, in nats, on rows that stay the same, for a policy that learns (None: that of the constructor). Ranks
        select from their own rows. UserError for inputs that the strategy lacks, of other lengths, or not finite.
        """
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise UserError(f"step={step!r}: the number of optimizer steps done so far, a whole number from 0 on")
        given = Evidence(logits=logits, labels=labels, features=features, mask=mask)
        if self.ratio == 1:
            return torch.arange(_length(given, "rows()"), device=_device(given))
        self.observe = observe or self.observe
        if step != self._step:
            self.decide(step)
            self._step, self._calls = step, 0
        micro = ("micro", self._calls) if self._calls else ()
        self._calls += 1
        return self.chosen(given, step, (step, *micro), "rows()")

    def chosen(self, given: Evidence, step: int, draw: tuple[int | str, ...], origin: str) -> Tensor:
        """The rows (k,) that the arm in force selects by the evidence `given` for a batch at optimizer step `step`.

        `draw` keys the random numbers of the batch, `origin` names the source of the evidence in messages.
        """
        count = _length(given, origin)
        self._check(given, origin)
        rank = (distributed.rank(),) if distributed.world() > 1 else ()
        whole = replace(
            given,
            rows=torch.arange(count, device=_device(given)),
            keep=selection_size(count, self.ratio),
            progress=self.progress(step),
            rng=generator(self.seed, "select", *draw, *rank),
            **{name: value.detach() for name in STRATEGY_FIELDS if (value := getattr(given, name)) is not None},
        )
        try:
            with torch.no_grad():
                scores = arm_scores(self.rule, whole, [whole])
                if not isinstance(scores, Tensor) or scores.shape != (count,):
                    shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                    raise UserError(
                        f"the strategy {self.arm} returned {shape}; a tensor ({count},) is expected, a score a row"
                    )
                return top_k(scores, self.ratio).to(_device(given))
        except ValueError as error:  # scores that are NaN, by their rows
            raise UserError(f"the strategy {self.arm}: {error}") from error

    def _check(self, given: Evidence, origin: str) -> None:
        """UserError for evidence that the arm in force reads and `given` lacks."""
        for name, member in members_of(self.rule).items():
            marks = marks_of(member)
            for field in sorted(marks.needs & STRATEGY_FIELDS) if marks is not UNDECLARED else ():
                if getattr(given, field) is None:
                    raise UserError(f"{origin} has no {field}, which the strategy {name or self.arm} reads")

    def require_observe(self) -> None:
        """UserError if the policy learns from rewards and there is nothing to observe."""
        if self.reward is not None and self.observe is None:
            raise UserError(
                f"the policy {type(self.policy).__name__} learns from a loss that it observes: give observe=, a function "
                "that returns the loss on some training rows, always the same"
            )

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return state if self._step is None else {**state, "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._step, self._calls = state.get("step"), 0

    def decide(self, step: int, ledger: Any = None) -> None:
        self.require_observe()
        super().decide(step, ledger)


def _length(given: Evidence, origin: str) -> int:
    """The number of rows of some evidence. UserError for tensors of other lengths or dimensions."""
    found: dict[str, int] = {}
    for name, dimensions in {"logits": (2, 3), "features": (2,), "labels": (1, 2), "mask": (2,)}.items():
        value = getattr(given, name)
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise UserError(f"{origin}: {name} is {type(value).__name__}; a tensor is expected")
        if value.ndim not in dimensions:
            raise UserError(
                f"{origin}: {name} has shape {tuple(value.shape)}; see kdlab.Evidence for what it stands for"
            )
        found[name] = len(value)
    if not found or 0 in found.values():
        raise UserError(f"{origin}: no rows; give logits, features or labels of a batch")
    if len(set(found.values())) > 1:
        raise UserError(f"{origin}: rows differ in number: {', '.join(f'{n} {name}' for name, n in found.items())}")
    return next(iter(found.values()))


def _device(given: Evidence) -> torch.device:
    return next(
        value.device for name in ("logits", "features", "labels") if (value := getattr(given, name)) is not None
    )
