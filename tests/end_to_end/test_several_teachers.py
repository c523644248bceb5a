"""Runs with several teachers, as commands: prepared first, stored, queried for their rows, scored and counted."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from kdlab.storage import tables
from tests.conftest import write_task
from tests.end_to_end.test_finetune import Lab, result_of

STEPS, KEPT = 8, 4  # of `tiny_task` at ratio 0.25
SMALL = "+teachers.others.small.layers=2"
UNTAUGHT = ["teachers.finetune.max_steps=2", "teachers.sanity=false"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory, teacher_folder, task_folder) -> Lab:
    return Lab(tmp_path_factory.mktemp("several"), teacher_folder, task_folder)


def queries_in(result: dict[str, Any]) -> dict[str, int]:
    return {name: one["total"] for name, one in result["ledger"]["teacher_queries"]["per_teacher"].items()}


def test_hard_asks_each_of_two_teachers_about_half_of_the_rows(lab):
    folder, output = lab.run("select=random", "adopt=hard", SMALL, "student.layers=1", *UNTAUGHT)
    result = result_of(folder)
    assert queries_in(result) == {"small": STEPS * KEPT // 2, lab.teacher.name: STEPS * KEPT // 2}
    assert {"teacher", "teacher small"} < set(result["metrics"])
    assert [stage["what"] for stage in result["preparation"]] == [
        "teacher small, 2 layers, fine-tuned",
        "teacher, 4 layers, fine-tuned",
    ]
    assert "cost of preparation, paid once" in output and "teacher small, 2 layers, fine-tuned (now)" in output
    _, second = lab.run("select=random", "adopt=soft", SMALL, "student.layers=1", *UNTAUGHT)
    assert "making" not in second and "teacher small, 2 layers, fine-tuned (found)" in second


def test_queries_of_each_teacher_over_time(lab):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    few = ["trainer.max_steps=4", "logger=tensorboard"]
    little = "+teachers.others.little.layers=1"  # of its own: another test counts on making the small one
    folder, _ = lab.run("select=random", "adopt=hard", little, "student.layers=1", *UNTAUGHT, *few)
    rows = tables.read(folder / "metrics.csv")
    assert [row["queries_little"] for row in rows] == ["0", str(4 * KEPT // 2)]
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [one.value for one in events.Scalars(f"queries/{lab.teacher.name}")] == [0, 4 * KEPT // 2]
    assert [one.step for one in events.Scalars("by_queries/heldout/score")] == [0, 4 * KEPT]


def test_teacher_assistant_and_student_in_one_table_with_the_cost_of_all(lab):
    more = ["adopt=assistant", "student.layers=1", "adopt.assistant.max_steps=2", *UNTAUGHT]
    folder, output = lab.run("select=random", *more)
    result = result_of(folder)
    scored = output.partition("\nthe student ")[0].splitlines()
    lines = [line.split("  ")[1] for line in scored if line.startswith("  ") and "%" in line]
    assert lines == ["majority class", "student", "assistant", "teacher"]
    assert queries_in(result) == {"assistant": STEPS * KEPT // 2, lab.teacher.name: STEPS * KEPT // 2}
    stages = {stage["what"]: stage for stage in result["preparation"]}
    assert stages["assistant, 2 layers, distilled"]["queries"] == 2 * 32
    (total,) = [line.split() for line in output.splitlines() if line.startswith("  with this run")]
    assert total[3] == str(2 * 32 + STEPS * KEPT)
    kept = [json.loads(file.read_text()) for file in (lab.folder / "artifacts").glob("assistant/*/cost.json")]
    assert [one["steps"] for one in kept] == [2]


def test_specialists_in_place_of_one_teacher(lab, tmp_path):
    rows = write_task(tmp_path / "rows", rows=STEPS * 16)
    for split in ("train", "dev"):
        lines = (rows / f"{split}.tsv").read_text().splitlines()
        turned = [f"{line[:-1]}3" if i % 4 == 0 and i else line for i, line in enumerate(lines)]
        (rows / f"{split}.tsv").write_text("\n".join(turned) + "\n")
    shutil.copy(rows / "dev.tsv", rows / "test.tsv")
    (rows / "labels.txt").write_text("index\tvalue\tname\n" + "".join(f"{i}\t{i}\tkind{i}\n" for i in range(4)))
    folder, output = lab.run(
        "select=random",
        "adopt=every",
        "teachers.split=2",
        f"data.path={rows}",
        "knowledge=response",
        "data.metric=macro_f1",
        *UNTAUGHT,
    )
    result = result_of(folder)
    assert queries_in(result) == {"specialist-1": STEPS * KEPT, "specialist-2": STEPS * KEPT}
    assert {"teacher specialist-1", "teacher specialist-2"} < set(result["metrics"]) and "teacher" not in result[
        "metrics"
    ]
    assert "teacher queries" in output
    assert result["test"] == result["metrics"] and "macro f1" in output  # the test rows are those of dev
