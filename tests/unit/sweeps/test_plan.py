"""The plan of a sweep: preparation is paid once, and jobs take the time that a launcher needs for them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from kdlab.runs.closing.plan_lines import plan_lines
from kdlab.runs.forecast import text
from kdlab.runs.forecast.forecast import Forecast, TrainingCost
from kdlab.runs.forecast.preparation import StageCost
from kdlab.sweeps.plan import _once, _total, makespan

TEACHER = StageCost("teacher, 6 layers, fine-tuned", False, 0, 5e12, 100.0, 90_000_000, "0123456789abcdef")
RUN = TrainingCost(60, 360, 1.4e12, 50.0, 2.5)
JOB = Forecast(
    RUN, {"scoring": 1e12, "teacher_forward": 4e11}, 5.0, 0.0, 10**9, 10**8, [TEACHER],
    {"random, same FLOPs": TrainingCost(150, 900, 1.4e12, 70.0, 3.0)}, {"steps": 16, "devices": 1},
)  # fmt: skip


@pytest.mark.parametrize(("at_once", "seconds"), [(1, 10.0), (2, 7.0), (3, 5.0), (None, 4.0), (9, 4.0)])
def test_jobs_start_in_order_as_places_are_free(at_once, seconds):
    assert makespan([3, 2, 1, 4], at_once) == seconds


def test_no_order_of_jobs_ends_before_their_mean_or_after_twice_the_best():
    jobs = [5.0, 3.0, 2.0, 2.0]
    ends = [makespan(order, 2) for order in itertools.permutations(jobs)]
    assert min(ends) >= sum(jobs) / 2 and min(ends) == 7.0 and max(ends) <= 2 * min(ends) and makespan([], 2) == 0


def test_the_preparation_of_several_jobs_is_paid_once():
    second = _once(JOB, [JOB])
    assert second.preparation[0].found and second.whole == pytest.approx(JOB.whole - 100)
    other = replace(JOB, preparation=[replace(TEACHER, key="f" * 16)])
    assert not _once(other, [JOB]).preparation[0].found
    lines = _total([JOB, second], finished=1, at_once=2)
    assert lines[0].startswith("total of 2 jobs, 1 finished: 720 queries, 7.80 TFLOPs, 3.5 min, price 5")
    assert any("the chosen launcher (2 at once): 2.6 min" in line for line in lines)
    lines = _total([JOB, second, second], finished=0, at_once=2)  # 100 s for all, then 55 s and twice 55 s
    assert any("the chosen launcher (2 at once): 3.5 min" in line for line in lines)


def test_a_forecast_is_the_same_after_it_was_written():
    assert Forecast.of_json(JOB.as_json()) == JOB


def test_the_lines_of_a_plan():
    lines = text.lines(JOB)
    assert lines[0] == "plan of 60 steps on 1 device, by 16 timed steps"
    assert lines[3].split() == ["teacher", "queries", "360", "900"] and lines[6].split() == ["price", "2.5", "3"]
    assert "  teacher, 6 layers, fine-tuned: to be made: 0 queries, 5.00 TFLOPs, 100.0 s, 90 MB on disk" in lines
    assert lines[-1] == "in all: 2.6 min"


def test_the_closing_table_says_how_far_off_the_plan_was():
    assert plan_lines({}) == []
    plan = {
        "forecast": {"queries": 110, "seconds": 45.0, "memory": 10**9},
        "real": {"queries": 100, "seconds": 50.0, "memory": 0},
    }
    header, *rows = plan_lines({"plan": plan})[1:]
    assert header.split() == ["plan", "forecast", "real", "off"]
    assert [row.split()[-1] for row in rows] == ["+10.0%", "-10.0%", "-"]


def test_jobs_that_cost_the_same_are_timed_once_and_finished_ones_not_at_all(tmp_path, monkeypatch, capsys):
    from kdlab.config.composition import composition
    from kdlab.config.schema import checked
    from kdlab.sweeps import plan

    timed = []
    monkeypatch.setattr(plan, "forecast", lambda stage, world: timed.append(stage.config.select.name) or JOB)
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "result.json").write_text('{"status": "finished"}')
    choices = [("a", "random", 1), ("b", "random", 2), ("c", "entropy", 1), ("done", "margin", 1)]
    jobs = [
        plan.PlannedJob(
            f"{select},{seed}", tmp_path / folder, checked(composition([f"select={select}", f"seed={seed}"])[0])
        )
        for folder, select, seed in choices
    ]
    plan.print_plan(jobs, 1)
    lines = capsys.readouterr().out.splitlines()
    assert timed == ["random", "entropy"]
    assert [line.partition(":")[0] for line in lines[:3]] == ["random,1", "random,2", "entropy,1"]
    assert lines[3].startswith("total of 3 jobs, 1 finished: 1,080 queries")
    assert sum("made once" in line for line in lines) == 1


@pytest.mark.parametrize(("seeded", "made"), [(False, 1), (True, 3)])
def test_a_part_that_has_the_seed_of_its_run_is_paid_for_each_seed(tmp_path, monkeypatch, capsys, seeded, made):
    from kdlab.config.composition import composition
    from kdlab.config.schema import checked
    from kdlab.sweeps import plan

    one = replace(JOB, preparation=[replace(TEACHER, seeded=seeded)])
    monkeypatch.setattr(plan, "forecast", lambda stage, world: one)
    choices = ["seed=1", "seed=2", "seed=2 trainer.max_steps=7", "seed=2 optim.lr=0.5"]
    jobs = [plan.PlannedJob(c, tmp_path / c, checked(composition(c.split())[0])) for c in choices]
    plan.print_plan(jobs, 1)
    assert sum("made once" in line for line in capsys.readouterr().out.splitlines()) == made
