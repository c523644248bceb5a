"""Masks of single rows: counts, shares and draws against numbers computed by hand or by enumeration."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from kdlab.data.text.masking import STATIC, Masker, _uniform
from kdlab.errors import UserError
from kdlab.types import IGNORE

CLS, SEP, PAD, UNK, MASK, VOCAB = 0, 1, 2, 3, 4, 50
SPECIAL = [CLS, SEP, PAD, UNK, MASK]


def masker(**changes) -> Masker:
    return Masker(**{"mask_id": MASK, "special_ids": SPECIAL, "vocab_size": VOCAB, "seed": 1, **changes})


def row(length: int) -> np.ndarray:
    return np.array([CLS, *np.arange(length) % 40 + 5, SEP], dtype=np.int64)


def test_generator_is_splitmix64() -> None:
    """The first outputs for seed 1234567, as published with the algorithm's reference implementations."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [int(value * 2**52) for value in _uniform(1234567, 4)] == [value >> 12 for value in published]


@pytest.mark.parametrize(("length", "count"), [(1, 1), (3, 1), (10, 2), (20, 3), (100, 15), (510, 76)])
def test_number_of_masked_positions(length: int, count: int) -> None:
    """max(1, round(0.15 n)): 0.15, 0.45, 1.5, 3, 15, 76.5 rounded (halves to even)."""
    ids = row(length)
    masked, labels = masker()(ids, epoch=0, row=0)
    chosen = labels != IGNORE
    assert chosen.sum() == count
    np.testing.assert_array_equal(labels[chosen], ids[chosen])
    np.testing.assert_array_equal(masked[~chosen], ids[~chosen])


def test_special_tokens_only_gives_no_prediction() -> None:
    ids = np.array([CLS, UNK, UNK, SEP, PAD])
    masked, labels = masker()(ids, 0, 0)
    np.testing.assert_array_equal(masked, ids)
    assert (labels == IGNORE).all()


def test_input_is_not_changed_and_types_are_kept() -> None:
    ids = row(30).astype(np.int32)
    before = ids.copy()
    masked, labels = masker()(ids, 0, 0)
    np.testing.assert_array_equal(ids, before)
    assert masked.dtype == labels.dtype == np.int32


def test_a_mask_depends_on_seed_epoch_and_row() -> None:
    ids = row(100)
    masks = [
        masker(seed=seed)(ids, epoch, number)[1].tolist()
        for seed, epoch, number in [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (1, STATIC, 0)]
    ]
    assert len({tuple(mask) for mask in masks}) == 5
    assert masker()(ids, 0, 0)[1].tolist() == masks[0]


def test_shares_of_mask_keep_and_random() -> None:
    """80, 10 and 10 %, within four standard deviations, a random token being the old one once in 45."""
    ids, mask = row(200), masker()
    kept = random = hidden = 0
    for number in range(400):
        masked, labels = mask(ids, 0, number)
        chosen = labels != IGNORE
        hidden += int((masked[chosen] == MASK).sum())
        kept += int((masked[chosen] == ids[chosen]).sum())
        random += int(((masked[chosen] != ids[chosen]) & (masked[chosen] != MASK)).sum())
        assert not np.isin(masked[chosen][masked[chosen] != MASK], SPECIAL).any()
    total = 400 * 30
    same = 0.1 / 45
    for seen, share in [(hidden, 0.8), (kept, 0.1 + same), (random, 0.1 - same)]:
        assert abs(seen - share * total) < 4 * np.sqrt(total * share * (1 - share))


def test_random_tokens_are_uniform_over_ordinary_tokens() -> None:
    mask, ids = masker(keep=0.0, replace=1.0, probability=0.9), row(100)
    drawn = np.concatenate(
        [mask(ids, 0, number)[0][1:-1][mask(ids, 0, number)[1][1:-1] != IGNORE] for number in range(200)]
    )
    counts = np.bincount(drawn, minlength=VOCAB)
    assert counts[SPECIAL].sum() == 0
    expected = len(drawn) / 45
    assert (np.abs(counts[5:] - expected) < 5 * np.sqrt(expected)).all()


def inclusion(weights: np.ndarray, count: int) -> np.ndarray:
    """Probability of each item to be among `count` drawn one after the other without replacement, by enumeration."""
    result = np.zeros(len(weights))
    for order in permutations(range(len(weights)), count):
        left, probability = weights.sum(), 1.0
        for item in order:
            probability *= weights[item] / left
            left -= weights[item]
        result[list(order)] += probability
    return result


@pytest.mark.parametrize("rare", [False, True])
def test_positions_are_drawn_by_weight(rare: bool) -> None:
    counts = np.zeros(VOCAB, dtype=np.int64)
    counts[5:10] = [0, 1, 10, 100, 1000]
    ids = np.array([CLS, 5, 6, 7, 8, 9, SEP])
    mask = masker(probability=0.4, counts=counts if rare else None)
    trials = 8000
    seen = np.zeros(5)
    for number in range(trials):
        seen += mask(ids, 0, number)[1][1:-1] != IGNORE
    weights = np.array([1.0, 1.0, 10**-0.7, 100**-0.7, 1000**-0.7]) if rare else np.ones(5)
    expected = inclusion(weights, 2)
    assert expected.sum() == pytest.approx(2)
    assert (np.abs(seen / trials - expected) < 4.5 * np.sqrt(expected * (1 - expected) / trials)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probability": 0.0}, "probability 0.0"),
        ({"probability": 1.5}, "probability 1.5"),
        ({"keep": 0.6, "replace": 0.6}, "sum to at most 1"),
        ({"keep": -0.1}, "keep -0.1"),
        ({"counts": np.ones(7)}, "7 token counts for a vocabulary of 50"),
        ({"special_ids": range(VOCAB)}, "nothing can be masked"),
    ],
)
def test_wrong_settings_are_named(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        masker(**changes)
