"""Random rows first (`warmup`): the arm that is written, the policy's start, rewards, weights, state."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import kdlab
from kdlab.errors import UserError
from kdlab.methods.selection import strategies
from kdlab.methods.selection.keeping import Keeping
from kdlab.methods.selection.policies import Fixed, Online
from kdlab.methods.selection.rewards import LossDecay
from kdlab.methods.selection.row_selector import RowSelector
from tests.unit.methods.selection.test_row_selector import LOSSES, STEPS, alone, logits

WARM = 4  # round(0.4 * 9)


def warm(written: list[dict[str, Any]], keeping: Keeping | None = None) -> RowSelector:
    arms = {"entropy": strategies.entropy, "margin": strategies.margin}
    losses = iter(LOSSES)
    return RowSelector(
        arms, Online(list(arms), epsilon=0.5), 0.25, STEPS, 0, LossDecay(2), lambda: next(losses), 1, written.append,
        warmup=0.4, keeping=keeping,
    )  # fmt: skip


def test_random_rows_are_kept_first_and_written_as_random():
    written: list[dict[str, Any]] = []
    selector, plain = warm(written), alone(strategies.random)
    kept = [selector.rows(step, logits=logits(step)).tolist() for step in range(STEPS)]
    assert kept[:WARM] == [plain.rows(step, logits=logits(step)).tolist() for step in range(WARM)]
    assert [row["arm"] for row in written[:WARM]] == ["random"] * WARM
    assert all(row["arm"] in ("entropy", "margin") for row in written[WARM:])


def test_the_policy_and_its_rewards_begin_after_it():
    """Nothing is observed before; of a window of two the fourth observation of its own makes the first reward, as without."""
    written: list[dict[str, Any]] = []
    selector = warm(written)
    for step in range(STEPS):
        selector.rows(step, logits=logits(step))
    assert [row["observation"] for row in written] == [None] * WARM + LOSSES[: STEPS - WARM]
    plain: list[dict[str, Any]] = []
    other = warm(plain)
    other.first = 0
    for step in range(STEPS - WARM):
        other.rows(step, logits=logits(step))
    assert [row["reward"] for row in written[WARM:]] == [row["reward"] for row in plain]


@pytest.mark.parametrize("cut", [1, WARM - 1, WARM, WARM + 1, STEPS - 1])
def test_a_resumed_warm_up_goes_on(cut):
    def run(cut: int | None) -> tuple[list[list[int]], list[Any]]:
        written: list[dict[str, Any]] = []
        selector = warm(written)
        kept = []
        for step in range(STEPS):
            if step == cut:
                state = json.loads(json.dumps(selector.state_dict()))
                selector = warm(written)
                selector.load_state_dict(state)
                used = iter(LOSSES[max(0, step - WARM) :])
                selector.observe = lambda used=used: next(used)
            kept.append(selector.rows(step, logits=logits(step)).tolist())
        return kept, [(row["arm"], row["reward"]) for row in written]

    assert run(cut) == run(None)


def test_random_rows_first_have_no_weights_and_are_not_balanced():
    selector = warm([], Keeping(explore=0.5, temperature=0.5, importance=True))
    for step in range(STEPS):
        selector.rows(step, logits=logits(step))
        assert (selector.weights is None) == (step < WARM)


def test_without_a_warm_up_the_state_is_as_before():
    assert "warm" not in alone(strategies.entropy).state_dict()
    assert warm([]).state_dict()["warm"] is False


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan"), True, "half"])
def test_a_warm_up_is_a_share_below_1(share):
    with pytest.raises(UserError, match="warmup"):
        RowSelector({"a": strategies.entropy}, Fixed(["a"]), 0.25, STEPS, 0, warmup=share)


# ---- kdlab.Selector


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"explore": 1.5}, "explore=1.5"), ({"balance": "rows"}, "balance=rows"), ({"temperature": 0.0}, "temperature=0.0"),
        ({"importance": True}, "temperature=null"), ({"warmup": 1.0}, "warmup=1.0"),
        ({"importance": True, "temperature": 1.0, "balance": "label"}, "balance=label"),
    ],
)  # fmt: skip
def test_a_selector_refuses_settings_in_one_line(given, message):
    with pytest.raises(UserError, match=message) as raised:
        kdlab.Selector(strategies.entropy, total_steps=9, **given)
    assert "\n" not in str(raised.value)


def test_a_selector_keeps_rows_as_it_is_told():
    """Equally many of each class by label; weights of a sample; random rows first; a share of random ones."""
    labels = torch.tensor([0] * 9 + [1, 1, 1])
    even = kdlab.Selector(strategies.entropy, ratio=1 / 3, total_steps=STEPS, balance="label")
    assert even.needs >= {"logits", "labels"}
    rows = even.rows(0, logits=logits(0), labels=labels)
    assert labels[rows].tolist() == [0, 0, 1, 1]
    sampled = kdlab.Selector(strategies.entropy, ratio=0.25, total_steps=STEPS, temperature=0.5, importance=True)
    rows = sampled.rows(0, logits=logits(0))
    assert sampled.weights is not None and len(sampled.weights) == len(rows) == 3 and bool((sampled.weights >= 1).all())
    first = kdlab.Selector(strategies.entropy, ratio=0.25, total_steps=STEPS, warmup=0.4)
    first.rows(0, logits=logits(0))
    assert first.arm == "random"
    best = kdlab.Selector(strategies.entropy, ratio=0.25, total_steps=STEPS).rows(0, logits=logits(0)).tolist()
    some = kdlab.Selector(strategies.entropy, ratio=0.25, total_steps=STEPS, explore=1.0)
    assert any(some.rows(step, logits=logits(0)).tolist() != best for step in range(4))


def test_a_balance_by_label_needs_labels():
    selector = kdlab.Selector(strategies.entropy, ratio=0.25, total_steps=STEPS, balance="label")
    with pytest.raises(UserError, match="labels"):
        selector.rows(0, logits=logits(0))
