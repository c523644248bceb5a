"""One run with a labelled test split: scored once, beside dev, predictions by row; scored again without its teacher."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from sklearn import metrics as sk

from kdlab import compare, evaluate
from tests.conftest import task_rows, write_task
from tests.support.runs import call, tiny_task


@pytest.fixture(scope="module")
def run(tmp_path_factory, teacher_folder) -> tuple[Path, str]:
    """A run folder that was moved away from its teacher, artifacts and data; and what it printed."""
    home = tmp_path_factory.mktemp("home")
    rows = write_task(home / "rows")
    lines = ["sentence\tlabel", *(f"{texts[0]}\t{label}" for texts, label in task_rows(30, seed=9))]
    (rows / "test.tsv").write_text("\n".join(lines) + "\n")
    more = ("no_kd_baseline=true", "select=random", "data.metric=macro_f1", "hydra.run.dir=run")
    done = call(tiny_task(teacher_folder, rows, *more), home)
    assert done.code == 0, done.output
    away = tmp_path_factory.mktemp("away")
    shutil.move(home / "run", away / "run")
    shutil.copy(rows / "test.tsv", away / "other.tsv")
    shutil.rmtree(home)
    return away / "run", done.output


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_test_rows_are_scored_for_all_and_stand_beside_dev(run):
    folder, output = run
    result = json.loads((folder / "result.json").read_text())
    assert result["test"].keys() == result["metrics"].keys() == {"student", "teacher", "no KD", "majority class"}
    assert result["data"]["splits"]["test"]["rows"] == 30
    for split, scores in (("dev", result["metrics"]), ("test", result["test"])):
        rows = table(folder / "predictions" / f"{split}.csv")
        assert [row["row"] for row in rows] == [str(i) for i in range(len(rows))]
        for who in ("student", "teacher"):
            truth, answers = [row["label"] for row in rows], [row[who] for row in rows]
            assert scores[who]["accuracy"] == pytest.approx(sk.accuracy_score(truth, answers))
            assert scores[who]["score"] == pytest.approx(sk.f1_score(truth, answers, average="macro"))
            for row in rows:
                shares = {name: float(row[f"{who}_p_{name}"]) for name in ("kind0", "kind1", "kind2")}
                assert max(shares, key=lambda name: shares[name]) == row[who]
                assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
        same = sum(row["student"] == row["teacher"] for row in rows) / len(rows)
        assert result["scores"][split]["student"]["agreement"] == pytest.approx(same)
        assert set(result["scores"][split]["student"]["classes"]) == {"kind0", "kind1", "kind2"}
    share = result["test"]["student"]["score"] / result["test"]["teacher"]["score"]
    assert "test set (30)" in output and "test macro f1" in output and f"{share:.1%}" in output
    card = (folder / "student" / "README.md").read_text()
    assert "| test set |" in card and f"{share:.1%} on test of the teacher's score" in card


def test_the_student_is_scored_on_a_file_without_teacher_artifacts_or_data(run, capsys, tmp_path):
    folder, _ = run
    result = json.loads((folder / "result.json").read_text())
    out = tmp_path / "p.csv"
    assert evaluate.main([str(folder), "--data", str(folder.parent / "other.tsv"), "--predictions", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{result['test']['student']['loss']:.4f}" in said and "30 rows" in said
    kept = table(folder / "predictions" / "test.csv")
    assert [(row["label"], row["student"]) for row in table(out)] == [(row["label"], row["student"]) for row in kept]


def test_rows_without_labels_are_answered(run, capsys, tmp_path):
    folder, _ = run
    bare, out = tmp_path / "bare.tsv", tmp_path / "p.csv"
    texts = [line.split("\t")[0] for line in (folder.parent / "other.tsv").read_text().splitlines()]
    bare.write_text("\n".join(texts) + "\n")
    assert evaluate.main([str(folder), "--data", str(bare)]) == 2
    assert evaluate.main([str(folder), "--data", str(bare), "--predictions", str(out)]) == 0
    assert "without labels: no scores" in capsys.readouterr().out
    kept = table(folder / "predictions" / "test.csv")
    assert [(row["label"], row["student"]) for row in table(out)] == [("", row["student"]) for row in kept]


def test_what_cannot_be_scored_is_one_line(run, capsys, tmp_path):
    folder, _ = run
    wrong = tmp_path / "wrong.tsv"
    wrong.write_text("sentence\tlabel\nba ke\tkind7\n")
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("sentence1\tsentence2\tlabel\nba\tke\tkind1\n")
    cases = [
        (["--split", "test"], "--data FILE names a file of rows"),
        (["--data", str(wrong)], "line 2: unknown label 'kind7'"),
        (["--data", str(pairs)], "2 text(s) a row"),
        (["--data", "nowhere.tsv"], "there is no such file"),
        (["--data", str(wrong), "--predictions", str(wrong)], "the file exists, and is kept"),
    ]
    for arguments, words in cases:
        assert evaluate.main([str(folder), *arguments]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said


def test_a_run_compared_with_itself_has_p_one(run, capsys):
    folder, _ = run
    assert compare.main(["--rows", str(folder), str(folder)]) == 0
    assert capsys.readouterr().out.count("p = 1: no more than chance") == 2
