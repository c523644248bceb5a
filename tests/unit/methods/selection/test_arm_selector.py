"""kdlab.methods.selection.arm_selector: the reward of a policy that learns."""

from __future__ import annotations

from typing import Any

from kdlab.methods.selection.arm_selector import ArmSelector
from kdlab.methods.selection.policies import Online
from kdlab.methods.selection.rewards import LossDecay

LOSSES = [12.0, 11.0, 9.0, 1.0, 0.5, 0.25]  # from the fourth on, of other terms


def rows(cut: int | None = None) -> list[dict[str, Any]]:
    """The rows of selector.csv over six observations; `cut`: resumed by another selector after so many."""
    written: list[dict[str, Any]] = []
    step = 0

    def selector() -> ArmSelector:
        return ArmSelector(
            "policy", {"a": None, "b": None}, Online(["a", "b"]), 6, 0, LossDecay(2), lambda: LOSSES[step], 1,
            written.append, objective=lambda: ["hidden"] if step < 3 else ["soft"],
        )  # fmt: skip

    now = selector()
    for step in range(6):
        if step == cut:
            saved, now = now.state_dict(), selector()
            now.load_state_dict(saved)
        now.decide(step)
    return written


def test_no_reward_is_the_difference_of_two_losses():
    """At the fourth observation the loss falls from 9 to 1 because the terms change, not because the student learns."""
    assert [row["speed"] for row in rows()] == [None, 1.0, 2.0, None, 0.5, 0.25]
    assert [row["reward"] for row in rows()] == [None, None, 1.0, None, None, -0.25]


def test_a_resumed_selector_knows_which_loss_it_observed_last():
    for cut in range(1, 6):
        assert rows(cut) == rows()
