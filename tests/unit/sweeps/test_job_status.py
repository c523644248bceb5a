"""The score of a finished job as a sweep prints it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdlab.sweeps.job_status import objective
from tests.support.made_runs import made_run


@pytest.mark.parametrize(
    ("data", "score", "shown"),
    [
        ({"shape": {"metrics": ["accuracy"]}}, 0.433, "accuracy 43.3 %"),
        ({"shape": {"metrics": ["accuracy", "f1"]}}, 0.5, "mean of accuracy and F1 50.0 %"),
        ({"shape": {"metrics": ["accuracy"]}, "metric": "macro_f1"}, 0.25, "macro F1 25.0 %"),
        ({"shape": {"metrics": ["spearman"]}}, -0.1, "Spearman correlation (x 100) -10.0"),
    ],
)
def test_a_job_says_its_metric(tmp_path: Path, data: dict[str, Any], score: float, shown: str) -> None:
    folder = made_run(tmp_path / "a", score, results={"data": {"task": "mine", "path": "/rows", **data}})
    assert str(objective(folder)) == shown


def test_a_loss_stays_as_it_is(tmp_path: Path) -> None:
    assert str(objective(made_run(tmp_path / "a", 4.25, stage="pretrain"))) == "held-out loss 4.2500"
