"""The dear reward: what each arm really does, by a paired probe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch

from kdlab.methods.marks import needs
from kdlab.ranges import Range, checked


@needs("probe")
class Probe:
    """Advantage of an arm in a paired probe: the fall of the log loss that it brings, less the mean of the arms probed (ours).

    At each observation `compare` arms (the one in force, others drawn at random; "all": each) are tried from the same weights
    for `select.probe_steps` steps (`kdlab.modules.probes.paired_probe`), and the policy learns the reward of each of them. No
    arm pays or is paid for another, no trend and no learning rate has to be modelled; it costs as many trainings as there
    are arms, so it is the yardstick of other rewards. It has no state.
    """

    @checked
    def __init__(self, compare: Literal["all"] | Annotated[int, Range(2)] = "all"):
        self.compare = compare

    def chosen(self, arms: Sequence[str], arm: str | None, rng: torch.Generator) -> list[str]:
        """The arms to probe, in their order; `arm` is the one in force."""
        if isinstance(self.compare, str) or self.compare >= len(arms):
            return list(arms)
        others = [name for name in arms if name != arm]
        drawn = torch.randperm(len(others), generator=rng).tolist()[: self.compare - (arm is not None)]
        taken = {arm, *(others[i] for i in drawn)}
        return [name for name in arms if name in taken]

    def rewards(self, falls: Mapping[str, float]) -> dict[str, float]:
        """The reward of each arm from the fall of the log loss that it brings; none for an arm that diverged (NaN)."""
        finite = {arm: fall for arm, fall in falls.items() if math.isfinite(fall)}
        mean = math.fsum(finite.values()) / max(1, len(finite))
        return {arm: fall - mean for arm, fall in finite.items()}

    def observe(self, value: float) -> tuple[float | None, float | None]:
        """(None, None): a probe, not a series of observations, gives the rewards."""
        return None, None

    def restart(self) -> None:
        """Nothing to drop."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to continue from."""
