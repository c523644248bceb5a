"""kdlab.runs.closing.collapse, on lines of metrics.csv by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kdlab.methods.knowledge import logits
from kdlab.modules.objective import WeightedTerm
from kdlab.runs.closing.collapse import CollapseWatch, watch_of

TERMS = {"label": WeightedTerm(logits.label_loss, 1.0)}


def lines(scores: dict[int, float], losses: dict[int, float] | None = None) -> list[dict[str, float]]:
    steps = sorted({*scores, *(losses or {})})
    return [
        {"step": s, **({"heldout_score": scores[s]} if s in scores else {}), **({"train_label": losses[s]} if losses and s in losses else {})}
        for s in steps
    ]  # fmt: skip


def watch(folder: Path, rows, capsys) -> tuple[CollapseWatch, str]:
    found = CollapseWatch(0.4, 4, 100, TERMS, folder / "metrics.csv")
    for row in rows:
        found.see(row)
    return found, capsys.readouterr().err


@pytest.mark.parametrize(
    ("scores", "step"),
    [
        ({0: 0.2, 25: 0.3, 50: 0.45, 75: 0.6, 100: 0.9}, None),  # slow at first
        ({0: 0.2, 25: 0.3, 50: 0.4, 75: 0.35, 100: 0.3}, 50),  # never above; at it is no better
        ({0: 0.2, 25: 0.8, 40: 0.05, 100: 0.05}, 40),  # falls
        ({0: 0.2, 25: 0.8, 40: 0.05, 100: 0.9}, None),  # and recovers
        ({0: 0.9, 100: 0.41}, None),
        ({0: 0.1}, None),  # nothing was trained yet
    ],
)
def test_a_score_at_or_below_the_majority_class(tmp_path, capsys, scores, step):
    found, said = watch(tmp_path, lines(scores), capsys)
    collapse = found.found()
    assert (None if collapse is None else (collapse.what, collapse.step)) == (None if step is None else ("score", step))
    assert said.count("collapsed") == int(step is not None or 40 in scores)  # when it happens, and once


def test_a_loss_that_stays_above_log_c_beside_a_weak_score(tmp_path, capsys):
    high, low = math.log(4) + 0.1, math.log(4) - 0.1
    stays, falls = {s: high for s in range(0, 101, 10)}, {s: high if s < 90 else low for s in range(0, 101, 10)}
    weak, good = {10: 0.41, 100: 0.42}, {10: 0.41, 100: 0.9}
    found, said = watch(tmp_path, lines(weak, stays), capsys)
    collapse = found.found()
    assert collapse is not None and (collapse.what, collapse.step, said.count("collapsed")) == ("loss", 0, 1)
    assert watch(tmp_path, lines(good, stays), capsys)[0].found() is None  # hard rows are kept by design
    assert watch(tmp_path, lines(weak, falls), capsys)[0].found() is None


def test_a_resumed_run_says_it_once(tmp_path, capsys):
    (tmp_path / "metrics.csv").write_text("step,heldout_score\n0,0.2\n60,0.1\n90,0.1\n")
    found, said = watch(tmp_path, [{"step": 80, "heldout_score": 0.1}], capsys)
    assert found.found() is not None and found.rows is not None and len(found.rows) == 3 and said == ""


def test_text_and_regression_have_no_classes(tmp_path):
    assert watch_of({}, ("a", "b"), 9, TERMS, tmp_path) is None
    assert watch_of({"majority class": {"score": 0.0}}, None, 9, TERMS, tmp_path) is None
    assert watch_of({"majority class": {"score": 0.5}}, ("a", "b"), 9, TERMS, tmp_path) is not None
