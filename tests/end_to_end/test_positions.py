"""Runs that choose positions: costs, kills, ranks, rows and positions together, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.runs import call, tiny_causal

RUN = "hydra.run.dir=run"
POSITIONS = ["select.unit=position", "select.ratio=0.25"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, decoder_folder, text_folder) -> Path:
    """A folder with a finished run of AdaDS over positions, `run`, and its artifacts."""
    folder = tmp_path_factory.mktemp("whole")
    done = call([*tiny_causal(decoder_folder, text_folder, "select=adads", *POSITIONS), RUN], folder)
    assert done.code == 0, done.output
    return folder


def result_in(folder: Path, name: str = "run") -> dict:
    return json.loads((folder / name / "result.json").read_text())


def test_a_bandit_chooses_positions_and_the_ledger_says_what_they_cost(whole):
    ledger = result_in(whole)["ledger"]
    assert ledger["teacher_queries"]["total"] == ledger["rows_seen"]  # each row runs through the teacher's trunk
    positions = ledger["positions"]
    assert positions["kept"] == positions["queried"]
    assert 0.2 < positions["kept"] / positions["seen"] <= 0.25
