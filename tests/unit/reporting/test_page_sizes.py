"""Size and speed, and figures without data, in a report, against entries of result.json and means worked out by hand."""

from __future__ import annotations

import json

from kdlab.reporting.page.as_html import html
from kdlab.reporting.page.as_latex import latex
from kdlab.reporting.page.as_markdown import markdown
from kdlab.reporting.page.sizes import size_table
from kdlab.reporting.report import build_report
from tests.support.made_runs import nine, reported


def one(parameters, rest, megabytes, *speeds):
    """An entry of a model: parameters, those without embeddings, megabytes, milliseconds at batch 1 and 32."""
    return {
        "parameters": parameters,
        "without_embeddings": rest,
        "megabytes": megabytes,
        "milliseconds": dict(zip(("1", "32"), speeds, strict=True)) if speeds else {},
    }


def devices(threads=1):
    return {"world": 1, "kind": "cpu", "name": "A CPU", "precision": "32-true", "threads": threads}


def report_of(home, sizes, threads=(1, 1)):
    for seed, (size, count) in enumerate(zip(sizes, threads, strict=True), 1):
        reported(home / f"s{seed}", 0.5, seed, results={"size": size, "devices": devices(count)})
    return build_report([home], notify=lambda line: None)


def test_a_row_for_each_distinct_model_with_means_over_runs(tmp_path):
    teacher = one(110_000_000, 86_000_000, 440.0, 30.0, 8.0)
    report = report_of(
        tmp_path,
        [
            {"student": one(66_000_000, 42_000_000, 264.0, 10.0, 2.0), "bert": teacher},
            {"student": one(66_000_000, 42_000_000, 266.0, 14.0, 4.0), "bert": teacher},
        ],
    )
    found = size_table(report.tables[0])
    assert found is not None
    assert found.head == ["model", "rows", "parameters", "without embeddings", "file", "ms/text at 1", "ms/text at 32"]
    assert found.rows == [
        ["student, 6 layers", "all", "66.00 M", "42.00 M", "265.0 MB", "12", "3"],
        ["bert", "all", "110.00 M", "86.00 M", "440.0 MB", "30", "8"],
    ]
    assert found.notes[1] == "milliseconds: batches of held-out rows in 32-true on 1 thread of A CPU"
    page, text, paper = html(report), markdown(report), latex(report)
    assert "<summary>Size and speed</summary>" in page and "<td>66.00 M</td>" in page and "1 thread of A CPU" in page
    assert "### Size and speed" in text and "| 66.00 M | 42.00 M | 265.0 MB | 12 | 3 |" in text
    assert (
        r"student, 6 layers & 66.00 M & 42.00 M & 265.0 MB & 12 & 3 \\" in paper and r"\label{tab:kdlab1size}" in paper
    )
    assert paper.count(r"\begin{table}") == 2


def test_speeds_of_other_devices_and_other_students_stay_apart(tmp_path):
    small, large = one(1000, 10, 0.004, 1.0, 0.5), one(2000, 20, None)
    report = report_of(tmp_path, [{"student": small}, {"student": small}], threads=(1, 4))
    found = size_table(report.tables[0])
    assert found is not None and len(found.rows) == 2
    assert all(text in str(found.rows) for text in ("on 1 thread of A CPU", "on 4 threads of A CPU"))
    (tmp_path / "other").mkdir()
    results = {"size": {"student": large}, "devices": devices(), "student": {"layers": [0, 3]}}
    reported(tmp_path / "other" / "entropy", 0.4, 1, "entropy", results=results)
    reported(tmp_path / "other" / "margin", 0.5, 1, "margin", results={"size": {"student": small}})
    found = size_table(build_report([tmp_path / "other"], notify=lambda line: None).tables[0])
    assert found is not None
    assert sorted(row[:3] for row in found.rows) == [
        ["student, 6 layers", "1", "1,000"],
        ["student, layers 0, 3", "2", "2,000"],
    ]
    assert [row[4:] for row in found.rows if row[1] == "2"] == [["-", "-", "-"]]


def test_runs_without_a_size_have_no_table_and_are_counted_beside_others(tmp_path):
    report = report_of(tmp_path / "none", [{}, {}])
    assert size_table(report.tables[0]) is None
    assert all("Size and speed" not in text for text in (html(report), markdown(report), latex(report)))
    found = size_table(report_of(tmp_path / "one", [{}, {"student": one(1000, 10, 0.1)}]).tables[0])
    assert found is not None and found.notes[-1] == "1 of 2 runs recorded no size: an older kdlab"
    assert json.dumps(found.head).count("ms/text") == 0


def test_figures_without_data_are_named_with_what_they_need(tmp_path):
    report = report_of(tmp_path, [{}, {}])
    assert not report.all_pictures
    for text in (html(report), markdown(report)):
        (line,) = [line for line in text.splitlines() if "Figures not drawn" in line]
        assert all(
            word in line
            for word in ("score by ratio", "score by queries", "score by FLOPs", "learning curves", "schedules")
        )
    drawn = build_report([nine(tmp_path / "nine")], notify=lambda line: None)
    names = {one.drawing.name for one in drawn.all_pictures}
    assert any(name.startswith("schedule_") for name in names) and "score_by_ratio" not in names
    assert [why.partition(" (")[0] for why in drawn.sections[0].undrawn] == ["score by ratio", "learning curves"]
