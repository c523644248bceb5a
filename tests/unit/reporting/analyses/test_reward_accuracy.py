"""Correlation of rewards with paired probes, by hand and against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from kdlab.errors import UserError
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.reporting.analyses import reward_accuracy


def test_advantages_of_a_probe_by_hand():
    """From 8 to 2 and to 4: falls of ln 4 and ln 2, their mean is ln 8 / 2."""
    rows = [{"step": "0", "arm": arm, "before": "8", "after": after} for arm, after in (("a", "2"), ("b", "4"))]
    half = math.log(2) / 2
    assert reward_accuracy.probed(rows) == {(0, "a"): pytest.approx(half), (0, "b"): pytest.approx(-half)}


def test_a_reward_is_that_of_the_observation_after_the_arm():
    observed = [{"step": "0", "arm": "a"}, {"step": "5", "arm": "b"}, {"step": "10", "arm": "a"}]
    advantage = {(0, "a"): 1.0, (5, "a"): 2.0, (5, "b"): 3.0, (10, "a"): 4.0}
    assert reward_accuracy.paired(observed, [None, 0.1, 0.2], advantage) == [(1.0, 0.1), (3.0, 0.2)]


def test_correlations_are_those_of_scipy():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=20).round(1), rng.normal(size=20).round(1)
    found = reward_accuracy.correlations(list(zip(ours.tolist(), theirs.tolist(), strict=True)))
    assert found["pearson"] == pytest.approx(pearsonr(ours, theirs).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(ours, theirs).statistic)
    assert reward_accuracy.correlations([(1.0, 2.0)] * 5) == {"pearson": None, "spearman": None}


def test_falls_are_recomputed_from_the_observations():
    observed = [{"step": str(5 * i), "arm": "a", "observation": str(8.0 / 2**i)} for i in range(4)]
    found = reward_accuracy.recomputed(observed, OptimizerSettings(lr=1.0, warmup=0.0), 20)
    assert found["fall"][0] is None and found["fall"][1:] == pytest.approx([math.log(2)] * 3)
    assert found["trend"][:2] == [None, None] and found["loss_decay"] == [None] * 4


def test_a_run_without_probes_is_refused(tmp_path):
    with pytest.raises(UserError, match="no probe.csv; a run of an adaptive policy with select.probe_every="):
        reward_accuracy.rewards(tmp_path)
