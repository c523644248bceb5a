"""A policy over strategies and ratios, within a budget of queries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from kdlab.errors import UserError
from kdlab.methods.selection.policies.drawing import greedy, pick
from kdlab.methods.selection.policies.thompson import Thompson
from kdlab.ranges import NotNegative, Positive, Share, checked

CLOSE = 1e-9


def ratio_of(arm: str) -> float:
    """The ratio in the name of an arm, such as 0.05 of "entropy@0.05". UserError for a name without one."""
    name, _, ratio = arm.rpartition("@")
    try:
        found = float(ratio) if name else 0.0
    except ValueError:
        found = 0.0
    if not 0 < found <= 1:
        raise UserError(f"the arm {arm} has no ratio: arms are named strategy@ratio, which select.ratios does")
    return found


class Ratios(Thompson):
    """Thompson sampling over strategies x ratios whose mean ratio over the training is `ratio` (AdaDS's future work).

    Of the arms that leave a mean of `ratio` within reach it takes the one of largest mu / s - price c / ratio (equals at
    random): mu and the deviation s of rewards are drawn from the posterior of `Thompson`, c is the arm's ratio. The price
    of queries follows what was spent, price <- price + `rate` (c / ratio - 1) at each choice: the dual step of bandits
    with knapsacks (Immorlica, Sankararaman, Schapire and Slivkins, arXiv 1811.11881, LagrangeBwK), for an equality: below
    0 it pays to query more. Within reach: with c for as long as the last choice was in force, and the smallest (the
    largest) ratio from then on, the mean is at most (at least) `ratio`. So the running mean ends at `ratio` up to the
    last choice, whatever the rewards. The first choice is among the arms of the ratio nearest to `ratio`. `q`: the
    posterior means.
    """

    takes_ratio = True  # the builder passes `ratio`, the mean that the configuration asks for

    @checked
    def __init__(
        self,
        arms: Sequence[str],
        ratio: Share,
        prior: Positive = 1.0,
        gamma: Share = 0.95,
        width: Positive = 1.0,
        rate: NotNegative = 0.1,
    ):
        super().__init__(arms, prior=prior, gamma=gamma, width=width)
        self.ratio, self.rate = float(ratio), float(rate)
        self.ratios = {arm: ratio_of(arm) for arm in self.arms}
        least, most = min(self.ratios.values()), max(self.ratios.values())
        if not least <= self.ratio <= most:
            raise UserError(f"the mean ratio is {ratio:g}, and the ratios to choose among are {least:g} to {most:g}")
        self.price = 0.0
        self._spent = 0.0  # the integral of the ratio over the progress up to the last choice
        self._last: tuple[str, float] | None = None  # the last choice and the progress then
        self._stretch = 0.0  # the progress between the last two choices

    def choose(self, progress: float, rng: torch.Generator) -> str:
        if self._last is not None:
            arm, since = self._last
            self._stretch = progress - since
            self._spent += self.ratios[arm] * self._stretch
            self.price += self.rate * (self.ratios[arm] / self.ratio - 1)
        else:
            self._spent = self.ratio * progress  # a warm-up has the mean ratio
        allowed, drawn = self.within_reach(progress), self.drawn(rng)
        if drawn is None or self._last is None:
            chosen = pick(self._nearest(allowed, self.ratio), rng)
        else:
            means, deviation = drawn
            value = {arm: means[arm] / deviation - self.price * self.ratios[arm] / self.ratio for arm in allowed}
            chosen = greedy(value, rng)
        self._last = (chosen, progress)
        return chosen

    def within_reach(self, progress: float) -> list[str]:
        """The arms with which the mean can still be `ratio`; those nearest to what is left, if there are none."""
        rest = 1 - progress
        stretch = min(self._stretch, rest)
        least, most = min(self.ratios.values()), max(self.ratios.values())
        left = self.ratio - self._spent
        found = [
            arm
            for arm, ratio in self.ratios.items()
            if ratio * stretch + least * (rest - stretch) <= left + CLOSE
            and ratio * stretch + most * (rest - stretch) >= left - CLOSE
        ]
        return found or self._nearest(self.arms, left / rest if rest > 0 else self.ratio)

    def _nearest(self, arms: Sequence[str], ratio: float) -> list[str]:
        least = min(abs(self.ratios[arm] - ratio) for arm in arms)
        return [arm for arm in arms if math.isclose(abs(self.ratios[arm] - ratio), least, abs_tol=CLOSE)]

    def state_dict(self) -> dict:
        last = None if self._last is None else list(self._last)
        return {
            **super().state_dict(), "price": self.price, "spent": self._spent, "last": last, "stretch": self._stretch,
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.price, self._spent = float(state["price"]), float(state["spent"])
        self._stretch, last = float(state["stretch"]), state["last"]
        self._last = None if last is None else (str(last[0]), float(last[1]))
