"""Figures of a report and their files: places of points, ranges, labels measured in the renderer, colours, captions."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from kdlab import report
from kdlab.plotting import files, style
from kdlab.plotting.colours import NIGHT, colour, contrast
from kdlab.plotting.metrics import metric_scale
from kdlab.reporting.comparison import compare
from kdlab.reporting.figures import costs, training
from kdlab.reporting.page.as_html import html
from kdlab.reporting.page.as_latex import latex, latex_text
from kdlab.reporting.page.as_markdown import markdown
from kdlab.reporting.page.common import common, different
from kdlab.reporting.report import build_report
from kdlab.reporting.seed_groups import read
from kdlab.reporting.tables import TaskTable, task_table
from tests.support.made_runs import hostile, made_run, nine, reported


def table(home: Path) -> TaskTable:
    (only,) = compare(read([home])[0])
    return task_table(only, None, print)


def overlapping(figure: Any) -> list[tuple[str, str]]:
    """Pairs of texts of a figure that lie on one another, by their extents in the renderer."""
    figure.canvas.draw()
    texts = [one for axes in figure.axes for one in axes.texts] + list(figure.texts)
    for axes in figure.axes:
        texts += [axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = [(one.get_text(), one.get_window_extent()) for one in texts if one.get_text() and one.get_visible()]
    whole = figure.bbox
    assert all(box.x0 >= -1 and box.x1 <= whole.x1 + 1 and box.y0 >= -1 for _, box in boxes)
    return [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5
    ]


def crowd(home: Path, queries: int = 1797) -> Path:
    """Nine groups of one cost, whose scores differ by little, and one that costs more."""
    names = ("entropy", "margin", "random", "certainty", "cluster", "density", "adads", "randmix", "least_confidence")
    for i, select in enumerate(names):
        for seed in (1, 2):
            reported(home / f"{select} {seed}", 0.98 + i / 1000 + seed / 500, seed, select, 0.1, queries=queries)
    reported(home / "all", 0.999, 1, "all", 1.0, queries=20_000)
    return home


def test_equal_costs_stay_where_they_are_and_labels_are_stacked(tmp_path):
    found = costs.scores(table(crowd(tmp_path)), "queries")
    (axes,) = found.figure.axes
    places = {float(one.get_xdata()[0]) for one in axes.lines if one.get_marker() == "o"}
    assert places == {1797.0, 20_000.0}
    (front,) = [one for one in axes.lines if one.get_drawstyle() == "steps-post"]
    filled = [one for one in axes.lines if one.get_markersize() == 7 and one.get_markerfacecolor() != "white"]
    on_it = {tuple(np.round(one, 9)) for one in front.get_xydata().tolist()}
    assert filled and all(tuple(np.round(one.get_xydata()[0], 9)) in on_it for one in filled)
    assert sorted(int(one.get_text()) for one in axes.texts) == list(range(1, 11))
    assert overlapping(found.figure) == []


def test_points_on_one_another_share_a_label(tmp_path):
    for select in ("random", "adads"):
        reported(tmp_path / select, 0.6, 1, select)
    found = costs.scores(table(tmp_path), "queries")
    assert [one.get_text() for one in found.figure.axes[0].texts] == ["1,2"]


def test_seeds_are_points_at_their_own_costs_and_in_the_data(tmp_path):
    for seed, queries, score in ((1, 1000, 0.6), (2, 1400, 0.7)):
        reported(tmp_path / f"{seed}", score, seed, "random", queries=queries)
    reported(tmp_path / "adads", 0.8, 1, "adads", queries=1200)
    found = costs.scores(table(tmp_path), "queries")
    seeds = [one for one in found.figure.axes[0].lines if one.get_marker() == "o" and one.get_markersize() < 5]
    np.testing.assert_allclose([one.get_xydata()[0] for one in seeds], [[1000, 60], [1400, 70]])
    rows = [(row["seed"], row["queries"], round(row["score (%)"], 9)) for row in found.rows if "random" in row["group"]]
    assert rows == [("mean", 1200, 65.0), (1, 1000, 60.0), (2, 1400, 70.0)]


def test_bars_and_bands_stay_within_the_metrics_range(tmp_path):
    for seed, score in ((1, 0.90), (2, 1.0), (3, 1.0)):  # mean 96.7, deviation 5.8: the bar would reach 102.4
        curve = [(0, score), (1e12, score)]
        reported(tmp_path / f"{seed}", score, seed, "random", ratio=0.1, curve=curve)
        reported(tmp_path / f"more {seed}", score, seed, "random", ratio=0.3, curve=curve)
    found = table(tmp_path)
    drawings = [
        costs.scores(found, "queries"),
        training.learning(found, found.rows, "step"),
        build_report([tmp_path], notify=print).sections[0].pictures[0].drawing,
    ]
    for one in drawings:
        (axes,) = one.figure.axes
        heights = [path.vertices[:, 1].max() for part in axes.collections for path in part.get_paths()]
        assert heights and max(heights) == 100
        assert axes.get_ylim()[1] < 101.5 and max(axes.get_yticks()) <= 100
    assert metric_scale("score", ["matthews"]).clipped(-130) == -100
    assert metric_scale("loss").clipped(250) == 250


def test_no_labels_overlap_in_any_figure(tmp_path):
    crowd(tmp_path / "a")
    nine(tmp_path / "b", task="rte")
    for i, ratio in enumerate((0.2, 0.25, 0.3, 0.5)):
        reported(
            tmp_path / f"more {ratio}",
            0.7 + i / 100,
            1,
            "adads",
            ratio,
            task="rte",
            taken=[(0, "density"), (9, "margin")],
        )
    for one in build_report([tmp_path], notify=lambda line: None).all_pictures:
        assert overlapping(one.drawing.figure) == [], one.drawing.name


def test_titles_fit_their_figures():
    figure = style.canvas(3.0, "How good the student is, " * 8, "select=adads   ·   " * 30)
    assert all(text.get_window_extent().x1 <= style.WIDTH * style.DPI for text in figure.texts)
    assert figure.texts[0].get_text().endswith("…")


def test_the_teacher_is_a_line_with_its_score_and_captions_name_what_is_drawn(tmp_path):
    nine(tmp_path / "two")
    reported(tmp_path / "one" / "1", 0.6, 1, "random", knowledge="labels", queries=0)
    reported(tmp_path / "one" / "2", 0.7, 1, "margin", knowledge="labels", queries=0)
    pictures = build_report([tmp_path / "two"], notify=print).sections[0].pictures
    by = {one.drawing.name: one.drawing for one in pictures}
    for name in ("score_by_queries", "score_by_flops"):
        (axes,) = by[name].figure.axes
        assert [90, 90] in [list(one.get_ydata()) for one in axes.lines]
        assert "teacher 90.0" in [text.get_text() for text in by[name].figure.texts]
        assert "Dash-dotted: the teacher." in by[name].caption and "Bars: one standard" in by[name].caption
        assert "Dotted" not in by[name].caption and "A line to the left" not in by[name].caption
    drawing = costs.scores(table(tmp_path / "one"), "flops")
    assert not re.search("teacher\\.|Bars|Dots|Dotted|A line", drawing.caption)


def test_a_strategy_has_its_colour_in_all_figures_whoever_is_beside_it(tmp_path):
    names = ("gradient_norm", "schedule", "all", "mine", "adads")
    assert len({colour(name) for name in names}) == 5
    for name in names[:2]:  # the five that shared a palette moved to the next free place
        nine(tmp_path / name)
        reported(tmp_path / name / "more", 0.7, 1, name)
        (axes,) = costs.scores(table(tmp_path / name), "flops").figure.axes
        assert colour(name) in {one.get_color() for one in axes.lines}
    assert colour("adads (interval=5)") == colour("adads")


def test_figures_in_the_page_follow_its_theme(tmp_path):
    page = html(build_report([nine(tmp_path)], notify=print))
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.S))
    assert "var(--ink)" in drawn and "#" not in re.sub(r"(url\(|href=\")#", "", drawn)  # no colour of its own
    day, night = files.theme_colours(drawn)
    assert day.keys() == night.keys() and all(contrast(one, NIGHT) >= 3 for one in night.values())
    assert all(f"{name}: {hue};" in page for name, hue in day.items())
    for one in re.findall(r"<svg.*?</svg>", page, re.S):
        root = ElementTree.fromstring(one)
        boxes = [path.get("d") for path in root.iter("{http://www.w3.org/2000/svg}path")]
        wide = root.get("viewBox").split()[2].rstrip("0").rstrip(".")
        assert not any(d and d.count("L") == 3 and f"L {wide} " in d for d in boxes)  # no background


def test_each_figure_is_beside_the_page_as_svg_pdf_and_csv(tmp_path, capsys):
    home = nine(tmp_path / "runs")
    assert report.main([str(home)]) == 0
    folder = home / "report_figures"
    names = {file.stem for file in folder.iterdir()} - {"captions"}
    assert names == {"sst2_score_by_queries", "sst2_score_by_flops", "sst2_schedule_2"}
    for name in names:
        assert ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert f"`{name}`" in (folder / "captions.md").read_text()
    rows = list(csv.DictReader((folder / "sst2_score_by_queries.csv").read_text().splitlines()))
    means = {row["number"]: float(row["score (%)"]) for row in rows if row.get("seed") == "mean"}
    assert means == pytest.approx({"1": 82, "2": 76, "3": 70, "4": 66})
    assert report.main([str(home), "--where", "select!=adads"]) == 0
    assert not (folder / "sst2_schedule_2.pdf").exists()  # of the former report, which is named
    assert "replaces a former report: sst2: 8 runs in 4 groups" in capsys.readouterr().err
    (folder / "sst2_schedule_2.pdf").write_text("mine")
    before = {file: file.stat().st_mtime_ns for file in home.rglob("*")}
    assert report.main([str(home)]) == 2
    assert "sst2_schedule_2.pdf is there and no report of kdlab's" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in home.rglob("*")} == before


def test_a_foreign_report_is_not_replaced_and_several_folders_share_a_page(tmp_path, capsys, monkeypatch):
    nine(tmp_path / "a")
    nine(tmp_path / "b", task="rte")
    (tmp_path / "a" / "report.html").write_text("mine")
    assert report.main([str(tmp_path / "a")]) == 2
    assert "report.html is there and no report of kdlab's" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert report.main(["a", "b"]) == 0
    assert (tmp_path / "report.html").exists() and (tmp_path / "a" / "report.html").read_text() == "mine"


def test_the_box_has_what_all_share_and_columns_what_differs(tmp_path):
    made = {"steps": 100, "git": "0123456789abcdef-dirty", "date": "2026-11-29T05:00:00+00:00"}
    made |= {"versions": {"kdlab": "0.1.0", "torch": "2.13.0"}}
    made["data"] = {
        "task": "sst2",
        "splits": {"train": {"rows": 8544}, "dev": {"rows": 1101}},
        "shape": {"metrics": ["accuracy"]},
    }
    for i, (select, steps, day) in enumerate((("random", 100, 29), ("adads", 100, 29), ("adads", 300, 30))):
        results = made | {"steps": steps, "date": f"2026-11-{day}T05:00:00+00:00"}
        reported(tmp_path / f"{i}", 0.6, 1, select, results=results, changes={"trainer.max_steps": steps})
    found = table(tmp_path)
    box = dict(common(found))
    assert box["rows"] == "train 8,544, dev 1,101" and box["batch"] == "64 rows" and box["knowledge"] == "response"
    assert box["git"] == "0123456789 with local changes" and box["date"] == "2026-11-29 to 2026-11-30"
    assert box["versions"] == "kdlab 0.1.0, torch 2.13.0" and "steps" not in box
    labels, cells = different(found)
    assert labels == ["select", "max_steps"] and sorted(cells) == [
        ["adads", "100"],
        ["adads", "300"],
        ["random", "100"],
    ]
    page = html(build_report([tmp_path], notify=lambda line: None))
    assert '<th scope="col" class="setting">max_steps</th>' in page and "accuracy (%)<small>mean ± std" in page
    assert "the table scrolls sideways" in page


@pytest.mark.parametrize(
    ("metric", "by", "unit"),
    [
        ("score", ["accuracy"], "accuracy (%)"),
        ("score", ["accuracy", "f1"], "mean of accuracy and F1 (%)"),
        ("score", ["matthews"], "Matthews correlation (x 100)"),
        ("score", ["pearson", "spearman"], "mean of Pearson and Spearman correlation (x 100)"),
        ("score", [], "score (%)"),
        ("accuracy_mismatched", [], "accuracy, mismatched (%)"),
        ("loss", [], "loss"),
    ],
)
def test_a_metric_is_called_by_its_own_name(metric, by, unit):
    assert metric_scale(metric, by).unit == unit


def test_a_title_fits_a_phone(tmp_path):
    for i in range(5):
        reported(tmp_path / f"{i}", 0.6, task=f"task {i} " + "of a very long name" * 9)
    assert len(build_report([tmp_path], notify=lambda line: None).title) < 160


def test_latex_is_escaped_and_has_the_numbers(tmp_path):
    assert latex_text("50% of $x_1$ & #2 {~^\\}") == (
        r"50\% of \$x\_1\$ \& \#2 \{\textasciitilde{}\textasciicircum{}\textbackslash{}\}"
    )
    text = latex(build_report([nine(tmp_path)], notify=print))
    assert r"\toprule" in text and r"\midrule" in text and r"\bottomrule" in text
    assert r"adads & 0.1 & 76.00 $\pm$ 1.41 & 2 & +6.00" in text and r"teacher &  & 90.00" in text
    assert "textbf" not in text  # no difference is more than chance
    rows = [line for line in text.splitlines() if line.rstrip().endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in rows}) == 1


def test_latex_compiles_with_hostile_names(tmp_path):
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("pdflatex is not installed")
    hostile(tmp_path / "runs")
    reported(tmp_path / "runs" / "good", 0.6, task='sst2"><iframe src="http://x.test">', select="random")
    assert report.main([str(tmp_path / "runs"), "--latex", "--out", str(tmp_path / "table.html")]) == 0
    head = "\\documentclass{article}\\usepackage{booktabs,textcomp}\\usepackage[T1]{fontenc}\\begin{document}"
    (tmp_path / "paper.tex").write_text(f"{head}\\input{{table.tex}}\\end{{document}}")
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-800:]


def test_places_of_a_cost_axis_are_few_and_apart_however_narrow_it_is(tmp_path):
    for i, select in enumerate(("entropy", "margin", "random")):
        for seed in (1, 2):
            reported(tmp_path / f"{i}{seed}", 0.7 + i / 50 + seed / 500, seed, select, 0.1, queries=1797)
    drawing = costs.scores(table(tmp_path), "queries")
    assert drawing is not None and overlapping(drawing.figure) == []
    for low, high in ((1100, 2900), (9.9, 26), (4.9, 12.6), (6e11, 1.6e12), (300, 1e5), (1, 1e12)):
        places = costs._places(low, high)
        assert 2 <= len(places) <= 8 and places == sorted(places) and low <= places[0] and places[-1] <= high


def test_steps_are_whole_and_labels_of_equal_curves_stay_within_the_figure(tmp_path):
    names = ("entropy", "margin", "random", "certainty", "cluster", "density", "adads")
    for select in names:
        reported(tmp_path / select, 0.7, 1, select, 0.1, curve=[(0, 0.5), (1e12, 0.7)])
    found = table(tmp_path)
    drawing = training.learning(found, found.rows, "step")
    assert drawing is not None and overlapping(drawing.figure) == []  # and within the figure
    (axes,) = drawing.figure.axes
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    assert "1-7" in [text.get_text() for text in axes.texts]


def test_labels_of_one_point_are_ranges_of_numbers():
    assert style._joined(["3", "1", "2", "5", "6"]) == "1-3,5,6" and style._joined(["a", "1"]) == "a,1"


def test_what_only_some_runs_have_is_not_in_the_box_and_captions_name_what_both_have(tmp_path):
    for seed in (1, 2):
        reported(tmp_path / f"l{seed}", 0.7 + seed / 100, seed, "all", 1.0, knowledge="labels", queries=0)
        reported(tmp_path / f"r{seed}", 0.8 + seed / 100, seed, "all", 1.0)
    page = build_report([tmp_path], None, (), None, None, print)
    assert "teacher" not in dict(common(page.tables[0]))
    captions = [one.caption for one in page.all_pictures if "These groups differ" in one.caption]
    assert captions and all(
        one.endswith(("compared: knowledge labels, response.", "compared: knowledge response, labels."))
        for one in captions
    )
    assert "--: no difference, for the group and its baseline differ in: knowledge" in latex(page)


def test_a_page_of_one_run_says_one_run_and_of_nothing_to_draw_says_so(tmp_path, capsys):
    reported(tmp_path / "a", 0.7, 1, "random", 0.1)
    assert report.main([str(tmp_path)]) == 0
    assert "no figure: one needs two groups" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "The run</summary>" in page and "1 runs" not in page
    reported(tmp_path / "b", 0.7, 1, "entropy", 0.1, curve=[(0, 0.5), (1e12, 0.7)])
    (tmp_path / "c").mkdir()
    (tmp_path / "b").rename(tmp_path / "c" / "b")
    assert report.main([str(tmp_path / "c")]) == 0 and "(1 figure as" in capsys.readouterr().out


def test_a_page_of_several_tasks_without_a_figure_says_so_once(tmp_path):
    for task in ("sst2", "rte"):
        reported(tmp_path / task, 0.7, 1, "random", 0.1, task=task)
    found = build_report([tmp_path], notify=lambda line: None)
    assert found.all_pictures == []
    for text in (html(found), markdown(found)):
        assert len(re.findall("figures not drawn", text, re.IGNORECASE)) == 1 and "score by ratio" in text
    reported(tmp_path / "more", 0.8, 1, "entropy", 0.1, task="rte")  # now rte lacks less than sst2
    for text in (html(found := build_report([tmp_path], notify=lambda line: None)), markdown(found)):
        assert len(re.findall("figures not drawn", text, re.IGNORECASE)) == 2


def test_the_mean_over_tasks_has_the_teachers_mean(tmp_path):
    """Teachers of 0.8 on MNLI, which counts twice, and 0.95 on RTE: (2 x 80 + 95) / 3 = 85."""
    for task, teacher in (("mnli", 0.8), ("rte", 0.95)):
        for ratio in (0.1, 0.3):
            metrics = {"score_mismatched": 0.6} if task == "mnli" else {}
            folder = reported(tmp_path / f"{task} {ratio}", 0.6, 1, "random", ratio, task=task, metrics=metrics)
            result = json.loads((folder / "result.json").read_text())
            result["metrics"]["teacher"] = {"score": teacher}
            (folder / "result.json").write_text(json.dumps(result))
    (drawing,) = [one.drawing for one in build_report([tmp_path], notify=lambda line: None).pictures]
    (axes,) = drawing.figure.axes
    assert any(list(one.get_ydata()) == pytest.approx([85, 85]) for one in axes.lines)
    assert "teacher 85.0" in [text.get_text() for text in drawing.figure.texts]
    assert "Dash-dotted: the teacher." in drawing.caption
    assert [row["score (%)"] for row in drawing.rows if row["group"] == "teacher"] == [pytest.approx(85)]


def test_scores_on_test_are_in_the_data_of_the_figures(tmp_path):
    for ratio in (0.1, 0.3):
        for seed in (1, 2):
            test = {"student": {"score": 0.5 + ratio + seed / 100}, "teacher": {"score": 0.85}}
            reported(tmp_path / f"{ratio} {seed}", 0.7, seed, "random", ratio, results={"test": test})
    pictures = build_report([tmp_path], notify=print).sections[0].pictures
    by = {one.drawing.name: one.drawing for one in pictures}
    for name in ("score_by_queries", "score_by_flops", "score_by_ratio"):
        rows, caption = by[name].rows, by[name].caption
        found = {row["seed"]: row["test score (%)"] for row in rows if "0.3" in f"{row.get('ratio')} {row['group']}"}
        assert found == pytest.approx({"mean": 81.5, 1: 81, 2: 82})
        assert [row["test score (%)"] for row in rows if row["group"] == "teacher"] == [85]
        assert caption.endswith("Scores on dev; those on test are in the table.")
    assert '<th scope="col">test</th>' in html(build_report([tmp_path], notify=print))


def test_one_strategy_with_different_knowledge_has_different_markers(tmp_path):
    """One colour a strategy, one shape a knowledge, in the panel and in the legend; of one knowledge all are circles."""
    for knowledge in ("response", "relation"):
        for select in ("random", "adads"):
            given = {"knowledge": knowledge, "curve": [(0, 0.5), (1e12, 0.6), (2e12, 0.7)]}
            reported(tmp_path / f"{knowledge} {select}", 0.7, 1, select, 0.1, **given)
    found = table(tmp_path)
    for drawing in (costs.scores(found, "queries"), training.learning(found, found.rows, "step")):
        (axes,) = drawing.figure.axes
        looks = {(one.get_color(), one.get_marker()) for one in axes.lines if one.get_marker() in ("o", "s")}
        assert looks == {(colour(select), shape) for select in ("random", "adads") for shape in "os"}
        legend = {(one.get_color(), one.get_marker()) for one in drawing.figure.artists if hasattr(one, "get_marker")}
        assert looks <= legend and drawing.caption.endswith("Shapes: knowledge.")
    drawing = costs.scores(table(nine(tmp_path / "alike")), "queries")
    assert "Shapes" not in drawing.caption and "s" not in {one.get_marker() for one in drawing.figure.axes[0].lines}


def test_of_many_groups_the_legend_has_strategies_and_shapes(tmp_path):
    for knowledge in ("response", "relation"):
        for select in ("random", "adads", "entropy", "margin", "density", "cluster", "certainty"):
            reported(tmp_path / f"{knowledge} {select}", 0.7, 1, select, 0.1, knowledge=knowledge)
    texts = [one.get_text() for one in costs.scores(table(tmp_path), "flops").figure.texts]
    assert {"random", "adads", "knowledge response", "knowledge relation"} <= set(texts)


def test_legends_of_the_table_over_tasks_name_only_marks_that_are_there(tmp_path):
    nine(tmp_path / "sst2")
    nine(tmp_path / "rte", task="rte")
    page = html(build_report([tmp_path], None, (), None, None, print))
    overview = page[page.index("<h2>All tasks") : page.index("<h2>rte")]
    assert "▼" not in overview and "bold" not in overview and "the table scrolls sideways" in overview


def test_scores_against_each_budget_have_the_price_of_all_runs(tmp_path):
    """1,200 queries at 0.01 and 9 s at 3,600 an hour are 12 + 9; a run without a budget has the price of the same rates."""
    budget = {"asked": {"price": 21.0, "seconds": 9.0}, "rates": {"query": 0.01, "hour": 3600.0}}
    made_run(tmp_path / "priced", 0.7, select="entropy", results={"budget": budget})
    made_run(tmp_path / "other", 0.6, queries=600)
    seen = table(tmp_path)
    assert costs.drawn(seen) == ["queries", "flops", "seconds", "price"]
    drawing = costs.scores(seen, "price")
    assert drawing is not None and "against price" in drawing.caption
    found = {row["group"]: row["price"] for row in drawing.rows if row.get("seed") == "mean"}
    assert sorted(found.values()) == [pytest.approx(15.0), pytest.approx(21.0)]
    (tmp_path / "plain").mkdir()
    made_run(tmp_path / "plain" / "run", 0.6)
    assert costs.drawn(table(tmp_path / "plain")) == ["queries", "flops"]
