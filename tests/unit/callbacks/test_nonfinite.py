"""Numbers that are not finite: no update, all reports written, spikes listed; numbers are worked out by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from kdlab.callbacks import nonfinite as room
from kdlab.callbacks.nonfinite import NonFiniteGuard
from kdlab.errors import UserError
from kdlab.modules.finite_checks import StepHealth


class Module:
    """The part of a student module that the guard reads."""

    def __init__(self) -> None:
        self.health = StepHealth()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        self.optimizer = torch.optim.AdamW([self.weight], lr=0.1, fused=True)

    def named_parameters(self) -> Any:
        return [("weight", self.weight)]

    def step(self, number: int, loss: float, gradient: float = 1.0, scaled: bool = False) -> None:
        self.health.note(torch.tensor(loss), torch.tensor([7, 8, 9]), torch.tensor([True, False, True]))
        self.weight.grad = torch.tensor([gradient, 1.0])
        norm = torch.nn.utils.clip_grad_norm_([self.weight], 1.0)
        self.health.judge(norm, self.optimizer, number, scaled)
        self.optimizer.step()


def guarded(**given: Any) -> tuple[Module, NonFiniteGuard, list[dict[str, Any]], list[str]]:
    module, rows, said = Module(), [], []
    one = NonFiniteGuard(notify=said.append, write=rows.append, **given)
    one._module = module  # pyright: ignore
    return module, one, rows, said


@pytest.mark.parametrize(("loss", "gradient", "what"), [(math.nan, 1.0, "loss"), (math.inf, 1.0, "loss"), (2.0, math.nan, "gradient"), (2.0, -math.inf, "gradient")])  # fmt: skip
def test_a_step_that_is_not_finite_changes_nothing_and_is_told_by_rows(loss, gradient, what):
    module, guard, rows, _ = guarded()
    module.step(0, 2.0)
    weight, state = module.weight.detach().clone(), copy.deepcopy(module.optimizer.state_dict())
    module.step(1, loss, gradient)
    assert torch.equal(module.weight, weight)
    for name, value in state["state"][0].items():
        assert torch.equal(module.optimizer.state_dict()["state"][0][name], value), name
    with pytest.raises(UserError, match=rf"the {what} of step 1 is not finite; rows of the batch: 7, 9\. "):
        guard.read()
    assert [(r["step"], r["kind"], r["rows"]) for r in rows] == [(1, "nonfinite", "7 9")]
    assert math.isnan(rows[0]["loss"]) and rows[0]["usual"] == 2.0


def test_a_finite_step_is_the_plain_one():
    module, guard, rows, _ = guarded()
    plain = torch.nn.Parameter(module.weight.detach().clone())
    optimizer = torch.optim.AdamW([plain], lr=0.1, fused=True)
    for number in range(3):
        module.step(number, 2.0, gradient=0.5)
        plain.grad = torch.tensor([0.5, 1.0])
        torch.nn.utils.clip_grad_norm_([plain], 1.0)
        optimizer.step()
    guard.read()
    assert torch.equal(module.weight, plain) and rows == []


def test_skip_goes_on_until_the_limit():
    module, guard, rows, said = guarded(stop=False, limit=2)
    for number, loss in enumerate([2.0, math.nan, 2.0, math.nan]):
        module.step(number, loss)
        guard.read()
    assert [r["step"] for r in rows] == [1, 3] and said[1].endswith("Left out, 2 of at most 2")
    module.step(4, math.nan)
    with pytest.raises(UserError, match=r"step 3 of this kind, trainer\.nonfinite_limit=2"):
        guard.read()


def test_the_newest_step_is_left_until_it_must_be_known():
    module, guard, rows, _ = guarded(stop=False, limit=9)
    for number in range(3):
        module.step(number, math.nan)
        guard.read(1)
        assert [r["step"] for r in rows] == list(range(number))
    guard.read()
    assert [r["step"] for r in rows] == [0, 1, 2]


def test_gradients_that_a_scaler_looks_after_are_not_counted():
    module, guard, rows, _ = guarded()
    module.step(0, 2.0, math.inf, scaled=True)
    guard.read()
    assert rows == [] and guard.counts["nonfinite"] == 0


def test_a_loss_that_jumps_is_a_spike_and_the_next_usual_one_is_not():
    module, guard, rows, said = guarded()
    for number in range(60):
        module.step(number, 1.0 if number % 2 else 3.0)  # mean 2, deviation 1
        guard.read(1)
    module.step(60, 30.0)
    module.step(61, 2.0)
    guard.read()
    assert [(r["step"], r["kind"], r["loss"]) for r in rows] == [(60, "spike", 30.0)]
    assert rows[0]["usual"] == pytest.approx(2.0, abs=0.05)
    assert len(said) == 1 and "the loss of step 60 is 30, " in said[0]
    assert guard.mean < 2.2  # as if it had been 6 deviations away: 2 + 0.02 * 6
    other = NonFiniteGuard()
    other.load_state_dict(guard.state_dict())
    assert other.state_dict() == guard.state_dict()


def test_what_is_written_and_said_is_bounded(monkeypatch):
    monkeypatch.setattr(room, "MAX_EVENTS", 3)
    module, guard, rows, _ = guarded(stop=False, limit=100)
    for number in range(8):
        module.step(number, math.nan)
        guard.read()
    assert len(rows) == 3 and guard.counts["nonfinite"] == 8
    assert room._listed(list(range(100)), " ").endswith(" 63 and 36 more")


def test_weights_that_are_not_finite_are_not_saved():
    module, guard, _, _ = guarded()
    guard.check_weights(3)
    with torch.no_grad():
        module.weight[0] = math.inf
    with pytest.raises(UserError, match=r"1 of 1 weights are not finite after step 3 \(weight first\)"):
        guard.check_weights(3)


@pytest.mark.parametrize("stop", [True, False])
def test_a_teacher_whose_answers_are_not_finite_is_named_as_the_cause(stop):
    module, guard, _, said = guarded(stop=stop, limit=1)
    rows, real, whole = torch.tensor([7]), torch.tensor([True]), torch.tensor(True)
    module.health.note(torch.tensor(1.0), rows, real, {"small": whole, "teacher": whole})
    module.step(0, 2.0)
    guard.read()
    for step in (1, 2):
        module.health.note(torch.tensor(math.nan), rows, real, {"small": whole, "teacher": ~whole})
        module.step(step, 2.0)
    with pytest.raises(UserError, match="answers of the teacher teacher are not finite.*another teacher") as caught:
        guard.read()
    assert "learning rate" not in str(caught.value)
    assert stop or (len(said) == 1 and "teacher teacher are not finite" in said[0] and "Left out" in said[0])
