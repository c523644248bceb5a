"""Every strategy against SciPy, NumPy, scikit-learn or a number worked out by hand."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial import distance
from scipy.special import softmax
from sklearn import metrics

from kdlab.errors import UserError
from kdlab.methods.selection import strategies
from kdlab.methods.selection.strategies import base
from kdlab.methods.selection.top_k import top_k
from kdlab.types import IGNORE, Evidence
from tests.support.evidence import ON_LOGITS, STRATEGIES, evidence
from tests.support.selections import SINGLE, STRATEGY_NAMES

LOGITS = np.random.default_rng(0).normal(size=(40, 7)) * 3
LABELS = np.random.default_rng(5).integers(0, 7, size=40)
TEACHER = np.random.default_rng(6).normal(size=(40, 7)) * 2
REFERENCE = np.random.default_rng(7).exponential(size=40)  # a loss of each unit
P = softmax(LOGITS, axis=1)
SORTED = np.sort(P, axis=1)[:, ::-1]
log_loss = np.array([metrics.log_loss([y], [p], labels=range(7)) for y, p in zip(LABELS, P, strict=True)])
EXPECTED = {  # the oracle of each strategy on logits: scores (40,) of the 40 rows
    "entropy": stats.entropy(P, axis=1),
    "scaled_entropy": stats.entropy(P, axis=1, base=7),
    "margin": SORTED[:, 1] - SORTED[:, 0],
    "least_confidence": 1 - P.max(1),
    "certainty": -stats.entropy(P, axis=1),
    "loss": log_loss,
    "reducible": log_loss - REFERENCE,
    "disagreement": distance.jensenshannon(P, softmax(TEACHER, axis=1), axis=1) ** 2,
    "gradient_norm": np.linalg.norm(P - np.eye(7)[LABELS], axis=1),
}


def rows(*shape: int, **more) -> Evidence:
    """The first rows of LOGITS and LABELS, in this shape."""
    count = math.prod(shape)
    logits, teacher = (torch.as_tensor(of[:count], dtype=torch.float32).view(*shape, 7) for of in (LOGITS, TEACHER))
    reference = np.ma.array(REFERENCE[:count].reshape(shape), mask=~more["mask"].numpy() if "mask" in more else False)
    if len(shape) == 2:
        reference = reference.mean(1).filled(0)
    more |= {"teacher": teacher, "reference_loss": torch.as_tensor(np.asarray(reference))}
    return evidence(logits, torch.as_tensor(LABELS[:count]).view(shape), **more)


@pytest.mark.parametrize("name", sorted({*STRATEGIES, *STRATEGY_NAMES}))
def test_every_strategy_has_an_oracle(name):
    """A row of EXPECTED, or a test in this folder that begins with its name: of each function and of each arm in
    conf/select."""
    assert name in STRATEGIES or hasattr(strategies, name)
    if name in ON_LOGITS:
        assert name in EXPECTED, f"add {name} to EXPECTED: its scores of the 40 rows of LOGITS by another library"
    elif name not in EXPECTED:
        tests = "\n".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
        assert re.search(rf"^def test_{name.lower()}_", tests, re.M), (
            f"add a test_{name.lower()}_... with a value worked out by hand or by another library"
        )


def test_every_strategy_has_a_configuration():
    assert set(STRATEGIES) == set(SINGLE) - {"ensemble"}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_classification(name):
    scores = getattr(strategies, name)(rows(40))
    np.testing.assert_allclose(scores.numpy(), EXPECTED[name], rtol=1e-5, atol=1e-7)


def test_by_hand():
    """p = (1/2, 1/4, 1/4): entropy 1.5 log 2, p2 - p1 = -1/4, 1 - p1 = 1/2, ||p - (1, 0, 0)||^2 = 6/16."""
    row = evidence(np.log(np.float32([[0.5, 0.25, 0.25]])), [0])
    assert float(strategies.entropy(row)) == pytest.approx(1.5 * math.log(2))
    assert float(strategies.scaled_entropy(row)) == pytest.approx(1.5 * math.log(2) / math.log(3))
    assert float(strategies.margin(row)) == pytest.approx(-0.25)
    assert float(strategies.least_confidence(row)) == pytest.approx(0.5)
    assert float(strategies.certainty(row)) == pytest.approx(-1.5 * math.log(2))
    assert float(strategies.gradient_norm(row)) == pytest.approx(math.sqrt(6 / 16))
    assert float(strategies.loss(row)) == pytest.approx(math.log(2))
    reference = replace(row, reference_loss=torch.tensor([0.25]))
    assert float(strategies.reducible(reference)) == pytest.approx(math.log(2) - 0.25)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_masked_lm_is_the_mean_over_existing_positions(name):
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False], [True, True, True]])
    some = rows(4, 3, mask=mask)
    some.logits, some.labels = some.logits.clone(), torch.where(mask, some.labels, IGNORE)
    some.teacher = torch.where(mask.unsqueeze(-1), some.teacher, torch.nan)
    some.logits[~mask] = torch.nan  # positions that do not exist must not matter
    scores = getattr(strategies, name)(some).numpy()
    token = EXPECTED[name][:12].reshape(4, 3)
    expected = [token[0, :2].mean(), token[1, 0], -np.inf, token[3].mean()]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    whole = getattr(strategies, name)(rows(4, 3))
    np.testing.assert_allclose(whole.numpy(), token.mean(1), rtol=1e-5)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_row_without_masked_positions_is_kept_last(name):
    strategy = getattr(strategies, name)
    mask = torch.tensor([[False, False], [True, True], [True, False]])
    assert top_k(strategy(rows(3, 2, mask=mask)), 0.67).tolist() == [1, 2]
    assert strategy(evidence(torch.zeros(3, 0, 7))).tolist() == [-math.inf] * 3


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.parametrize("classes", [2, 3000])  # float64 below, float32 above
def test_slices_change_nothing(name, classes, monkeypatch):
    logits = np.random.default_rng(1).normal(size=(11, classes))
    mask = torch.as_tensor(np.random.default_rng(2).random(11) < 0.7)[:, None]
    pair = [evidence(logits.astype(np.float32)), evidence(logits[:, None].astype(np.float32), mask=mask)]
    before = [getattr(strategies, name)(e) for e in pair]
    monkeypatch.setattr(base, "SLICE", 3 * classes)
    for old, e in zip(before, pair, strict=True):
        torch.testing.assert_close(getattr(strategies, name)(e), old, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_type(name, dtype):
    logits = torch.as_tensor(LOGITS).to(dtype)
    scores = getattr(strategies, name)(evidence(logits, LABELS))
    assert scores.dtype == torch.float64
    expected = getattr(strategies, name)(evidence(logits.float(), LABELS))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.parametrize("shape", [(4, 1), (4, 3, 1)])
def test_regression_has_no_uncertainty(name, shape):
    with pytest.raises(UserError, match="regression"):
        getattr(strategies, name)(evidence(torch.zeros(shape)))


def test_missing_evidence_is_named():
    with pytest.raises(ValueError, match="logits"):
        strategies.entropy(Evidence(features=torch.zeros(2, 2)))
    for strategy in (strategies.density, strategies.cluster):
        with pytest.raises(ValueError, match="features"):
            strategy(rows(40))
    with pytest.raises(ValueError, match="does not fit"):
        strategies.entropy(Evidence(logits=torch.zeros(2, 3, 4), mask=torch.ones(2, 4)))
