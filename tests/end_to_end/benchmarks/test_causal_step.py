"""`benchmarks.causal_step`: its ways learn the same loss, and its table has a line for each."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import causal_step
from benchmarks.causal_step import IGNORE, PACKED, PADDED, PLAIN, SOME, generalised_jsd, rows_of

TINY = [
    "--hidden",
    "48",
    "--layers",
    "2,4",
    "--vocab",
    "60",
    "--length",
    "16",
    "--turns",
    "1",
    "--no-memory",
    "--mixed",
]


@pytest.fixture
def own_clock(monkeypatch):
    """Give back the ledger's clock, which a benchmark sets."""
    from kdlab.runtime import ledger

    monkeypatch.setattr(ledger, "perf_counter", ledger.perf_counter)


def test_all_ways_have_the_same_loss(capsys, own_clock):
    causal_step.main([*TINY, "--precision", "32-true"])
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    found = {line[0]: float(line[-1]) for line in lines[2:]}
    assert list(found) == [PLAIN, PADDED, PACKED, SOME]
    assert found[PADDED] == pytest.approx(found[PLAIN], rel=1e-3) and found[PACKED] == pytest.approx(
        found[PLAIN], rel=1e-3
    )


def test_the_divergence_is_the_definition_at_predicted_tokens():
    student, teacher = torch.randn(2, 2, 3, 5).unbind()
    labels = torch.tensor([[1, 2, IGNORE], [4, IGNORE, IGNORE]])
    q, p = student.softmax(-1), teacher.softmax(-1)
    m = (p + q) / 2
    each = 0.5 * (p * (p / m).log()).sum(-1) + 0.5 * (q * (q / m).log()).sum(-1)
    wanted = (each[0, 0] + each[0, 1] + each[1, 0]) / 3
    assert float(generalised_jsd(student, teacher, labels)) == pytest.approx(float(wanted), rel=1e-5)


def test_rows_predict_their_next_token():
    rows = rows_of(3, 12, 50, True, 0)
    kept = rows.labels != IGNORE
    assert torch.equal(rows.labels[:, :-1][kept[:, :-1]], rows.input_ids[:, 1:][kept[:, :-1]])
    assert torch.equal(kept.sum(1), rows.attention_mask.sum(1) - 1) and int(rows.attention_mask[0].sum()) == 12


def test_without_trl_its_loss_is_refused_in_a_line(capsys, monkeypatch, own_clock):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(SystemExit) as ended:
        causal_step.main([*TINY, "--trl"])
    assert ended.value.code == 2 and "--trl needs the package trl (pip install trl)" in capsys.readouterr().err
