"""From which run on a preparation pays stands in result.json, in comparisons and in reports."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from kdlab.reporting import comparison_text
from kdlab.reporting.comparison import compare
from kdlab.reporting.page.as_html import html
from kdlab.reporting.page.as_markdown import markdown
from kdlab.reporting.page.content import ReportPage, Section
from kdlab.reporting.seed_groups import read
from kdlab.reporting.tables import task_table
from kdlab.runs.closing import costs, result_schema
from tests.support.made_runs import made_run

TEACHER = {"what": "teacher, 12 layers, fine-tuned", "queries": 0, "flops": 9e12, "seconds": 1.0}
ASSISTANT = {"what": "assistant, 6 layers, distilled", "queries": 500, "flops": 5e12, "seconds": 1.0}


def result(total: float, *stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Values of a result.json of a run of `total` FLOPs, of which 6 T are those of all data."""
    ledger = {
        "teacher_queries": {"total": 1200}, "rows_seen": 12_000, "flops": {"total": total, "all_data": 6e12},
        "seconds": {"training": 9.0}, "speedup": {"queries": 10.0, "flops": 6e12 / total, "wallclock": None},
    }  # fmt: skip
    return {"ledger": ledger, "preparation": list(stages), **more}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Random selection, and AdaDS with an assistant: seeds that save 2 T and 3 T, of 5 T; one that saves nothing."""
    for seed, total in ((1, 4e12), (2, 3e12)):
        made_run(tmp_path / f"random{seed}", 0.7, seed, results=result(1e12, TEACHER))
        made_run(tmp_path / f"adads{seed}", 0.8, seed, "adads", results=result(total, TEACHER, ASSISTANT))
    made_run(tmp_path / "entropy1", 0.6, 1, "entropy", results=result(7e12, TEACHER, ASSISTANT))
    return tmp_path


def test_a_group_pays_from_the_run_on_that_the_means_of_its_seeds_say(home, tmp_path, capsys):
    assert comparison_text.print_comparison([home], groups_csv=tmp_path / "groups.csv") == 0
    said = capsys.readouterr().out
    head, *lines = said.splitlines()[2:6]
    assert head.endswith("total FLOPs  pays from run")
    paid = {line.split()[0]: line.split()[-1] for line in lines}
    assert paid == {"select=adads": "2", "select=entropy": "never", "select=random": "-"}  # 5 of 2.5 a run; of -1
    assert comparison_text.PAYS_NOTE in said
    rows = csv.DictReader((tmp_path / "groups.csv").read_text().splitlines())
    assert {row["group"]: row["pays_from_run"] for row in rows} == {
        "select=adads": "2", "select=entropy": "never", "select=random": "",
    }  # fmt: skip


def test_the_report_has_it_too(home):
    (found,) = compare(read([home])[0])
    page = ReportPage([Section(task_table(found, None, print))], [], {}, [], [], None, None)
    text = markdown(page)
    head, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    place = head.split("|").index(" pays from run ")
    assert {line.split("|")[place].strip() for line in lines if "adads" in line} == {"2"}
    assert comparison_text.PAYS_NOTE in text and "pays from run" in html(page)


def test_no_group_has_the_column_where_nothing_is_paid(tmp_path, capsys):
    caveat = {"caveats": [{"kind": "learnt_nothing", "text": "the student learnt nothing"}]}
    made_run(tmp_path / "a", 0.7, 1, results=result(1e12, TEACHER))
    made_run(tmp_path / "b", 0.5, 1, "adads", results=result(1e12, TEACHER, ASSISTANT, **caveat))
    comparison_text.print_comparison([tmp_path])
    assert "pays from run" not in capsys.readouterr().out


def test_result_json_says_what_is_saved_with_preparation_and_from_which_run_on():
    made = result(4e12, TEACHER, ASSISTANT)
    entry = costs.saved_with_preparation(made)
    assert entry == {
        "queries": 12_000 / 1700, "flops": (6e12 + 9e12) / (4e12 + 14e12), "wallclock": None, "pays_from_run": 3,
    }  # fmt: skip
    assert costs.saved_with_preparation(result(7e12, ASSISTANT))["pays_from_run"] == "never"
    assert costs.saved_with_preparation(result(7e12, ASSISTANT | {"flops": None}))["pays_from_run"] is None
    whole = {
        "status": "finished", "seed": 1, "select": {"name": "adads", "ratio": 0.1}, "data": {"task": "sst2"},
        "metrics": {"student": {"score": 0.5}}, **made,
    }  # fmt: skip
    assert result_schema.fault({**whole, "saved_with_preparation": entry}) == ""
    assert "pays_from_run" in result_schema.fault({**whole, "saved_with_preparation": {"pays_from_run": "soon"}})
