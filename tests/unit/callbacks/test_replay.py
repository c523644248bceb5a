"""Rows that come again: which, how many, and that the step is the loss of both batches in one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlab.callbacks.replay import Replay, kept_rows
from kdlab.types import Batch, Plan
from tests.unit.modules import test_student_tasks


def replay(share: float, seed: int = 0) -> Replay:
    return Replay(share, lambda rows: pytest.fail("no batch is made here"), 1000, seed)


def shown(callback: Replay, batches: list[list[int]]) -> list[list[int]]:
    """The rows that come again beside each of the `batches`, which are kept whole."""
    found = []
    for number, rows in enumerate(batches):
        kept = np.array(rows, np.int64)
        found.append(callback.drawn(kept, number).tolist())
        callback._add(kept)
    return found


@settings(deadline=None)  # a busy machine is no fault
@given(
    share=st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.5]),
    batches=st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=8, unique=True), min_size=1, max_size=12),
)
def test_as_many_as_asked_for_come_again_of_those_kept_before(share, batches):
    before: set[int] = set()
    for rows, again in zip(batches, shown(replay(share), batches), strict=True):
        assert len(again) == len(set(again)) == min(int(share * len(rows) + 0.5), len(before - set(rows)))
        assert set(again) <= before - set(rows)
        before |= set(rows)


def test_all_rows_kept_before_come_again_equally_often():
    callback, counts = replay(1.0), np.zeros(10)
    callback._add(np.arange(10))
    for number in range(4000):
        counts[callback.drawn(np.array([500, 501, 502]), number)] += 1
    assert counts.sum() == 12000 and np.abs(counts - 1200).max() < 5 * np.sqrt(1200 * 0.7)


def test_the_draw_is_of_the_seed_and_the_batch_and_goes_on_after_a_resume():
    batches = [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(12)]
    whole = shown(replay(2.0, seed=4), batches)
    assert whole == shown(replay(2.0, seed=4), batches) != shown(replay(2.0, seed=5), batches)
    begun, resumed = replay(2.0, seed=4), replay(2.0, seed=4)
    shown(begun, batches[:7])
    resumed._known[:] = True  # of a training before
    resumed.load_state_dict(begun.state_dict())
    for number in range(7, 12):
        kept = np.array(batches[number])
        assert resumed.drawn(kept, number).tolist() == whole[number]
        resumed._add(kept)


def test_rows_that_are_not_real_are_not_kept():
    batch = test_student_tasks.batch()
    batch.real[2] = False
    assert kept_rows(batch, torch.tensor([0, 2, 5])).tolist() == [0, 5]
    assert kept_rows(batch, None).tolist() == [0, 1, 3, 4, 5]


def test_the_step_is_the_loss_of_kept_rows_and_of_those_that_come_again():
    """Its gradient is that of a batch of both: three rows kept of the first, two of another."""
    terms = {"label": test_student_tasks.label, "soft": test_student_tasks.soft(2.0)}
    first, other = test_student_tasks.batch(), test_student_tasks.batch(lengths=[4, 9, 7, 3])
    again, rows = other.take(torch.tensor([1, 3])), torch.tensor([0, 2, 4])
    gradients = []
    for batch, plan in (
        (first, Plan(rows=rows, replayed=again)),
        (Batch.joined([first.take(rows), again]), Plan()),
    ):
        module = test_student_tasks.at(test_student_tasks.distiller(terms), 0)
        batch.plan = plan
        module.training_step(batch, 0).backward()
        assert int(module.trained_rows) == 5
        gradients.append([p.grad for p in module.student.parameters() if p.grad is not None])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_each_rank_trains_on_its_part(monkeypatch):
    """Two ranks keep two rows each; the three that come again are the same as of one rank, two and one of them."""
    batch = test_student_tasks.batch()
    found = {}
    for world, rank in ((1, 0), (2, 0), (2, 1)):
        made: list[np.ndarray] = []

        def collated(rows: np.ndarray, made: list[np.ndarray] = made) -> Batch:
            made.append(rows)
            return batch.take(torch.arange(len(rows)))

        callback = Replay(0.75, collated, 1000, 3)
        callback._add(np.arange(100, 140))
        monkeypatch.setattr("kdlab.callbacks.replay.distributed", SimpleNamespace(
            world=lambda world=world: world, rank=lambda rank=rank: rank, gather_rows=lambda rows: torch.tensor([0, 2, 3, 5]),
        ))  # fmt: skip
        batch.plan = Plan(rows=torch.tensor([0, 2, 3, 5]))
        callback.on_train_batch_start(SimpleNamespace(), SimpleNamespace(), batch, 7)  # pyright: ignore
        assert batch.plan.replayed is not None and len(batch.plan.replayed) == len(made[0])
        found[world, rank] = made[0].tolist()
    assert len(found[1, 0]) == 3 and found[2, 0] + found[2, 1] == found[1, 0]
    assert [len(found[2, rank]) for rank in (0, 1)] == [2, 1]
