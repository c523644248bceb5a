"""The columns of `kdlab compare --runs-csv` that a study of selection reads."""

from __future__ import annotations

from kdlab.reporting.analyses.choosing.runs import read
from kdlab.reporting.comparison_text import as_csv, run_rows
from kdlab.reporting.seed_groups import read as read_runs
from tests.support.made_runs import made_run

LEDGER = {
    "teacher_queries": {"total": 1200},
    "flops": {"total": 9.0, "teacher_forward": 3.0, "scoring": 1.0, "student_forward": 2.0, "student_backward": 3.0},
    "seconds": {"training": 9.0},
}


def test_the_settings_of_a_selection_that_are_no_defaults_name_its_method(tmp_path):
    made_run(tmp_path / "a", 0.8, select="entropy", results={"ledger": LEDGER})
    changes = {"select.explore": 0.5, "select.look": 0.3, "student.start": "teacher"}
    made_run(tmp_path / "b", 0.9, select="entropy", results={"ledger": LEDGER}, changes=changes)
    methods = {run.method: run.score for run in read([tmp_path])}
    assert methods == {"entropy": 0.8, "entropy explore=0.5 look=0.3 start=teacher": 0.9}


def test_a_file_of_runs_is_read_as_the_folders_are(tmp_path):
    scores = {"student": {"score": 0.8}, "teacher": {"score": 0.9}, "majority class": {"score": 0.8}}
    made_run(tmp_path / "runs" / "a", 0.8, select="entropy", results={"ledger": LEDGER, "metrics": scores})
    (tmp_path / "runs.csv").write_text(as_csv(run_rows(read_runs([tmp_path / "runs"])[0])))
    (run,) = read([tmp_path / "runs"])
    assert read([tmp_path / "runs.csv"]) == [run]
    assert (run.teacher_flops, run.student_flops, run.batch, run.majority) == (3.0, 2.0, 64, 0.8)
    assert run.collapsed() and run.teacher_ratio == 1.5
    assert run.cost(10) == 9 - 3 + 20


def test_a_run_names_the_setting_that_tells_its_group_from_others(tmp_path):
    for layers in (2, 3):
        for seed in (1, 2):
            made_run(tmp_path / f"{layers}-{seed}", 0.8, select="all", seed=seed, changes={"student.layers": layers})
    rows = run_rows(read_runs([tmp_path])[0])
    assert [(row["group"], row["seed"]) for row in rows] == [
        ("layers=2", 1), ("layers=2", 2), ("layers=3", 1), ("layers=3", 2),
    ]  # fmt: skip
