"""kdlab.methods.selection.strategies.ensemble against SciPy and by hand."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy import stats

from kdlab.errors import UserError
from kdlab.methods.selection import strategies
from kdlab.methods.selection.strategies import Ensemble
from tests.support.evidence import evidence


def test_ensemble_is_the_mean_of_normalised_ranks():
    scores = np.random.default_rng(4).integers(0, 5, size=(3, 12)).astype(float)
    expected = ((stats.rankdata(scores, axis=1) - 1) / 11).mean(0)
    members = [strategies.entropy, strategies.density, strategies.random]
    np.testing.assert_allclose(Ensemble(members).combine(torch.as_tensor(scores)), expected)


def test_ensemble_by_hand():
    """Ranks (0, 1, 2) and (1.5, 1.5, 0), over 2, averaged."""
    own = {"a": lambda e: torch.tensor([1.0, 2, 3]), "b": lambda e: torch.tensor([7, 7, -torch.inf])}
    np.testing.assert_allclose(Ensemble(own)(evidence(torch.zeros(3, 2))), [0.375, 0.625, 0.5])


def test_ensemble_members():
    ensemble = Ensemble([strategies.entropy, functools.partial(strategies.cluster, clusters=2)])
    assert list(ensemble.members) == ["entropy", "cluster"]
    assert Ensemble([strategies.entropy])(evidence(torch.zeros(1, 2))).tolist() == [0]
    with pytest.raises(UserError, match="two ensemble members"):
        Ensemble([strategies.cluster, functools.partial(strategies.cluster, clusters=2)])
    with pytest.raises(UserError, match="at least one"):
        Ensemble({})
    with pytest.raises(ValueError, match="NaN"):
        ensemble.combine(torch.tensor([[0.0, torch.nan]]))
