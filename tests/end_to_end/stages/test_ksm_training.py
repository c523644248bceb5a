"""Episodes that train a KSM: they select rows as the run itself does."""

from __future__ import annotations

import json

import pytest

from kdlab.stages import ksm_training
from tests.end_to_end.stages.test_finetuning import make_stage as make_stage  # a fixture

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (".*LeafSpec", ".*does not have many workers", ".*dataloader is not resumable")
]
EPISODES = ["knowledge=ksm", "weigh=ksm", "weigh.episodes=1", "weigh.phase=3", "weigh.reward_rows=16",
            "select=entropy", "data.train_rows=40", "student.layers=2"]  # fmt: skip
BATCHES = 6  # an episode has as many steps as the run: more than one epoch, so a stale score is used after the first


@pytest.mark.parametrize("scoring", ["stale", "early_exit"])
def test_episodes_score_rows_as_select_scoring_says(make_stage, tmp_path, scoring):
    """Both ways of scoring run fewer layers or fewer rows through the student, so an episode costs fewer FLOPs."""

    def flops(*overrides: str) -> int:
        store = tmp_path / (overrides[0] if overrides else "fresh")
        made = make_stage(*EPISODES, f"trainer.max_steps={BATCHES}", f"artifacts={store}", *overrides)
        _, log = ksm_training.weighing(made, BATCHES, 1)
        assert log is not None
        return json.loads((log.parent / "cost.json").read_text())["flops"]

    assert flops(f"select.scoring={scoring}") < 0.97 * flops()
