"""docs/own_data.md: the commands and the code of the page on a tiny CSV, and both stages of scale=own; keep=none."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from kdlab import evaluate, export
from kdlab.storage import tables
from tests.conftest import task_rows
from tests.support import documents
from tests.support.runs import call

PAGE = documents.ROOT / "docs" / "own_data.md"
FAST = (
    "trainer.max_epochs=1",
    "teachers.finetune.max_epochs=1",
    "teachers.sanity=false",
    "data.workers=0",
    "figures=false",
)


def words(module: str, *parts: str) -> list[str]:
    """The words of the one command of the page that has all `parts`."""
    (found,) = {one.words for one in documents.commands(PAGE) if one.module == module and {*parts} <= {*one.words}}
    return list(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, teacher_folder, text_folder) -> Path:
    home = tmp_path_factory.mktemp("own")
    (home / "my_rows").mkdir()
    for split, count, seed in (("train", 96, 0), ("dev", 24, 1)):
        with open(home / "my_rows" / f"{split}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows([texts[0], f"kind {label}"] for texts, label in task_rows(count, 3, seed=seed))
    (home / "my_classifier").symlink_to(teacher_folder)
    (home / "my_text").symlink_to(text_folder)
    return home


def test_from_a_csv_to_a_deployed_student(folder, monkeypatch, capsys):
    given = words("run", "scale=own", "teachers.path=my_classifier", "data.path=my_rows")
    done = call([*given, *FAST, "hydra.run.dir=RUN", "keep=best"], folder)
    assert done.code == 0 and "scale=own: your rows" in done.output and "no KD" in done.output, done.output
    result = json.loads((folder / "RUN" / "result.json").read_text())
    assert (result["steps"], result["student"]["layers"], result["devices"]["world"]) == (3, [0, 1], 1)
    evaluations = [row["step"] for row in tables.read(folder / "RUN" / "metrics.csv") if row["heldout_loss"] != ""]
    assert len(evaluations) >= 3  # a share of 0.05 of 3 steps: before each
    monkeypatch.chdir(folder)
    assert evaluate.main(["RUN"]) == 0
    now, recorded = re.findall(r"student, (?:now|as recorded) +([\d.]+)", capsys.readouterr().out)
    assert now == recorded  # the run's batches, precision and execution
    assert export.main(words("export", "RUN", "my_student")) == 0
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    exec(compile(code, "own_data.md", "exec"), {})
    assert re.search(r"'label': 'kind [012]'", capsys.readouterr().out)


def test_own_text_and_a_run_that_keeps_no_student(folder, monkeypatch, capsys):
    given = [
        "exp=adads_pretrain",
        "scale=own",
        "data.path=my_text",
        "teachers.path=my_classifier",
        "data.max_length=32",
    ]
    more = ["trainer.checkpoint_every=1", "data.batch_size=32", "hydra.run.dir=text", "keep=none"]
    done = call([*given, *FAST, *more], folder)
    assert done.code == 0, done.output
    said = re.search(r"keep=none: removed (\d+) checkpoints?, [\d.]+ [KM]?B and 1 student, [\d.]+ [KM]?B", done.output)
    assert said and int(said[1]) >= 1, done.output
    assert "student/)" not in done.output
    run = folder / "text"
    assert {"student", "checkpoints"}.isdisjoint(path.name for path in run.iterdir()) and (
        run / "metrics.csv"
    ).is_file()
    assert json.loads((run / "result.json").read_text())["removed"] == ["checkpoints", "student"]
    monkeypatch.chdir(folder)
    for command in (lambda: evaluate.main(["text"]), lambda: export.main(["text", "out"])):
        assert command() == 2 and "its student was removed by keep=none" in capsys.readouterr().err
