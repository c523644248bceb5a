"""Every choice of `select=`: a run that SIGKILL ends and the same command resumes gives the bits of an undisturbed one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kdlab.storage import tables
from tests.support.cadence import each_time
from tests.support.runs import KillAt, call, outcome, run_folder, tiny
from tests.support.selections import ON_TEXT, SINGLE, settings

# before any checkpoint; after one; between the row of selector.csv and the step
KILLS = ((2, "start"), (5, "end"), (6, "start"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, teacher_folder, text_folder) -> Path:
    """A folder whose artifact store has what tiny runs need."""
    folder = tmp_path_factory.mktemp("prepared")
    done = call(tiny(teacher_folder, text_folder, "trainer.max_steps=1", "select=random"), folder)
    assert done.code == 0, done.output
    return folder / "artifacts"


def fresh(tmp_path: Path, prepared: Path, name: str) -> Path:
    folder = tmp_path / name
    shutil.copytree(prepared, folder / "artifacts")
    return folder


# one of the kills for each choice, in turn; all of them for each choice among several arms
KILLED = {name: (name, (KILLS[number % len(KILLS)],)) for number, name in enumerate(ON_TEXT)} | {
    f"{name}, each time": (name, KILLS) for name in ON_TEXT if name not in SINGLE
}


# one of each kind; a single strategy has no state, and is killed below
@pytest.mark.parametrize("case", each_time(KILLED, "adads, each time", "ratios", "schedule", "disagreement"))
def test_a_killed_run_resumes_bit_for_bit(case, tmp_path, prepared, teacher_folder, text_folder):
    select, kills = KILLED[case]
    more = ["select.ratio=1"] if select == "all" else []
    command = tiny(teacher_folder, text_folder, f"select={select}", *more, *settings(select))
    whole = fresh(tmp_path, prepared, "whole")
    done = call(command, whole)
    assert done.code == 0, done.output
    expected = outcome(run_folder(whole))
    killed = fresh(tmp_path, prepared, "killed")
    for step, when in kills:
        assert call(command, killed, KillAt(step, when)).code == -9
    done = call(command, killed)
    assert done.code == 0, done.output
    assert "resuming the unfinished run" in done.output
    resumed = outcome(run_folder(killed))
    for part in expected:
        assert resumed[part] == expected[part], part


def test_a_killed_run_with_loader_processes_goes_on_bit_for_bit(tmp_path, prepared, teacher_folder, text_folder):
    command = tiny(teacher_folder, text_folder, "select=margin", "data.workers=2")
    plain = fresh(tmp_path, prepared, "plain")
    assert call(tiny(teacher_folder, text_folder, "select=margin"), plain).code == 0
    killed = fresh(tmp_path, prepared, "killed")
    assert call(command, killed, KillAt(4, "start")).code == -9
    assert call(command, killed).code == 0
    assert outcome(run_folder(killed)) == outcome(run_folder(plain))


def mine() -> None:
    from kdlab.methods.selection import strategies

    def surest(evidence):  # a plain function that says nothing of its needs: it is shown everything at once
        assert len(evidence) == len(evidence.features) == len(evidence.mask) == len(evidence.labels)
        return evidence.logits.softmax(-1).amax(-1).where(evidence.mask, 0).amax(1) + 0 * evidence.features[:, 0]

    strategies.margin = surest  # a configuration may only name what the room itself defines


def test_a_strategy_of_ones_own_sees_all_evidence(tmp_path, prepared, teacher_folder, text_folder):
    arms = ["select=random", "~select.arms.random", "+select.arms.surest._target_=kdlab.methods.selection.strategies.margin",
            "+select.arms.surest._partial_=true"]  # fmt: skip
    folder = fresh(tmp_path, prepared, "run")
    done = call(tiny(teacher_folder, text_folder, *arms), folder, mine)
    assert done.code == 0, done.output
    assert {r["arm"] for r in tables.read(run_folder(folder) / "selector.csv")} == {"surest"}


def test_every_run_writes_what_the_run_folder_promises(tmp_path, prepared, teacher_folder, text_folder):
    folder = fresh(tmp_path, prepared, "run")
    assert call(tiny(teacher_folder, text_folder, "figures=true"), folder).code == 0
    run = run_folder(folder)
    assert {p.name for p in run.iterdir()} == {
        "config.yaml", "result.json", "metrics.csv", "selector.csv", "checkpoints", "student", "figures",
    }  # fmt: skip
    rows = tables.read(run / "selector.csv")
    assert (
        list(rows[0])[:5] == ["step", "arm", "observation", "speed", "reward"]
        and list(rows[0])[-1] == "teacher_queries"
    )
    assert len(rows) == 8
