from __future__ import annotations

import json
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import torch
import torch.distributed as dist

from kdlab.errors import UserError
from kdlab.runtime.ledger import MANY, Ledger, speedup
from tests.support import forks

ROWS = 37


def ids(*rows: int) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int64)


def test_unique_counts_each_input_once_an_epoch():
    ledger = Ledger(ROWS)
    ledger.count_queries("large", ids(0, 3, 36), epoch=0)
    ledger.count_queries("large", ids(3, 4), epoch=0)
    ledger.count_queries("large", ids(3), epoch=1)
    ledger.count_queries("small", ids(3, 3), epoch=1)
    assert ledger.queries() == 8
    assert ledger.totals()["teacher_queries"] == {
        "unique": 6,
        "total": 8,
        "cached": 0,
        "per_teacher": {
            "large": {"unique": 5, "total": 6, "cached": 0},
            "small": {"unique": 1, "total": 2, "cached": 0},
        },
    }


@pytest.mark.parametrize("fixed", [True, False])
def test_rows_entered_together_are_those_entered_one_by_one(fixed):
    """Bit maps are filled for many queries at once, and before they are read."""
    rng, rows = np.random.default_rng(0), 1000
    ledger, seen, read = Ledger(rows, fixed), set(), []
    for step in range(2 * MANY + 7):
        drawn, epoch = rng.integers(0, rows, 3), step // 200
        ledger.count_queries("large", torch.from_numpy(drawn), epoch)
        seen |= {(0 if fixed else epoch, int(row)) for row in drawn}
        if step in (5, MANY - 1, MANY, MANY + 40):
            read.append((ledger.totals()["teacher_queries"]["unique"], len(seen)))
        drawn[:] = 0  # the ledger keeps its own
    read.append((ledger.totals()["teacher_queries"]["unique"], len(seen)))
    again = Ledger(rows, fixed)
    again.load_state_dict(ledger.state_dict())
    read.append((again.totals()["teacher_queries"]["unique"], len(seen)))
    assert [found for found, _ in read] == [wanted for _, wanted in read]


def test_fixed_inputs_count_once_a_run():
    ledger = Ledger(ROWS, fixed_inputs=True)
    for epoch in (0, 1, 2, 0):
        ledger.count_queries("t", ids(3, 4), epoch)
    assert ledger.totals()["teacher_queries"]["unique"] == 2
    assert ledger.totals()["teacher_queries"]["total"] == 8


def test_negative_epoch_marks_inputs_that_stay_the_same():
    ledger = Ledger(ROWS)
    for epoch in (-1, 0, -1, 1, -1):
        ledger.count_queries("t", ids(3, 4), epoch)
        ledger.totals()
    assert ledger.totals()["teacher_queries"]["unique"] == 6


@pytest.mark.parametrize(("fixed", "unique"), [(False, 7), (True, 3)])
def test_a_training_that_starts_again_begins_a_new_epoch_0_whose_masks_are_new(fixed, unique):
    """Text: rows 3, 4 and 3 in the first training, 3 and 5, and two observations, in the second; a task: 3, 4 and 5."""
    ledger = Ledger(ROWS, fixed_inputs=fixed)
    ledger.begin_training()
    ledger.count_queries("t", ids(3, 4), epoch=0)
    ledger.count_queries("t", ids(3), epoch=1)
    ledger.count_queries("t", ids(3), epoch=-2)
    ledger.begin_training()
    ledger.count_queries("t", ids(3, 5), epoch=0)
    ledger.count_queries("t", ids(3), epoch=-2)
    queries = ledger.totals()["teacher_queries"]
    assert (queries["unique"], queries["total"]) == (unique, 7)


def test_cache_hits_are_no_queries():
    ledger = Ledger(ROWS)
    ledger.count_cached("t", ids(1, 2, 3))
    queries = ledger.totals()["teacher_queries"]
    assert (queries["unique"], queries["total"], queries["cached"]) == (0, 0, 3)


def test_flops_beyond_64_bits_stay_exact():
    ledger = Ledger(ROWS)
    ledger.flops("teacher_forward", 10**19 + 1)
    ledger.flops("teacher_forward", 10**19 + 1)
    ledger.flops("scoring", 2.6)
    ledger.all_data(10**20, rows=32)
    assert ledger.totals()["flops"] == {
        "scoring": 3,
        "teacher_forward": 2 * 10**19 + 2,
        "total": 2 * 10**19 + 5,
        "all_data": 10**20,
    }
    assert ledger.totals()["rows_seen"] == 32


@pytest.mark.parametrize("part", ["total", "all_data"])
def test_sums_are_no_parts(part):
    with pytest.raises(ValueError, match=part):
        Ledger(ROWS).flops(part, 1)


