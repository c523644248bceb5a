"""The checkpoint schedule, against steps worked out by hand on a fake clock."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_type_hints

import pytest
import torch

from kdlab.callbacks.checkpoint import CheckpointCallback
from kdlab.callbacks.checkpoint_schedule import PART, CheckpointSchedule
from kdlab.config.groups.training import TrainerConfig
from kdlab.errors import UserError
from kdlab.modules.finite_checks import StepHealth
from kdlab.modules.student import StudentModule
from kdlab.ranges import check
from kdlab.runtime import ledger as room
from kdlab.runtime.ledger import Ledger


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(room, "perf_counter", made)
    return made


def trained(
    clock: Clock, cadence: CheckpointSchedule, costs: Iterator[float], seconds: float, step: float = 1.0
) -> list[float]:
    """Train for `seconds` in steps of `step`; the seconds at which a checkpoint was due, each costing the next of `costs`."""
    begun, due = clock.now, []
    with cadence.ledger.time("loop"):
        while clock.now - begun < seconds:
            clock.now += step
            if cadence.due():
                due.append(clock.now - begun)
                with cadence.ledger.time(PART):
                    clock.now += (cost := next(costs))
                cadence.record(cost)
    return due


def begun(parameters: int = 0) -> CheckpointSchedule:
    made = CheckpointSchedule(Ledger(10))
    made.begin([torch.nn.Parameter(torch.empty(parameters))])
    return made


def test_cheap_checkpoints_come_once_a_minute(clock):
    assert trained(clock, begun(), repeat(0.5), 250) == [60, 120.5, 181, 241.5]


def test_dear_ones_come_75_times_their_cost_apart(clock):
    # the first is thought to take 3 * 4 * 50 MB / 200 MB/s = 3 s: due at 225 s; it takes 6: the next is due 450 s after it
    assert trained(clock, begun(50_000_000), repeat(6.0), 1700) == [225, 681, 1137, 1593]


@pytest.mark.parametrize("cost", [0.001, 0.7, 2.0, 5.9])
@pytest.mark.parametrize("step", [0.06, 7.0, 200.0])
def test_their_share_of_the_time_stays_small_whatever_they_cost(clock, cost, step):
    cadence = begun(50_000_000)
    due = trained(clock, cadence, repeat(cost), 3000, step)
    assert due and cadence.ledger.elapsed(PART) == pytest.approx(len(due) * cost)
    assert cadence.ledger.elapsed(PART) <= 0.02 * cadence.ledger.elapsed()
    gaps = [later - earlier for earlier, later in zip([0.0, *due], due, strict=False)]
    assert max(gaps[1:]) <= max(60.0, 75 * cost) + cost + step and gaps[0] <= 225 + step


def test_one_that_took_far_longer_waits_until_all_fit_into_the_share_and_no_longer(clock):
    due = trained(clock, begun(), chain([0.5, 0.5, 20.0], repeat(0.5)), 2000)
    # 21 s are spent on the first three; with the next, 21.5 s are 2 % of 1075 s; after that a minute is enough again
    assert due[:3] == [60, 120.5, 181] and due[3:6] == [1075, 1135.5, 1196]


def test_a_run_that_goes_on_keeps_to_what_it_spent_before(clock):
    first = begun()
    assert trained(clock, first, repeat(2.0), 400) == [60, 212, 364]  # nothing was known before the first
    second = CheckpointSchedule(Ledger(10))
    second.ledger.load_state_dict(first.ledger.state_dict())
    second.load_state_dict(first.state_dict())
    second.begin([torch.nn.Parameter(torch.empty(50_000_000))])
    assert (second.written, second.expected) == (3, 2.0)
    assert trained(clock, second, repeat(2.0), 200) == [150]


def test_parameters_that_are_not_trained_have_no_moments():
    made = CheckpointSchedule(Ledger(10))
    weights = [torch.nn.Parameter(torch.empty(50_000_000), requires_grad=trained) for trained in (False, True)]
    made.begin(weights)
    assert made.expected == pytest.approx((200e6 + 3 * 200e6) / 200e6)


@pytest.mark.parametrize("given", [0, -5, "often", 2.5, True])
def test_what_is_no_cadence_is_refused(given):
    hint = get_type_hints(TrainerConfig, include_extras=True)["checkpoint_every"]
    with pytest.raises(UserError, match=f"trainer.checkpoint_every={given}: (auto.*a whole number, at least 1|.*auto)"):
        check("trainer.checkpoint_every", given, hint)


def test_a_checkpoint_that_takes_long_is_told_of_once_with_how_far_they_lie_apart(clock, tmp_path):
    said: list[str] = []
    ledger = Ledger(10)
    guard = SimpleNamespace(signum=0, wants_checkpoint=False, read=lambda: None, check_weights=lambda step: None)
    keep = CheckpointCallback(tmp_path, None, 9, ledger, cast(Any, guard), notify=said.append)

    def save(path: Path) -> None:
        clock.now += 12.0

    module = StudentModule.__new__(StudentModule)
    torch.nn.Module.__init__(module)
    module.optimization = SimpleNamespace(health=StepHealth())
    with ledger.time("loop"):
        keep.on_train_start(cast(Any, None), module)
        for step in (1, 2, 3):
            clock.now += 1000.0
            trainer = SimpleNamespace(global_step=step, accumulate_grad_batches=1, save_checkpoint=save)
            keep.on_train_batch_end(cast(Any, trainer), module, None, None, step - 1)
    # 12 s are within 2 % of 1000 s; the next two are 75 * 12 s and more later
    assert keep.schedule.written == 3 and keep.cost(ledger.totals()["seconds"])["share"] == pytest.approx(36 / 3036)
    assert said == [
        "a checkpoint takes 12 s here, so one is written every 15 minutes; trainer.checkpoint_every= sets a number of steps"
    ]
