"""Runs that choose positions: costs, kills, ranks, rows and positions together, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.runs.closing.cost_lines import cost
from kdlab.runs.prepare import most_batches
from kdlab.stages.costs.step_costs import StepCosts
from kdlab.stages.registry import stage_of
from tests.support.cadence import each_time
from tests.support.runs import assert_resumed, assert_same, call, on_two_ranks, outcome, tiny, tiny_causal

RUN = "hydra.run.dir=run"
POSITIONS = ["select.unit=position", "select.ratio=0.25"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, decoder_folder, text_folder) -> Path:
    """A folder with a finished run of AdaDS over positions, `run`, and its artifacts."""
    folder = tmp_path_factory.mktemp("whole")
    done = call([*tiny_causal(decoder_folder, text_folder, "select=adads", *POSITIONS), RUN], folder)
    assert done.code == 0, done.output
    return folder


def result_in(folder: Path, name: str = "run") -> dict:
    return json.loads((folder / name / "result.json").read_text())


def test_a_bandit_chooses_positions_and_the_ledger_says_what_they_cost(whole):
    ledger = result_in(whole)["ledger"]
    assert ledger["teacher_queries"]["total"] == ledger["rows_seen"]  # each row runs through the teacher's trunk
    positions = ledger["positions"]
    assert positions["kept"] == positions["queried"]
    assert 0.2 < positions["kept"] / positions["seen"] <= 0.25


def test_the_closing_table_says_how_many_positions_were_learnt(whole):
    result = result_in(whole)
    positions = result["ledger"]["positions"]
    assert result["select"] == {"name": "adads", "ratio": 0.25, "unit": "position", "per_row": True}
    (line,) = [one for one in "\n".join(cost(result)).splitlines() if "positions learnt" in one]
    assert line.split()[2:5] == [
        f"{positions['kept']:,}",
        f"{positions['seen']:,}",
        f"{positions['kept'] / positions['seen']:.1%}",
    ]
    assert (
        f"{positions['kept']:,} of {positions['seen']:,} positions learnt"
        in (whole / "run/student/README.md").read_text()
    )


def test_killed_runs_go_on_bit_for_bit(whole, tmp_path, decoder_folder, text_folder):
    given = [*tiny_causal(decoder_folder, text_folder, "select=adads", *POSITIONS), RUN]
    assert_resumed(given, tmp_path, whole / "run", (7, "end"))
    assert result_in(tmp_path)["ledger"]["positions"] == result_in(whole)["ledger"]["positions"]


@pytest.mark.parametrize(
    "more",
    [
        ["select=entropy", "select.per_row=false", "select.ratio=0.02"],
        ["select=randmix", "select.unit=both", "select.ratio=0.5"],
    ],
    ids=["over the batch", "rows, then positions"],
)
def test_two_ranks_equal_one_process(tmp_path, decoder_folder, text_folder, more):
    """With so few positions of a batch that a rank may have none."""
    given = tiny_causal(decoder_folder, text_folder, *POSITIONS, *more, "trainer.accelerator=cpu", "trainer.probes=0")
    left, right = (result["ledger"] for result in on_two_ranks(given, tmp_path))
    assert left["teacher_queries"] == right["teacher_queries"] and left["positions"] == right["positions"]
    if "select.unit=both" in more:
        assert left["positions"]["kept"] < 0.12 * left["positions"]["seen"]
        assert left["teacher_queries"]["total"] < 0.6 * left["rows_seen"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["knowledge=causal_states"], "select.unit=row"),
        (["knowledge.terms.soft.at=all"], "knowledge.terms.soft.at=labelled"),
        (["knowledge=minilm"], "select.unit=row"),
        (["select.scoring=stale"], "select.scoring=fresh"),
        (["select.look=0.5"], "select.look=1"),
        (["select.pool=64"], "select.ratio is the share of positions"),
        (["select.unit=both", "select.positions=1"], "select.unit=row select.ratio=0.25"),
        (["select=forgetting"], "goes by the class of a row"),
        (["select=badge"], "another strategy, such as entropy"),
    ],
)
def test_what_positions_cannot_have_is_refused_in_one_line(more, said, decoder_folder, text_folder, tmp_path):
    given = tiny_causal(decoder_folder, text_folder, "select=entropy", *POSITIONS, *more)
    done = call([*given, RUN], tmp_path)
    assert done.code == 2 and said in done.output, done.output
    assert not (tmp_path / "run" / "student").exists() and "Traceback" not in done.output


OTHER = {
    "tip, adakd": ["select=tip", "teachers.cache=disk", "weigh=adakd"],
    "cached, selectkd": ["select=random", "teachers.cache=memory", "weigh=selectkd", "weigh.arms.selectkd.beta=0.2"],
    "sampled": [
        "select=entropy", "select.explore=0.25", "select.temperature=1", "select.importance=true", "knowledge.labels_on=all",
    ],
    "scored": ["select=adads", "select.observe=scored", "select.per_row=false", "select.interval=2"],
}  # fmt: skip


@pytest.mark.parametrize("what", each_time(OTHER, "tip, adakd", "sampled", "scored"))
def test_positions_are_learnt_with_other_settings(what, decoder_folder, text_folder, tmp_path):
    more = OTHER[what]
    done = call([*tiny_causal(decoder_folder, text_folder, *POSITIONS, *more, "trainer.max_steps=4"), RUN], tmp_path)
    assert done.code == 0, done.output
    result = result_in(tmp_path)
    positions = result["ledger"]["positions"]
    assert 0.2 < positions["kept"] / positions["seen"] <= 0.25 and np.isfinite(result["metrics"]["student"]["loss"])
    if "select=tip" in more:  # the teacher's answers to all positions are read to choose, once
        assert positions["queried"] > 0.9 * positions["seen"]
    weighed = tmp_path / "run/knowledge.csv"
    assert weighed.exists() == any(one.startswith("weigh=") for one in more)


def test_masked_words_are_positions_too(teacher_folder, text_folder, tmp_path):
    given = tiny(teacher_folder, text_folder, "select=entropy", *POSITIONS, "select.ratio=0.5", "trainer.max_steps=3")
    refused = call([*given, RUN], tmp_path)
    assert refused.code == 2 and "knowledge.terms.cosine.weight=0" in refused.output, refused.output
    done = call([*given, "knowledge.terms.cosine.weight=0", RUN], tmp_path)
    assert done.code == 0, done.output
    positions = result_in(tmp_path)["ledger"]["positions"]
    assert 0.3 < positions["kept"] / positions["seen"] < 0.6 and positions["kept"] == positions["queried"]


def test_a_row_of_a_task_has_no_positions(tmp_path):
    done = call(["+exp=finetune", "select=entropy", "select.unit=position", RUN], tmp_path)
    assert done.code == 2 and "there are no positions to choose" in done.output, done.output


def test_all_positions_are_plain_distillation_bit_for_bit(decoder_folder, text_folder, tmp_path):
    given = tiny_causal(decoder_folder, text_folder, "trainer.max_steps=3")
    for name, more in (("plain", ["select=all"]), ("ones", ["select=entropy", *POSITIONS, "select.ratio=1"])):
        done = call([*given, *more, f"hydra.run.dir={name}"], tmp_path)
        assert done.code == 0, done.output
    assert_same(outcome(tmp_path / "ones"), outcome(tmp_path / "plain"))


def test_a_cache_of_positions_is_resumed_exactly_and_serves_a_second_student(decoder_folder, text_folder, tmp_path):
    """Two passes whose positions differ, so that answers are merged; a run that is killed in each, and another student."""
    given = tiny_causal(
        decoder_folder, text_folder, "select=random", *POSITIONS, "teachers.cache=disk", "trainer.max_epochs=4",
        "trainer.max_steps=null",
    )  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = call([*given, RUN], whole)
    assert done.code == 0, done.output
    positions = result_in(whole)["ledger"]["positions"]
    assert 0.5 * positions["kept"] < positions["queried"] < positions["kept"]  # some were asked for in an earlier pass
    assert_resumed([*given, RUN], killed, whole / "run", (3, "end"), (6, "start"))
    assert result_in(killed)["ledger"]["positions"] == positions
    second = call([*given, "student.layers=1", "hydra.run.dir=second"], whole)
    assert second.code == 0, second.output
    ledger = result_in(whole, "second")["ledger"]
    assert ledger["positions"]["queried"] == ledger["teacher_queries"]["total"] == 0
    assert ledger["positions"]["kept"] == positions["kept"]


def test_a_plan_counts_to_the_last_flop(decoder_folder, text_folder, tmp_path, monkeypatch):
    given = tiny_causal(decoder_folder, text_folder, "select=entropy", *POSITIONS, "weigh=adakd", "trainer.probes=0")
    done = call([*given, RUN], tmp_path)
    assert done.code == 0, done.output
    ledger, steps = result_in(tmp_path)["ledger"], result_in(tmp_path)["steps"]
    monkeypatch.chdir(tmp_path)
    stage = stage_of(checked(composition(given)[0]), lambda line: None)
    data = stage.inputs.data_module(most_batches(stage.config), None)
    planned = StepCosts(stage, stage.module_without_weights(), data, 1).total(steps)
    assert planned.queries == ledger["teacher_queries"]["total"]
    for part in ("student_forward", "student_backward", "teacher_forward", "scoring"):
        assert planned.parts[part] == pytest.approx(ledger["flops"][part], rel=1e-9), part