@pytest.mark.parametrize("bad", [-1, ROWS])
def test_row_outside_the_data_is_refused(bad):
    with pytest.raises(ValueError, match="37 rows"):
        Ledger(ROWS).count_queries("t", ids(0, bad), epoch=0)


@pytest.mark.parametrize("agree", [True, False])
def test_epochs_do_not_go_back(agree):
    ledger = Ledger(ROWS)
    ledger.count_queries("t", ids(0), epoch=1)
    if agree:
        ledger.totals()
    with pytest.raises(ValueError, match="epoch 0 after epoch 1"):
        ledger.count_queries("t", ids(0), epoch=0)
    ledger.count_queries("other", ids(0), epoch=0)
    assert ledger.totals()["teacher_queries"]["total"] == 2


def test_memory_is_one_bit_a_row_and_does_not_grow_with_epochs():
    ledger = Ledger(80_000)
    for epoch in range(20):
        ledger.count_queries("t", torch.arange(0, 80_000, 2), epoch)
        state = ledger.state_dict()
    assert sum(bits.numel() for bits in state["teachers"]["t"]["asked"].values()) == 10_000
    assert ledger.totals()["teacher_queries"]["unique"] == 20 * 40_000


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `clock.pass_` moves."""

    class Clock:
        now = 1000.0

        def pass_(self, seconds: float) -> None:
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr("kdlab.runtime.ledger.perf_counter", lambda: clock.now)
    return clock


def test_timers_exclude_what_is_timed_inside(clock):
    ledger = Ledger(ROWS)
    clock.pass_(64)
    with ledger.time("step"):
        clock.pass_(2)
        with ledger.time("teacher_forward"):
            clock.pass_(4)
            with ledger.time("cache"):
                clock.pass_(8)
            clock.pass_(16)
        clock.pass_(32)
        assert ledger.totals()["seconds"] == {"step": 34, "teacher_forward": 20, "cache": 8, "total": 62}
        clock.pass_(1)
    clock.pass_(64)
    assert ledger.totals()["seconds"] == {"step": 35, "teacher_forward": 20, "cache": 8, "total": 63}


def test_a_timer_ends_when_its_block_raises(clock):
    ledger = Ledger(ROWS)
    with pytest.raises(KeyError), ledger.time("outer"), ledger.time("inner"):
        clock.pass_(1)
        raise KeyError
    clock.pass_(1)
    assert ledger.totals()["seconds"] == {"outer": 0, "inner": 1, "total": 1}


def test_seconds_go_on_after_a_resume(clock):
    first, second = Ledger(ROWS), Ledger(ROWS)
    with first.time("step"):
        clock.pass_(3)
    second.load_state_dict(first.state_dict())
    with second.time("scoring"):
        clock.pass_(1)
        with second.time("step"):
            clock.pass_(4)
    assert second.totals()["seconds"] == {"step": 7, "scoring": 1, "total": 8}


def test_totals_are_json():
    ledger = Ledger(ROWS)
    ledger.count_queries("t", ids(1), epoch=0)
    ledger.flops("scoring", 10**19)
    assert json.loads(json.dumps(ledger.totals())) == ledger.totals()


@pytest.mark.parametrize("other", [Ledger(ROWS + 1), Ledger(ROWS, fixed_inputs=True)])
def test_a_ledger_of_other_data_is_a_user_error(other):
    with pytest.raises(UserError, match="37 rows"):
        other.load_state_dict(Ledger(ROWS).state_dict())


def test_loading_drops_what_was_counted_before(clock):
    saved, used = Ledger(ROWS), Ledger(ROWS)
    saved.count_queries("t", ids(1), epoch=4)
    used.count_queries("t", ids(2, 3), epoch=7)
    used.flops("scoring", 5)
    with used.time("step"):
        clock.pass_(1)
    used.load_state_dict(saved.state_dict())
    used.count_queries("t", ids(1, 2), epoch=4)
    saved.count_queries("t", ids(1, 2), epoch=4)
    assert used.queries() == 3
    assert used.totals() == saved.totals()


def test_speedup_by_hand():
    ledger = Ledger(ROWS)
    ledger.all_data(564, rows=10)
    ledger.flops("scoring", 113)
    ledger.flops("teacher_forward", 45)
    ledger.count_queries("t", ids(5), epoch=0)
    totals = ledger.totals() | {"seconds": {"total": 4.0}}
    assert speedup(totals) == {"flops": 564 / 158, "queries": 10.0, "wallclock": None}
    assert speedup(totals, all_data_seconds=10.0)["wallclock"] == 2.5


def test_speedup_where_nothing_was_spent_is_none():
    ledger = Ledger(ROWS)
    ledger.all_data(564, rows=10)
    assert speedup(ledger.totals(), 1.0) == {"flops": None, "queries": None, "wallclock": None}


# Two ranks, one process: the same steps, split between ranks. Rows overlap between ranks on purpose, rank 1 alone queries
# the assistant, and the first half goes through a checkpoint.
STEPS = 24


def step(ledger: Ledger, number: int, of: range) -> None:
    """Record the work of ranks `of` in step `number`."""
    epoch = number // 5
    for rank in of:
        rows = (torch.arange(6) * (7 if rank else 3) + number * 5) % ROWS
        ledger.count_queries("teacher", rows, epoch)
        ledger.count_cached("teacher", rows[:rank])
        if rank and number % 3 == 0:
            ledger.count_queries("assistant", rows[:2], epoch)
        ledger.flops("teacher_forward", 10**18 * (rank + 1) + number)
        ledger.flops(f"only_{rank}", 1)
        ledger.all_data(7 * 10**18, rows=8)


def run(of: range, checkpoint: Path | None, writes: bool = True) -> Ledger:
    ledger = Ledger(ROWS)
    for number in range(STEPS):
        step(ledger, number, of)
        if checkpoint and number == 12:  # mid-epoch
            state = ledger.state_dict()
            if writes:
                torch.save(state, checkpoint)
            if dist.is_initialized():
                dist.barrier()
            ledger = Ledger(ROWS)
            ledger.load_state_dict(torch.load(checkpoint, weights_only=True))
        if number in (3, 17):
            ledger.total_queries()
        if number == 7:
            ledger.totals()
    return ledger


def two_ranks(number: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=number, world_size=2)
    ledger = run(range(number, number + 1), folder / "half.pt", writes=number == 0)
    for part in range(2):
        with ledger.time(f"slow_on_{part}"):
            sleep(0.03 if part == number else 0)
    result = {"total_queries": ledger.total_queries(), "totals": ledger.totals(), "state": ledger.state_dict()}
    torch.save(result, folder / f"{number}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_ranks_count_what_one_process_counts(tmp_path):
    forks.on_two_ranks(lambda number: two_ranks(number, tmp_path))
    expected = run(range(2), checkpoint=None).totals()
    for number in range(2):
        found = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        assert found["total_queries"] == expected["teacher_queries"]["total"]
        assert found["totals"]["seconds"]["slow_on_0"] >= 0.03  # the slower rank's, on both
        assert found["totals"]["seconds"]["slow_on_1"] >= 0.03
        assert {**found["totals"], "seconds": {}} == {**expected, "seconds": {}}
        alone = Ledger(ROWS)
        alone.load_state_dict(found["state"])
        assert {**alone.totals(), "seconds": {}} == {**expected, "seconds": {}}
    assert 10**18 < 2**63 < expected["flops"]["all_data"]  # what 64-bit sums would have lost


def test_another_ledgers_counts_are_one_part():
    """3 queries of a probe, twice the same row: the training's own counts stay as they are."""
    ledger, probe = Ledger(10, fixed_inputs=True), Ledger(10, fixed_inputs=True)
    ledger.count_queries("t", torch.tensor([1, 2]), 0)
    ledger.flops("student_forward", 5)
    probe.count_queries("t", torch.tensor([1, 3]), 0)
    probe.count_queries("t", torch.tensor([1]), 0)
    probe.flops("student_forward", 7)
    probe.flops("scoring", 1)
    ledger.add_part("paired_probe", probe)
    ledger.count_cached("t", torch.tensor([4]))
    assert ledger.answered(["student_forward", "scoring"]) == (5, {"t": 3, "t (paired_probe)": 3})
    totals = ledger.totals()
    assert totals["flops"] == {"paired_probe": 8, "student_forward": 5, "total": 13, "all_data": 0}
    assert totals["teacher_queries"]["total"] == 5
    assert totals["teacher_queries"]["per_teacher"]["t"] == {"unique": 2, "total": 2, "cached": 1}
    assert ledger.answered(["student_forward", "scoring"]) == (5, {"t": 3, "t (paired_probe)": 3})


def test_answers_that_were_read_and_not_kept_are_counted_where_there_are_any():
    ledger = Ledger(10)
    ledger.count_queries("t", torch.arange(4), 0)
    ledger.count_unkept("t", 0)
    assert "unkept" not in ledger.totals()["teacher_queries"] and "unkept" not in ledger.state_dict()["teachers"]["t"]
    ledger.count_unkept("t", 3)
    again = Ledger(10)
    again.load_state_dict(ledger.state_dict())
    again.count_unkept("t", 2)
    assert again.totals()["teacher_queries"]["unkept"] == 5 and again.totals()["teacher_queries"]["total"] == 4
