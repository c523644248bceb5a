"""Every job of every sweep: composed at both scales, and run at tiny size at the laptop's scale."""

from __future__ import annotations

import json

import pytest

from kdlab import run as entry
from kdlab import sweepfiles
from kdlab.config import checked
from tests.conftest import write_task, write_teacher, write_text
from tests.runs import call
from tests.sweeps import GRIDS, choices, jobs, one_seed

pytestmark = pytest.mark.nightly

SECONDS = [
    "trainer.max_steps=4", "trainer.evaluate_every=100", "trainer.checkpoint_every=100", "trainer.probes=0",
    "trainer.threads=1", "trainer.precision=32-true", "data.max_length=32", "data.batch_size=16", "data.heldout_rows=16",
    "select.interval=1", "select.evaluation_rows=8", "optim.lr=1e-3", "seed=1",
]  # fmt: skip
TEXT = ["data.heldout=0.1", "student.layers=[0,2]"]
ROWS = [
    "student.dropout=0.0", "teachers.finetune.max_steps=40", "teachers.finetune.batch_size=32", "teachers.finetune.lr=5e-3",
    "teachers.finetune.dropout=0.0", "teachers.finetune.precision=32-true", "no_kd_baseline=false", "policy.reward_rows=16",
]  # fmt: skip
# what of the above is for some jobs only, and what no tiny task can do
AUGMENTED = ["data.train_rows=100", "data.augment.copies=1"]
TRACED = ["trainer.trace_every=2", "trainer.trace_rows=16"]
DEMO = [(name, job) for name in sweepfiles.names() for grid in sweepfiles.grids(name, ["seed=1"]) for job in jobs(grid)]


@pytest.mark.parametrize(("name", "scale", "grid"), GRIDS, ids=[f"{n}-{s}-{i}" for i, (n, s, _) in enumerate(GRIDS)])
def test_every_job_is_composed_and_valid(name, scale, grid):
    for job in jobs(one_seed(grid)):
        assert checked(entry.composition(job)[0]).scale.name == scale, name


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
