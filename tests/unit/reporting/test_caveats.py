"""Footnotes of groups with caveats, in the comparison, the page and its Markdown."""

from __future__ import annotations

from pathlib import Path

from kdlab.reporting.caveats import footnotes
from kdlab.reporting.comparison import compare
from kdlab.reporting.comparison_text import text
from kdlab.reporting.page.as_html import html
from kdlab.reporting.page.as_markdown import markdown
from kdlab.reporting.report import build_report
from kdlab.reporting.seed_groups import grouped, read
from tests.support.made_runs import reported

CUT = {"kind": "cut_texts", "text": "3 of 4 texts | are cut"}


def _runs(folder: Path) -> list[Path]:
    few = {"kind": "few_rewards", "text": "2 rewards for 5 arms"}
    return [
        reported(folder / "r1", 0.7, 1, results={"caveats": [CUT]}),
        reported(folder / "r2", 0.7, 2, results={"caveats": [CUT]}),
        reported(folder / "e1", 0.8, 1, select="entropy", results={"caveats": [CUT, few]}),
        reported(folder / "e2", 0.8, 2, select="entropy", results={"caveats": [CUT]}),
        reported(folder / "m1", 0.8, 1, select="margin"),
    ]


def test_groups_with_the_same_caveat_share_a_footnote(tmp_path: Path):
    groups = grouped(read(_runs(tmp_path))[0])
    notes = footnotes(groups)
    assert notes.lines == ["[a] 3 of 4 texts | are cut", "[b] 2 rewards for 5 arms (1 of 2 runs)"]
    assert {group.one.select: notes.of(group) for group in groups} == {
        "random": "[a]", "entropy": "[a][b]", "margin": "",
    }  # fmt: skip


def test_compare_and_report_mark_the_groups(tmp_path: Path):
    _runs(tmp_path)
    [comparison] = compare(read([tmp_path])[0])
    lines = text(comparison).splitlines()
    assert sum("[a]" in line for line in lines) == 3  # two groups and the footnote, no line of the tests
    assert "[a] 3 of 4 texts | are cut" in lines
    assert "- \\[a\\] 3 of 4 texts \\| are cut" in text(comparison, markdown=True).splitlines()
    made = build_report([tmp_path], notify=lambda line: None)
    table = markdown(made)
    assert table.count("\\[a\\]") == 3 and "\\[a\\]\\[b\\] |" in table
    page = html(made)
    assert page.count('<sup class="caveat">[a]</sup>') == 1 and "<li>[a] 3 of 4 texts | are cut</li>" in page


def test_a_footnote_whose_runs_say_different_numbers_names_its_seed(tmp_path: Path):
    for seed, score in ((1, 0.417), (2, 0.233)):
        weak = {"kind": "learnt_nothing", "text": f"its score {score} is low"}
        reported(tmp_path / f"r{seed}", score, seed, results={"caveats": [weak]})
    notes = footnotes(grouped(read([tmp_path])[0]))
    assert notes.lines == ["[a] its score 0.417 is low (2 of 2 runs, this is seed 1)"]
