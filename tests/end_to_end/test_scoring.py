"""Scoring modes of selection end to end: costs, selected rows, resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.runs.prepare import most_batches
from kdlab.stages.costs.step_costs import StepCosts
from kdlab.stages.registry import stage_of
from kdlab.storage import tables
from tests.end_to_end.test_finetune import Lab, result_of, weights
from tests.support.cadence import each_time
from tests.support.runs import KillAt, call, outcome, tiny_task

COMMON = ["select=entropy", "data.train_rows=40", "trainer.probes=0", "teachers.sanity=false"]  # 3 batches are an epoch

TOGETHER = [*COMMON, "trainer.accumulate=2", "data.batch_size=8", "trainer.max_steps=6"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory, teacher_folder, task_folder) -> Lab:
    return Lab(tmp_path_factory.mktemp("scoring"), teacher_folder, task_folder)


def scoring(lab: Lab, *more: str) -> int:
    """FLOPs of the scoring forwards."""
    return lab.result(*COMMON, *more)["ledger"]["flops"]["scoring"]


def test_scores_looked_up_afresh_each_epoch_are_fresh_scores(lab):
    fresh, stale = (lab.run(*COMMON, *more)[0] for more in ([], ["select.scoring=stale", "select.refresh=1"]))
    assert weights(fresh) == weights(stale)
    assert scoring(lab) == scoring(lab, "select.scoring=stale", "select.refresh=1")


def test_stale_scores_cost_one_look_in_so_many_epochs(lab):
    once = scoring(lab, "trainer.max_steps=3")
    assert scoring(lab, "select.scoring=stale", "select.refresh=9") == once
    assert scoring(lab, "select.scoring=stale") == scoring(lab) - (scoring(lab, "trainer.max_steps=6") - once)


def test_the_first_layers_cost_their_share_and_all_of_them_choose_as_ever(lab):
    half = scoring(lab, "select.scoring=early_exit")
    assert 0.15 < half / scoring(lab) < 0.3  # of a whole layer, one for first tokens, and the head, the latter two
    every = lab.run(*COMMON, "select.scoring=early_exit", "select.exit_layer=2")[0]
    assert weights(every) == weights(lab.run(*COMMON)[0])


@pytest.mark.nightly  # its laws are in tests/unit/callbacks/test_stale.py and test_look.py
def test_stale_evidence_of_a_policy_and_look_share_the_cost(lab):
    """A score serves all arms for nine epochs; of half of the rows that are drawn those without one run."""
    adads = ["select=adads", "data.train_rows=40", "trainer.probes=0", "teachers.sanity=false", "trainer.max_steps=12"]
    spent = {
        more: lab.result(*adads, *more.split())["ledger"]["flops"].get("scoring", 0)
        for more in ("", "select.scoring=stale select.refresh=9", "select.look=0.5")
    }
    fresh, stale, look = spent.values()
    assert stale < 0.5 * fresh and 0.35 * fresh < look < 0.65 * fresh


def test_rows_that_are_scored_are_the_observation(lab):
    """Strategies on logits observe at no cost, from the second decision on."""
    adads = ["select=adads", "data.train_rows=40", "trainer.probes=0", "teachers.sanity=false", "select.interval=2"]
    scored = ["select.observe=scored", "~select.arms.cluster", "~select.arms.density"]
    folder = lab.run(*adads, *scored)[0]
    result = result_of(folder)
    assert "observation" not in result["ledger"]["flops"] and result["observation"]["share"] == 0
    seen = [row["observation"] for row in tables.read(folder / "selector.csv")]
    assert seen[0] == "" and all(0 < float(loss) < 3 for loss in seen[1:]) and len(seen) == 4


@pytest.mark.parametrize("how", each_time(["stale", "early_exit"], "stale"))  # an exit has no state
def test_a_killed_run_goes_on_bit_for_bit(lab, how):
    whole = lab.run(*COMMON, f"select.scoring={how}")[0]
    folder, first = lab.try_(*COMMON, f"select.scoring={how}", prepare=KillAt(5), into=f"killed_{how}")
    assert first.code < 0
    _, second = lab.try_(*COMMON, f"select.scoring={how}", into=f"killed_{how}")
    assert second.code == 0, second.output
    assert outcome(folder) == outcome(whole)


def test_a_killed_run_that_scores_micro_batches_together_goes_on_bit_for_bit(lab):
    """It selects what it selects with each scored alone."""
    whole = lab.run(*TOGETHER)[0]
    folder, first = lab.try_(*TOGETHER, prepare=KillAt(4), into="killed_together")
    assert first.code < 0
    _, second = lab.try_(*TOGETHER, into="killed_together")
    assert second.code == 0, second.output
    assert outcome(folder) == outcome(whole)
    alone = lab.run(*TOGETHER, "exec=padded")[0]
    assert rows_kept(whole) == rows_kept(alone)
    ours, theirs = (result_of(run)["metrics"]["student"]["loss"] for run in (whole, alone))
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_the_forecast_of_micro_batches_scored_together_is_that_of_the_ledger(lab):
    """Without padding that each alone would have, and in longer rows; a budget's bound covers both."""
    given = [*TOGETHER, "select.ratio=0.5"]
    stage = stage_of(checked(composition(tiny_task(lab.teacher, lab.rows, *given))[0]), lambda line: None)
    costs = StepCosts(
        stage, stage.module_without_weights(), stage.inputs.data_module(most_batches(stage.config), None), 1
    )
    spent = lab.result(*given)["ledger"]["flops"]["scoring"]
    assert costs.total(6).parts["scoring"] == pytest.approx(spent, rel=0.02)
    assert sum(costs.most(step, 6).parts["scoring"] for step in range(6)) >= spent


def test_two_ranks_remember_the_same_scores(lab, teacher_folder, task_folder):
    given = tiny_task(teacher_folder, task_folder, *COMMON, "select.scoring=stale", "trainer.accelerator=cpu",
                      "optim.eps=1e-5", "hydra.run.dir=two", "data.batch_size=8", "trainer.devices=2")  # fmt: skip
    lab.run(*COMMON, "select.scoring=stale", "optim.eps=1e-5", "trainer.accelerator=cpu", into="one")
    done = call(given, lab.folder, ranks=2)
    assert done.code == 0, done.output
    one, two = (rows_kept(lab.folder / name) for name in ("one", "two"))
    assert one == two


def rows_kept(folder: Path) -> tuple[int, int]:
    queries = result_of(folder)["ledger"]["teacher_queries"]
    return queries["total"], queries["unique"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["select.scoring=early_exit", "select.exit_layer=3"], "the student has 2 layers"),
        (["select.scoring=stale", "select.scope=local"], "select.scope=global"),
        (["select.scoring=slow"], "fresh"),
        (["select=adads", "select.observe=scored", "select.scoring=stale"], "select.scoring=fresh"),
        (["select=adads", "select.observe=scored", "select.reward=probe"], "select.observe=task"),
    ],
)
def test_what_cannot_be_looked_at_so_is_refused_in_one_line(lab, more, says):
    folder, done = lab.try_(*COMMON, *more)
    assert done.code == 2 and says in done.output and not folder.exists(), done.output
    assert done.output.strip().count("kdlab:") == 1
