"""Size and speed in the closing table and in the card, and their absence in results of an older kdlab."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kdlab.runs.closing import model_card, size_lines, summary
from kdlab.runs.closing.result_schema import fault
from tests.unit.runs.closing.test_summary import result

SIZE: dict[str, Any] = {
    "student": {"parameters": 66_362_880, "without_embeddings": 42_526_464, "megabytes": 267.8325,
                "milliseconds": {"1": 12.345, "32": 4.5678}},
    "teacher": {"parameters": 999_999, "without_embeddings": 1000, "megabytes": None, "milliseconds": {}},
}  # fmt: skip
DEVICES = {"world": 1, "kind": "cpu", "precision": "32-true", "name": "A CPU", "threads": 2}


def test_sizes_are_rows_of_the_closing_table():
    made = result(size=SIZE, devices=DEVICES)
    assert fault(made) == ""
    lines = size_lines.size_lines(made)
    assert [re.split(r"\s{2,}", line.strip()) for line in lines] == [
        [""],
        ["size and speed", "parameters", "w/o embeddings", "file", "ms/text at 1", "ms/text at 32"],
        ["student", "66.36 M", "42.53 M", "267.8 MB", "12.3", "4.57"],
        ["teacher", "999,999", "1,000", "-", "-", "-"],
        ["(batches of held-out rows in 32-true on 2 threads of A CPU)"],
    ]
    assert len({len(line) for line in lines[1:4]}) == 1
    assert "\n".join(lines) in summary.table(made, Path("x"))


def test_without_a_measurement_there_are_no_milliseconds_and_without_sizes_no_lines():
    still = {name: {**one, "milliseconds": {}} for name, one in SIZE.items()}
    lines = size_lines.size_lines(result(size=still, devices=DEVICES))
    assert "ms/text" not in "".join(lines) and len(lines) == 4
    assert size_lines.size_lines(result()) == [] and size_lines.size_markdown(result()) == ""


def test_sizes_are_a_table_of_the_card():
    text = model_card.card(result(size=SIZE, devices=DEVICES))
    table = [line for line in text.splitlines() if line.startswith("|") and ("ms/text" in line or "MB" in line)]
    assert table == [
        "| size and speed | parameters | w/o embeddings | file | ms/text at 1 | ms/text at 32 |",
        "| student | 66.36 M | 42.53 M | 267.8 MB | 12.3 | 4.57 |",
    ]
    assert "Milliseconds: batches of held-out rows in 32-true on 2 threads of A CPU." in text
