"""Credit of a reward to an arm: the arms in force before an observation, each by its share in what was observed."""

from __future__ import annotations

import math
from typing import Any

RATE = 0.5  # step size of the estimates that the contributions of earlier arms are taken from
NEGLIGIBLE = 1e-6  # what is left of a gradient's effect when its step is forgotten


class Credit:
    """Credits each reward to one arm, with the delay between an arm and its effect modelled.

    An arm chooses the gradients of the steps it is in force. With momentum a gradient of step s moves the weights at step
    u >= s by (1 - `decay`) `decay`^(u - s), as AdamW's first moment does (0.9); so its part in the movement between two
    observations, at steps p and q, is 1 - `decay`^(q - s) for s in [p, q), and `decay`^(p - s) (1 - `decay`^(q - p))
    before. An arm's share is the sum of these over its steps, of the sum over all. A reward is credited to the arm in
    force between the observations; with `delay` d, to the one in force d observations earlier.

    Where several arms have a share s_k in a reward r, the arm credited gets its own part: m + (r - sum_k s_k m_k), with
    m_k the arms' estimates (m of its own), updated by m_k <- m_k + s_k (r - sum_k s_k m_k) / (2 sum_k s_k^2): normalised
    least mean squares. With `decay` 0 that is the reward itself.
    """

    def __init__(self, decay: float = 0.0, delay: int = 0) -> None:
        self.decay, self.delay = decay, delay
        self.segments: list[tuple[int, str]] = []  # first step and name of each arm in force
        self.observed: list[int] = []  # steps of the last observations
        self.estimates: dict[str, float] = {}

    def begin(self, step: int, arm: str) -> None:
        """`arm` is in force from optimizer step `step` on."""
        if not self.segments or self.segments[-1][1] != arm:
            self.segments.append((step, arm))
        self._forget()

    def observe(self, step: int) -> dict[str, float]:
        """Take an observation at `step`; the share of each arm in what moved since the last (with `delay` d, in what moved
        d observations earlier). Empty where there were too few observations."""
        self.observed = [*self.observed, step][-(self.delay + 2) :]
        if len(self.observed) < self.delay + 2 or not self.segments:
            return {}
        return self.shares(self.observed[0], self.observed[1])

    def shares(self, first: int, last: int) -> dict[str, float]:
        """The share of each arm in the movement of the weights at steps `first` to `last` - 1; they add up to 1."""
        found: dict[str, float] = {}
        ends = [*(start for start, _ in self.segments[1:]), last]
        for (start, arm), end in zip(self.segments, ends, strict=True):
            inside = range(max(start, first), min(end, last))
            part = len(inside) - self._sum(last - inside.stop + 1, len(inside)) if inside else 0.0
            before = range(start, min(end, first))
            if before and self.decay:
                part += (1 - self.decay ** (last - first)) * self._sum(first - before.stop + 1, len(before))
            if part > 0:
                found[arm] = found.get(arm, 0.0) + part
        whole = math.fsum(found.values())
        return {arm: part / whole for arm, part in found.items()}

    def _sum(self, power: int, count: int) -> float:
        """The sum of `decay` to the powers `power` to `power` + `count` - 1."""
        return self.decay**power * (1 - self.decay**count) / (1 - self.decay) if self.decay else 0.0

    def arm(self, shares: dict[str, float]) -> str | None:
        """The arm that a reward with these shares is credited to: the one in force in the interval (at its end)."""
        if not shares:
            return None
        return next(arm for start, arm in reversed(self.segments) if start < self.end)

    @property
    def end(self) -> int:
        """The first step after the interval that a reward is credited for."""
        return self.observed[1] if len(self.observed) > 1 else self.observed[0]

    def own_part(self, arm: str, shares: dict[str, float], reward: float) -> float:
        """The part of `reward` that is due to `arm`; updates the estimates."""
        if set(shares) == {arm}:
            self.estimates[arm] = self.estimates.get(arm, reward) + RATE * (reward - self.estimates.get(arm, reward))
            return reward
        known = {name: self.estimates.get(name, reward) for name in shares}
        error = reward - math.fsum(share * known[name] for name, share in shares.items())
        own = self.estimates.get(arm, reward) + error
        norm = math.fsum(share**2 for share in shares.values())
        for name, share in shares.items():
            self.estimates[name] = known[name] + RATE * share * error / norm
        return own

    def _forget(self) -> None:
        """Drop segments that ended before the oldest observation by more than momentum reaches."""
        reach = math.ceil(math.log(NEGLIGIBLE) / math.log(self.decay)) if self.decay else 0
        oldest = (self.observed[0] if self.observed else 0) - reach
        while len(self.segments) > 1 and self.segments[1][0] <= oldest:
            self.segments.pop(0)

    def restart(self) -> None:
        """Drop observations and estimates: another loss is observed."""
        self.observed, self.estimates = self.observed[-1:], {}

    def state_dict(self) -> dict[str, Any]:
        """The arms in force, the last observations and the estimates, in plain Python values."""
        segments = [[step, arm] for step, arm in self.segments]
        return {"segments": segments, "observed": list(self.observed), "estimates": dict(self.estimates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.segments = [(int(step), str(arm)) for step, arm in state["segments"]]
        self.observed = [int(step) for step in state["observed"]]
        self.estimates = {str(arm): float(value) for arm, value in state["estimates"].items()}
