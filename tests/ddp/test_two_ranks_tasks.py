"""Two CPU ranks (gloo) and one process on the same global batch of labelled rows: the same rows, weights and scores."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from kdlab import evaluate
from kdlab.storage import tables
from tests.conftest import write_task
from tests.ddp.test_two_ranks import TWO, compare
from tests.support.cadence import each_time
from tests.support.runs import call, tiny_task
from tests.support.selections import MIXED

CASES = {
    "adads": ["select=adads"],
    # labels of half the rows are hidden: each label counts the same, whichever rank holds it
    "random": ["select=random", "select.ratio=0.5", "+augment=tinybert", "data.augment.copies=1", "data.train_rows=40",
               "teachers.sanity=false"],
    "entropy": ["select=entropy"],
    # two rows of each batch are scored, often both on one rank
    "look, an idle rank": ["select=cluster", "select.ratio=0.0625", "select.look=0.125"],
    "mixed": MIXED,
    "balanced": ["select=adads", "select.balance=predicted", "select.explore=0.5", "select.interval=2"],
    "forgetting": ["select=forgetting"],
    "replay": ["select=entropy", "select.replay=2.5", "teachers.cache=disk"],
    "badge": ["select=badge"],
    "labels on all": ["select=entropy", "knowledge.labels_on=all"],
    # one row of each batch asks: the other rank has none
    "labels on all, an idle rank": ["select=random", "select.ratio=0.0625", "knowledge.labels_on=all"],
    "tinybert, an idle rank": ["select=random", "select.ratio=0.0625", "knowledge=tinybert", "knowledge.phases=[0.5]",
                               "student.hidden=16"],
    "regression": ["select=density", "data.path=numbers", "teachers.sanity=false"],
}  # fmt: skip
# the gradient of a key's bias is 0 but for rounding, and Adam would make whole steps of that
ADAM = "optim.eps=1e-5"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, teacher_folder, task_folder) -> Path:
    """A folder with rows of regression, and with artifacts of all cases that share them."""
    folder = tmp_path_factory.mktemp("prepared")
    write_task(folder / "numbers", rows=120, regression=True)
    given = tiny_task(teacher_folder, task_folder, "select=random", "trainer.max_steps=1", "hydra.run.dir=first")
    done = call(given, folder)
    assert done.code == 0, done.output
    return folder


def fresh(tmp_path: Path, prepared: Path) -> Path:
    shutil.copytree(prepared / "artifacts", tmp_path / "artifacts")
    shutil.copytree(prepared / "numbers", tmp_path / "numbers")
    return tmp_path


@pytest.mark.parametrize(
    "case",
    each_time(
        CASES,  # AdaDS is in the mixed case, too
        "mixed",
        "forgetting",
        "replay",
        "look, an idle rank",
        "labels on all",
        "tinybert, an idle rank",
        "regression",
    ),
)
def test_two_ranks_equal_one_process(case, tmp_path, prepared, teacher_folder, task_folder):
    folder = fresh(tmp_path, prepared)
    common = tiny_task(teacher_folder, task_folder, "trainer.accelerator=cpu", "trainer.probes=1", ADAM, *CASES[case])
    one = call([*common, "hydra.run.dir=one"], folder)
    assert one.code == 0, one.output
    shutil.rmtree(folder / "artifacts" / "answers", ignore_errors=True)  # which would leave the second no queries
    two = call(
        [*(o for o in common if not o.startswith("data.batch_size")), *TWO, "hydra.run.dir=two"], folder, ranks=2
    )
    assert two.code == 0, two.output
    compare(folder)
    found = [json.loads((folder / name / "result.json").read_text()) for name in ("one", "two")]
    said = [line.partition("kdlab: caveat: ")[2] for line in two.output.splitlines() if "kdlab: caveat: " in line]
    assert said == [each["text"] for each in found[1]["caveats"]]  # once, by the first rank
    if case in ("adads", "mixed"):
        assert "few_rewards" in [each["kind"] for each in found[1]["caveats"]]
    scores = [each["metrics"] for each in found]
    assert scores[0]["teacher"] == pytest.approx(scores[1]["teacher"], abs=1e-5)
    for name, value in scores[0]["student"].items():
        assert scores[1]["student"][name] == pytest.approx(value, abs=1 / 60 + 1e-6), name  # one row at most


def test_evaluation_on_two_ranks_reads_every_row_once(
    tmp_path, prepared, teacher_folder, task_folder, monkeypatch, capsys
):
    """60 rows in batches of 7 do not go up in two: the same student is scored again by one process."""
    folder = fresh(tmp_path, prepared)
    given = tiny_task(teacher_folder, task_folder, "trainer.accelerator=cpu", "trainer.max_steps=2", "select=random",
                      "data.batch_size=7", "trainer.devices=2", "hydra.run.dir=two")  # fmt: skip
    done = call(given, folder, ranks=2)
    assert done.code == 0, done.output
    monkeypatch.chdir(folder)
    assert [row["row"] for row in tables.read(Path("two/predictions/dev.csv"))] == [str(row) for row in range(60)]
    assert evaluate.main(["two"]) == 0
    now, before = (
        re.findall(r"\d\.\d{4}", line) for line in capsys.readouterr().out.splitlines() if line.startswith("student")
    )
    assert now == before and len(now) == 3
