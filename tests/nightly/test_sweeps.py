"""Every job of every sweep: composed at both scales, checked at the paper's, run at tiny size at the laptop's."""

from __future__ import annotations

import json

import pytest

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.data.tasks.registry import TASKS
from kdlab.stages.registry import stage_of
from kdlab.stages.validation import check
from kdlab.sweeps import files
from tests.conftest import write_task, write_teacher, write_text
from tests.support.runs import call
from tests.support.sweeps import all_grids, choices, jobs, one_seed

SECONDS = [
    "trainer.max_steps=4", "trainer.evaluate_every=100", "trainer.checkpoint_every=100", "trainer.probes=0",
    "trainer.threads=1", "trainer.precision=32-true", "data.max_length=32", "data.batch_size=16", "data.heldout_rows=16",
    "select.interval=1", "select.evaluation_rows=8", "optim.lr=1e-3", "seed=1",
]  # fmt: skip
TEXT = ["data.heldout=0.1", "student.layers=[0,2]"]
ROWS = [
    "student.dropout=0.0", "teachers.finetune.max_steps=40", "teachers.finetune.batch_size=32", "teachers.finetune.lr=5e-3",
    "teachers.finetune.dropout=0.0", "teachers.finetune.precision=32-true", "no_kd_baseline=false", "weigh.reward_rows=16",
    "teachers.sanity=false",
]  # fmt: skip
# what of the above is for some jobs only, and what no tiny task can do
AUGMENTED = ["data.train_rows=100", "data.augment.copies=1"]
TRACED = ["trainer.trace_every=2", "trainer.trace_rows=16"]
GRIDS = all_grids()
PAPER = [(name, grid) for name, scale, grid in GRIDS if scale == "paper"]
DEMO = [(name, job) for name in files.names() for grid in files.grids(name, ["seed=1"]) for job in jobs(grid)]


@pytest.mark.parametrize(("name", "scale", "grid"), GRIDS, ids=[f"{n}-{s}-{i}" for i, (n, s, _) in enumerate(GRIDS)])
def test_every_job_is_composed_and_valid(name, scale, grid):
    for job in jobs(one_seed(grid)):
        assert checked(composition(job)[0]).scale.name == scale, name


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    """Local substitutes for the Hub: a folder per task, text, a 12-layer teacher, a larger one, and a separate student."""
    folder = tmp_path_factory.mktemp("paper")
    for name, task in TASKS.items():
        if task.shape.labels is not None:
            write_task(folder / "tasks" / name, 120, min(3, len(task.shape.labels)), task.shape.columns == 2)
            named = [f"{i}\t{i}\t{label}" for i, label in enumerate(task.shape.labels)]
            (folder / "tasks" / name / "labels.txt").write_text("\n".join(["index\tvalue\tname", *named]) + "\n")
    models = {layers: write_teacher(folder / f"teacher{layers}", layers=layers) for layers in (4, 12, 24)}
    return folder, write_text(folder / "text"), models


@pytest.mark.parametrize(("name", "grid"), PAPER, ids=[f"{n}-{i}" for i, (n, _) in enumerate(PAPER)])
def test_every_job_of_the_papers_scale_passes_what_a_run_checks_first(name, grid, tasks, monkeypatch):
    folder, text, models = tasks
    monkeypatch.chdir(folder)
    for job in jobs(one_seed(grid)):
        keys = choices(job).keys()
        given = [f"teachers.path={models[12]}", "data.max_length=32"]
        given += [f"data.path={text if '+exp=adads_pretrain' in job else folder / 'tasks'}"]
        given += [f"student.path={models[4]}"] if "student.path" in keys else []
        given += [f"+teachers.others.large.path={models[24]}"] if "+exp=dynamickd_teacher" in job else []
        config = checked(composition([*(o for o in job if o.split("=")[0] not in choices(given)), *given])[0])
        check(stage_of(config, lambda line: None))
        assert config.scale.name == "paper", name


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A teacher of as many layers as the demo's, rows of four classes, text, and a folder for all runs."""
    folder = tmp_path_factory.mktemp("sweeps")
    teacher, rows = write_teacher(folder / "teacher", layers=6), write_task(folder / "rows", classes=4)
    return (
        folder,
        [f"teachers.path={teacher}"],
        [f"data.path={rows}", *ROWS],
        [f"data.path={write_text(folder / 'text')}", *TEXT],
    )


@pytest.mark.parametrize(("name", "job"), DEMO, ids=[f"{n}-{i}" for i, (n, _) in enumerate(DEMO)])
def test_every_job_runs_at_tiny_size(name, job, tiny):
    folder, teacher, rows, text = tiny
    keys = choices(job).keys()
    given = [*SECONDS, *teacher, *(text if "+exp=adads_pretrain" in job else rows)]
    given += AUGMENTED if "augment" in keys else []
    given += TRACED if "trainer.trace_every" in keys else []
    own = choices(given).keys()
    line = [*(o for key, (o,) in choices(job).items() if key not in own), *given]
    run = folder / name / str(DEMO.index((name, job)))
    done = call([*line, f"hydra.run.dir={run}", f"artifacts={folder / 'artifacts'}"], folder / "logs" / name / run.name)
    assert done.code == 0, f"{' '.join(job)}\n{done.output}"
    assert json.loads((run / "result.json").read_text())["status"] == "finished"
