"""Batches of a timed training: the longest first, then spread lengths; each strategy in turn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdlab.data.loading import BatchOrder
from kdlab.runs.forecast.timing import WARM, RoundRobin, SpreadBatches, StepClock


class Rows:
    """A data module of 1,000 rows; a batch is the list of its rows."""

    lengths = np.random.default_rng(0).integers(4, 120, 1000)

    def sampler(self, rank: int, world: int) -> BatchOrder:
        return BatchOrder(self.lengths, 16, 10**6, 1, rank, world)

    def training_rows(self):
        return {(0, i): i for i in range(1000)}, list


@pytest.mark.parametrize("world", [1, 2])
def test_the_longest_batch_comes_first_and_each_beginning_of_the_others_is_spread(world):
    data = Rows()
    spread = SpreadBatches(data, 17, world)
    sizes = [int(data.lengths[rows].sum()) for rows in spread.chosen]
    every = [
        int(data.lengths[np.array_split(rows, world)[0]].sum()) for rows in data.sampler(0, world).epoch_batches(0)
    ]
    assert len(spread) == 18 and sizes[0] == max(every)
    for count in (4, 8, 17):
        assert np.mean(sizes[1 : 1 + count]) == pytest.approx(np.mean(every), rel=0.15)
    assert [sorted(batch) for batch in spread] == [sorted(rows.tolist()) for rows in spread.chosen]


def test_a_spread_training_has_the_rest_of_its_data_module():
    assert SpreadBatches(Rows(), 4).lengths is Rows.lengths


def test_each_arm_has_its_turn():
    policy, rng = RoundRobin(["a", "b", "c"]), torch.Generator()
    assert [policy.choose(0.0, rng) for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]


class Trainer:
    accumulate_grad_batches, should_stop = 2, False


def test_the_clock_leaves_the_first_steps_out_and_counts_what_the_ledger_counts(monkeypatch):
    times, flops = iter([10.0, 11.0, 13.0, 15.0]), iter([100, 110, 130, 150])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    clock = StepClock(costs=lambda: {"flops": next(flops), "queries": {"small": 1, "large": 2}})
    for batch in range(8):  # of 2 micro-batches each
        clock.on_train_batch_end(Trainer(), None, None, None, batch)  # pyright: ignore[reportArgumentType]
    assert WARM == 2 and clock.steps == 2 and clock.seconds == 2.0
    assert clock.of_a_step("flops") == 20 and clock.of_a_step("queries") == 0


def test_a_slow_training_is_timed_by_fewer_steps(monkeypatch):
    times = iter(range(0, 10_000, 50))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(times)))
    clock, trainer = StepClock(), Trainer()
    trainer.accumulate_grad_batches = 1
    for batch in range(WARM + 4):
        assert not trainer.should_stop
        clock.on_train_batch_end(trainer, None, None, None, batch)  # pyright: ignore[reportArgumentType]
    assert trainer.should_stop and clock.seconds == 50
