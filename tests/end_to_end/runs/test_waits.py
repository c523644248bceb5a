"""Waits for the device in a whole run with all its callbacks, tables and counts, on a GPU that is acted on the CPU."""

from __future__ import annotations

import json

import pytest

from kdlab.testing.child_process import tiny, tiny_task
from tests.conftest import write_task, write_teacher, write_text
from tests.support.acted_gpu import ActInRun
from tests.support.runs import call

STEPS, EVERY = 9, 4  # of the run; between two lines of metrics.csv
MORE = [
    f"trainer.max_steps={STEPS}", f"trainer.log_every={EVERY}", "trainer.evaluate_every=100", "trainer.checkpoint_every=100",
    "trainer.probes=0", "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.mark.parametrize(
    ("select", "reads"),
    [
        (["select=all"], 0),
        (["select=entropy", "select.ratio=0.25"], 1),  # the scores of the batch
    ],
)
@pytest.mark.parametrize("kind", ["task", "text"])
def test_steps_of_a_run(tmp_path, kind, select, reads):
    teacher, folder, file = write_teacher(tmp_path / "teacher"), tmp_path / "data", tmp_path / "reads.json"
    made = tiny_task if kind == "task" else tiny
    data = write_task(folder) if kind == "task" else write_text(folder)
    arguments = [one for one in made(teacher, data, *MORE, *select) if one.partition("=")[0] not in
                 ("select.interval", "select.evaluation_rows", *(["select.ratio"] if select == ["select=all"] else []))]  # fmt: skip
    result = call(arguments, tmp_path / "run", ActInRun(file))
    assert result.code == 0, result.output
    steps = json.loads(file.read_text())
    assert len(steps) == STEPS
    counts = [sum(int(line.partition(" ")[0]) for line in lines) for lines in steps]
    # a line of metrics.csv is written before a step: one more read, of the losses since the last line
    assert counts[1:] == [reads + (step % EVERY == 0) for step in range(1, STEPS)], steps[1:]
