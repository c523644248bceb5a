"""kdlab.methods.selection.row_selector: the rows to keep, step by step, in any loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy

import kdlab
from kdlab.methods.selection import strategies
from kdlab.methods.selection.keeping import Keeping
from kdlab.methods.selection.policies import (
    UCB,
    DiscountedUCB,
    Exp3,
    Exp3S,
    Fixed,
    Halving,
    LinUCB,
    Online,
    Schedule,
    Thompson,
    WindowUCB,
)
from kdlab.methods.selection.rewards import LossDecay
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.types import IGNORE

ROWS, CLASSES, STEPS = 12, 3, 9
LOSSES = [3.0, 2.5, 2.4, 1.9, 1.8, 1.2, 1.1, 0.7, 0.2]


def logits(step: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(step).normal(size=(ROWS, CLASSES)), dtype=torch.float32)


def alone(strategy: Any, ratio: float = 0.25) -> RowSelector:
    return RowSelector({"only": strategy}, Fixed(["only"]), ratio, STEPS, 0)


def adaptive(written: list[dict[str, Any]], observe: Callable[[], float] | None) -> RowSelector:
    arms = {"entropy": strategies.entropy, "random": strategies.random}
    policy = Online(list(arms), epsilon=0.5)
    return RowSelector(arms, policy, 0.25, STEPS, 0, LossDecay(2), observe, 1, written.append)


def test_the_rows_of_the_highest_entropy_are_kept_by_scipy():
    for step in range(3):
        given = logits(step)
        expected = np.sort(np.argsort(entropy(torch.softmax(given.double(), 1).numpy(), axis=1))[-3:])
        assert alone(strategies.entropy).rows(step, logits=given).tolist() == expected.tolist()


def test_positions_that_do_not_exist_do_not_count():
    given = torch.stack([logits(step) for step in range(4)], dim=1)  # (rows, positions, classes)
    mask = torch.zeros(ROWS, 4, dtype=torch.bool)
    mask[:, 0] = True
    assert torch.equal(
        alone(strategies.entropy).rows(0, logits=given, mask=mask), alone(strategies.entropy).rows(0, logits=logits(0))
    )


def test_at_ratio_1_every_row_is_kept_and_nothing_observed():
    selector = RowSelector({"a": strategies.entropy}, Online(["a"]), 1.0, STEPS, 0, LossDecay(2))
    assert selector.rows(0, logits=logits(0)).tolist() == list(range(ROWS)) and selector.arm is None


def kept(cut: int | None = None) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """The rows and the decisions of a training, resumed from JSON after `cut` steps."""
    written: list[dict[str, Any]] = []
    step, found = 0, []

    def anew() -> RowSelector:
        return adaptive(written, lambda: LOSSES[step])

    selector = anew()
    for step in range(STEPS):
        if step == cut:
            state = json.loads(json.dumps(selector.state_dict()))
            selector = anew()
            selector.load_state_dict(state)
        found.append(selector.rows(step, logits=logits(step)).tolist())
    return found, written


def test_the_policy_learns_from_the_loss_that_it_observes():
    written = kept()[1]
    assert [row["observation"] for row in written] == LOSSES
    assert written[-1]["reward"] == pytest.approx((0.7 - 0.2) - (1.1 - 0.7))  # the fall of the loss has become faster
    assert {row["arm"] for row in written} == {"entropy", "random"}


@pytest.mark.parametrize("cut", range(1, STEPS))
def test_a_resumed_selection_keeps_the_same_rows_and_learns_the_same(cut):
    assert kept(cut) == kept()


def test_micro_batches_of_one_step_share_its_decision_and_not_its_random_numbers():
    written: list[dict[str, Any]] = []
    selector = adaptive(written, lambda: 1.0)
    draws = alone(strategies.random)
    for _ in range(3):
        selector.rows(0, logits=logits(0))
    assert len(written) == 1
    assert len({tuple(draws.rows(0, logits=logits(0)).tolist()) for _ in range(5)}) > 1


def test_a_function_given_at_a_step_is_observed():
    written: list[dict[str, Any]] = []
    adaptive(written, None).rows(0, logits=logits(0), observe=lambda: 7.0)
    assert written[0]["observation"] == 7.0


def test_a_schedule_goes_by_the_share_of_the_steps():
    arms = {"a": strategies.entropy, "b": strategies.random}
    selector = RowSelector(arms, Schedule(["a", "b"], ["a", "b"]), 0.5, 4, 0)
    found = []
    for step in range(6):  # two more than planned: the last stage goes on
        selector.rows(step, logits=logits(step))
        found.append(selector.arm)
    assert found == ["a", "a", "b", "b", "b", "b"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no rows"),
        ({"logits": torch.zeros(0, 3)}, "no rows"),
        ({"logits": [[0.0]]}, "logits is list; a tensor is expected"),
        ({"logits": torch.zeros(3)}, r"logits has shape \(3,\)"),
        ({"logits": torch.zeros(3, 2), "labels": torch.zeros(4)}, "rows differ in number: 3 logits, 4 labels"),
        ({"labels": torch.zeros(4)}, r"rows\(\) has no logits, which the strategy entropy reads"),
        ({"logits": torch.full((4, 2), torch.nan)}, "NaN"),
    ],
)
def test_inputs_that_cannot_be_scored_are_one_line(given, message):
    with pytest.raises(kdlab.UserError, match=message):
        RowSelector({"entropy": strategies.entropy}, Fixed(["entropy"]), 0.5, STEPS, 0).rows(0, **given)


@pytest.mark.parametrize("step", [-1, 1.5, True, "3"])
def test_a_step_is_a_whole_number(step):
    with pytest.raises(kdlab.UserError, match="step="):
        alone(strategies.entropy).rows(step, logits=logits(0))


def test_a_policy_that_learns_needs_something_to_observe():
    with pytest.raises(kdlab.UserError, match="Online learns from a loss that it observes: give observe="):
        adaptive([], None).rows(0, logits=logits(0))


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (
            lambda evidence: evidence.logits,
            rf"the strategy only returned \({ROWS}, {CLASSES}\); a tensor \({ROWS},\) is expected",
        ),
        (lambda evidence: evidence.logits[:3, 0], r"returned \(3,\)"),
        (lambda evidence: 1.0, "returned float"),
        (lambda evidence: evidence.logits[:, 0] * torch.nan, "the strategy only: scores hold NaN for rows"),
    ],
)
def test_scores_of_a_strategy_of_ones_own_are_checked(strategy, message):
    with pytest.raises(kdlab.UserError, match=message):
        alone(strategy).rows(0, logits=logits(0))


CLASS_ROWS = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("loss", {"labels": torch.rand(4)}, "labels of the type float32, and logits of 3 classes"),
        ("loss", {"labels": torch.tensor([0, 1, 2, 3])}, "the label 3, and logits of 3 classes"),
        ("gradient_norm", {"labels": torch.zeros(4, 2, dtype=torch.long)}, r"labels \(4, 2\) do not fit logits \(4, 3\)"),
        ("divbs", {"labels": torch.full((4,), 9), "features": torch.ones(4, 2)}, "the label 9"),
        ("forgetting", {"labels": torch.full((4,), 9), "rows": torch.arange(4)}, "the label 9"),
        ("forgetting", {"labels": torch.zeros(4).long(), "rows": torch.rand(4)}, "rows of the type float32"),
        ("forgetting", {"labels": torch.zeros(4).long(), "rows": torch.arange(4) - 1}, "the row id -1"),
        ("forgetting", {"labels": torch.zeros(4).long(), "rows": torch.arange(4) + 10**13}, "the row id 10000000000003"),
    ],
)  # fmt: skip
def test_labels_and_ids_that_are_none_are_one_line(name, more, message):
    strategy = strategies.Forgetting() if name == "forgetting" else getattr(strategies, name)
    with pytest.raises(kdlab.UserError, match=message):
        RowSelector({name: strategy}, Fixed([name]), 0.5, STEPS, 0).rows(0, logits=CLASS_ROWS, **more)


@pytest.mark.parametrize(
    ("strategy", "labels", "message"),
    [
        (strategies.random, torch.full((4,), IGNORE), r"rows\(\): no row has a label, which balance=label reads"),
        (strategies.entropy, None, r"rows\(\) has no labels, which balance=label reads"),
        (lambda evidence: evidence.logits, torch.zeros(4).long(), r"the strategy it: returned \(4, 3\)"),
    ],
)
def test_a_balance_without_classes_names_itself(strategy, labels, message):
    selector = RowSelector({"it": strategy}, Fixed(["it"]), 0.5, STEPS, 0, keeping=Keeping(balance="label"))
    with pytest.raises(kdlab.UserError, match=message):
        selector.rows(0, logits=CLASS_ROWS, labels=labels)


def test_two_lines_of_scores_are_refused_where_no_class_is_read():
    with pytest.raises(kdlab.UserError, match=r"returned \(2, 4\)"):
        alone(lambda evidence: torch.zeros(2, 4)).rows(0, logits=CLASS_ROWS)


def test_the_state_of_another_policy_is_one_line():
    arms = {"a": strategies.entropy, "b": strategies.margin}
    made = [
        RowSelector(arms, policy(list(arms)), 0.5, STEPS, 0, LossDecay(), lambda: 1.0)
        for policy in (Online, UCB, Exp3, Exp3S, LinUCB, Halving, Thompson, DiscountedUCB, WindowUCB)
    ]
    for one in made:
        for other in made:
            if one is not other:
                with pytest.raises(kdlab.UserError, match="the checkpoint was saved by another policy than"):
                    one.load_state_dict(other.state_dict())
