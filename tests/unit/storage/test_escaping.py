"""kdlab.storage.escaping: names of strangers in Markdown and in tables for spreadsheets."""

from __future__ import annotations

import csv
import io

import pytest

from kdlab.storage.escaping import csv_table, markdown_code, markdown_text, shortened, spreadsheet_cell

# the first characters by which OWASP's page on CSV injection defines a formula, and their full-width forms
FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "＝1",
    "＋1",
    "－1",
    "＠1",
    '=HYPERLINK("http://x")',
]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_a_spreadsheet_would_run_is_quoted(text):
    assert spreadsheet_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", [-1.5, 3, None, True, "select=random", "a-b", "0.1", ""])
def test_numbers_and_plain_text_stay(value):
    assert spreadsheet_cell(value) == value


def test_a_table_has_no_formula_in_its_head_or_body_and_reads_back():
    text = csv_table(["=cmd", "n"], [{"=cmd": '=1|"\n', "n": -2.5, "other": 1}, {"n": None}])
    head, *rows = csv.reader(io.StringIO(text))
    assert head == ["'=cmd", "n"] and rows == [["'=1|\"\n", "-2.5"], ["", ""]]
    csv_table(["a"], [{"a": "\ud800"}]).encode("utf-8")


def test_markdown_reads_no_markup_in_a_name():
    assert markdown_text("<script>|a*b_c`[x](y) & ~z~ $m$\n# h") == (
        r"&lt;script&gt;\|a\*b\_c\`\[x\](y) &amp; \~z\~ \$m\$ \# h"
    )
    assert markdown_code("a`b|c\n\ud800\x1b") == "`a'b\\|c \\ud800\\x1b`"


def test_long_names_are_short_and_stay_apart():
    one, other = shortened("x" * 10**6 + "a"), shortened("x" * 10**6 + "b")
    assert len(one) == len(other) == 120 and one != other and shortened("x" * 120) == "x" * 120
    assert len(shortened("\ud800" * 1000)) == 120
