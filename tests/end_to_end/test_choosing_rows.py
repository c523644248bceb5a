"""Strategies and policies together with what else a run does: other tasks, ranks, kills, forecasts, code of one's own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from kdlab.config.composition import composition
from kdlab.storage import tables
from kdlab.testing.tiny import write_task
from tests.end_to_end.test_finetune import UNTAUGHT, Lab, result_of
from tests.support.cadence import each_time
from tests.support.runs import KillAt, call, outcome, tiny_task

FEW = ["data.train_rows=40", "trainer.probes=0", "teachers.sanity=false"]  # 3 batches are an epoch
STATEFUL = '''
import torch

from kdlab.methods.marks import needs


@needs("rows", rowwise=False)
class Seldom:
    """Rows that were kept, or seen, least often come first."""

    def __init__(self):
        self.seen = {}

    def __call__(self, evidence):
        ids = evidence.rows.tolist()
        scores = torch.tensor([-float(self.seen.get(i, 0)) for i in ids], dtype=torch.float64)
        for i in ids[::2]:
            self.seen[i] = self.seen.get(i, 0) + 1
        return scores

    def state_dict(self):
        return {"seen": dict(self.seen)}

    def load_state_dict(self, state):
        self.seen = dict(state["seen"])
'''
OWN = ["--code", "seldom.py", "select=random", "~select.arms.random", "+select.arms.seldom._target_=seldom.Seldom"]
KILLED = {
    "stale badge": ["select=badge", "select.scoring=stale"],
    "divbs by the first layers": ["select=divbs", "select.scoring=early_exit"],
    "own": OWN,
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory, teacher_folder, task_folder) -> Lab:
    folder = tmp_path_factory.mktemp("choosing")
    (folder / "seldom.py").write_text(STATEFUL)
    return Lab(folder, teacher_folder, task_folder)


@pytest.mark.parametrize("what", each_time(KILLED, "own"))
def test_a_killed_run_goes_on_bit_for_bit(what, lab):
    more = [*FEW, *KILLED[what]]
    wanted, into = outcome(lab.run(*more)[0]), f"killed/{what.replace(' ', '-')}"
    assert lab.try_(*more, prepare=KillAt(5), into=into)[1].code == -9
    folder, done = lab.try_(*more, into=into)
    assert done.code == 0 and "resuming the unfinished run" in done.output, done.output
    assert outcome(folder) == wanted


def test_a_killed_run_goes_on_with_the_rows_that_come_again(tmp_path, teacher_folder, task_folder):
    """The answers of the first attempt are on disk, those of the whole run are not there any more."""
    more = [*FEW, "data.batch_size=8", "select=entropy", "select.ratio=0.5", "select.replay=2", "teachers.cache=disk"]
    given = tiny_task(teacher_folder, task_folder, *more)
    done = call([*given, "hydra.run.dir=whole"], tmp_path)
    assert done.code == 0, done.output
    shutil.rmtree(tmp_path / "artifacts" / "answers")
    assert call([*given, "hydra.run.dir=killed"], tmp_path, KillAt(5)).code == -9
    done = call([*given, "hydra.run.dir=killed"], tmp_path)
    assert done.code == 0 and "resuming the unfinished run" in done.output, done.output
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_rows_that_come_again_ask_no_teacher(lab):
    """Of 8 rows a batch 4 are kept: with replay=1.5 six more come, three batches an epoch, none before the first."""
    more = [*FEW, "data.batch_size=8", "select=random", "select.ratio=0.5", "trainer.max_steps=5"]
    plain = result_of(lab.run(*more)[0])["ledger"]
    again = result_of(lab.run(*more, "select.replay=1.5", "teachers.cache=memory", into="again")[0])["ledger"]
    assert again["teacher_queries"]["total"] == plain["teacher_queries"]["total"] == 20
    assert again["teacher_queries"]["cached"] == 4 + 6 + 6 + 6  # the second batch has four rows behind it
    assert again["flops"]["teacher_forward"] == pytest.approx(plain["flops"]["teacher_forward"], rel=0.02)
    assert again["flops"]["student_backward"] == pytest.approx(42 / 20 * plain["flops"]["student_backward"], rel=0.15)


def test_the_baselines_of_a_plan_are_without_rows_that_come_again(lab, teacher_folder, task_folder):
    """A quarter is kept and three times as many come again: the student runs on as many rows as with all data, whose teacher
    runs on four times as many. For the same FLOPs random rows without any that come again ask for more than twice as many."""
    more = [*FEW, "select=random", "select.ratio=0.25", "teachers.cache=memory", "trainer.max_steps=12", "--plan"]
    done = call([*tiny_task(teacher_folder, task_folder, *more), "select.replay=3"], lab.folder)
    assert done.code == 0, done.output
    lines = [line for line in done.output.splitlines() if line.startswith(("teacher queries", "model FLOPs"))]
    queries, flops = (re.findall(r"[\d.,]+(?: [KMGT])?\b", line) for line in lines)
    asked = [int(number.replace(",", "")) for number in queries]
    assert len(asked) == 4 and asked[1] == 4 * asked[0] and asked[3] > 2 * asked[0]
    run, whole = (float(number.split()[0]) for number in flops[:2])
    assert flops[0][-1] == flops[1][-1] and run < whole < 3 * run


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["select.replay=2"], "none are kept; teachers.cache=memory"),
        (["select.replay=2", "teachers.cache=disk", "teachers.cache_over=without"], "teachers.cache_over=refuse"),
        (["select.replay=2", "teachers.cache=disk", "knowledge.labels_on=all"], "select.replay=0"),
        (["select.replay=2", "teachers.cache=disk", "select.temperature=1", "select.importance=true"], "select.importance=false"),
        (["select.replay=-1"], "select.replay"),
    ],
)  # fmt: skip
def test_a_replay_that_could_not_be_what_it_says_is_refused_in_one_line(more, says, lab):
    folder, done = lab.try_(*FEW, "select=entropy", *more)
    assert done.code == 2 and says in done.output and not folder.exists(), done.output
    assert done.output.strip().count("kdlab:") == 1, done.output


@pytest.mark.nightly
@pytest.mark.parametrize("select", ["divbs", "badge", "forgetting", "loss", "disagreement", "committee", "reducible"])
def test_strategies_of_classes_refuse_a_number_in_one_line(select, lab, tmp_path):
    rows = write_task(tmp_path / "numbers", rows=60, regression=True)
    folder, done = lab.try_(f"select={select}", f"data.path={rows}", "teachers.cache=disk", *UNTAUGHT)
    assert done.code == 2 and done.output.strip().count("kdlab:") == 1 and "regression" in done.output, done.output
    assert not folder.exists()


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["select=adads", "select.reward=per_query", "knowledge=labels"], "queries no teacher"),
        (["select=entropy", "select.reward=trend"], "learns nothing from rewards"),
        (["select=entropy", "select.ratios=auto"], "its policy keeps no mean ratio"),
        (["select=adads", "select.reward._target_=kdlab.methods.selection.rewards.Probe", "+select.reward.compare=9"], "compare=9"),
    ],
)  # fmt: skip
def test_rewards_without_what_they_measure_are_refused_in_one_line(more, says, lab):
    folder, done = lab.try_(*FEW, *more)
    assert done.code == 2 and says in done.output and not folder.exists(), done.output


@pytest.mark.nightly
@pytest.mark.parametrize(
    "more",
    [
        ["select=committee", "select.votes=2", "student.dropout=0.1"],
        ["select=committee"],
        ["select=disagreement", "teachers.cache=disk"],
        ["select=entropy", "select.ratio=0.75", "select.replay=1.5", "teachers.cache=memory"],
    ],
)
def test_the_forecast_is_near_the_ledger(more, lab):
    from kdlab.config.schema import checked
    from kdlab.runs.prepare import most_batches
    from kdlab.stages.costs.step_costs import StepCosts
    from kdlab.stages.registry import stage_of

    more = [*FEW, *more, "trainer.max_steps=3"]  # one epoch: a cache answers nothing, as the forecast has it
    ledger = result_of(lab.run(*more)[0])["ledger"]
    command = tiny_task(lab.teacher, lab.rows, *more)
    stage = stage_of(checked(composition(command)[0]), lambda line: None)
    data = stage.inputs.data_module(most_batches(stage.config), None)
    found = StepCosts(stage, stage.module_without_weights(), data, 1).total(3)
    for part in ("scoring", "student_forward", "student_backward", "teacher_forward"):
        assert found.parts[part] == pytest.approx(ledger["flops"][part], rel=0.15), part
    assert found.queries == ledger["teacher_queries"]["total"]


@pytest.mark.nightly
def test_a_policy_over_ratios_has_a_forecast(lab, teacher_folder, task_folder):
    done = call([*tiny_task(teacher_folder, task_folder, *FEW, "select=ratios"), "--plan"], lab.folder)
    assert done.code == 0 and "queries" in done.output, done.output


def test_probes_leave_no_trace_in_histories_of_rows(lab):
    """A probe scores rows of the coming steps under every arm; the visits that it makes are not visits of the run."""
    random = "+select.arms.random={_target_: kdlab.methods.selection.strategies.random, _partial_: true}"
    more = [*FEW, "select=forgetting", random, "+select.policy.arm=forgetting", "select.probe_steps=2"]
    plain, probed = (lab.run(*more, f"select.probe_every={every}")[0] for every in ("null", "2"))
    assert outcome(probed)["student"] == outcome(plain)["student"]
    assert tables.read(probed / "probe.csv")


@pytest.mark.nightly
def test_probes_on_two_ranks_are_those_of_one(lab, teacher_folder, task_folder):
    probes = [
        "select=adads",
        "select.reward=trend",
        "select.probe_every=4",
        "select.interval=2",
        "select.probe_steps=2",
    ]
    given = tiny_task(teacher_folder, task_folder, *FEW, *probes, "trainer.accelerator=cpu", "optim.eps=1e-5",
                      "hydra.run.dir=two", "data.batch_size=8", "trainer.devices=2")  # fmt: skip
    lab.run(*FEW, *probes, "trainer.accelerator=cpu", "optim.eps=1e-5", into="one")
    done = call(given, lab.folder, ranks=2)
    assert done.code == 0, done.output
    one, two = (tables.read(Path(lab.folder) / name / "probe.csv") for name in ("one", "two"))
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        assert (a["step"], a["arm"]) == (b["step"], b["arm"])
        assert float(a["after"]) == pytest.approx(float(b["after"]), abs=2e-4)
