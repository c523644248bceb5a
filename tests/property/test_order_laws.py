"""Laws of the order of many rows: each once an epoch, by seed and epoch alone, from any batch, on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlab.data import loading
from kdlab.data.loading import BatchOrder, LargeEpoch
from kdlab.data.permutation import Permutation
from kdlab.runtime.seeding import stable


@settings(deadline=None, max_examples=200)
@given(size=st.integers(1, 3000), key=st.integers(0, 2**40))
def test_every_number_comes_once(size: int, key: int) -> None:
    found = Permutation(size, "order", key)(np.arange(size))
    assert found.dtype == np.int64 and sorted(found.tolist()) == list(range(size))


@settings(deadline=None, max_examples=50)
@given(size=st.integers(2**20, 2**45), places=st.lists(st.integers(0, 2**20 - 1), min_size=2, unique=True))
def test_numbers_of_a_large_range_are_in_it_and_differ(size: int, places: list[int]) -> None:
    shuffled = Permutation(size, 0)
    found = shuffled(np.array(places))
    assert len(set(found.tolist())) == len(places) and found.min() >= 0 and found.max() < size
    assert found.tolist() == [int(shuffled(np.array([place]))[0]) for place in places]  # alone or together


def test_a_network_by_its_definition() -> None:
    """Feistel's network of 8 rounds over halves of 2 and 3 bits, in Python's numbers, and its walk into a range of 20."""

    def mixed(x: int) -> int:
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            x = (x ^ x >> 33) * factor % 2**64
        return x ^ x >> 33

    def network(number: int) -> int:
        left, right, bits = number >> 3, number & 7, [2, 3]
        for i in range(8):
            left, right = right, left ^ (mixed(right ^ stable("round", i, "k")) & (2 ** bits[0] - 1))
            bits.reverse()
        return left << 3 | right

    def walked(number: int) -> int:
        number = network(number)
        return number if number < 20 else walked(number)

    assert Permutation(20, "k")(np.arange(20)).tolist() == [walked(number) for number in range(20)]


@pytest.mark.parametrize("size", [7, 100])
def test_places_are_uniform_over_keys(size: int) -> None:
    """Row 0 falls on each place as often, and so does the distance from it to row 1: chi-squared of 8,000 keys."""
    found = np.array([Permutation(size, key)(np.array([0, 1])) for key in range(8_000)])
    for values, kinds in ((found[:, 0], size), ((found[:, 1] - found[:, 0]) % size - 1, size - 1)):
        counts = np.bincount(values, minlength=kinds)
        expected = len(found) / kinds
        assert len(counts) == kinds
        assert ((counts - expected) ** 2 / expected).sum() < kinds - 1 + 5 * np.sqrt(2 * (kinds - 1))


def order(
    count: int, size: int, world: int = 1, rank: int = 0, seed: int = 1, grouped: bool = True, without: int = 0
) -> BatchOrder:
    rng = np.random.default_rng(count)
    hidden = np.sort(rng.permutation(count)[:without])
    found = BatchOrder(rng.integers(5, 60, count), size, 0, seed, rank, world, hidden, grouped)
    found.batches = found.total_batches(None, 2)
    return found


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(60, 900), size=st.integers(1, 9), world=st.integers(1, 4), seed=st.integers(0, 99),
    grouped=st.booleans(), without=st.integers(0, 9), start=st.floats(0, 1),
)  # fmt: skip
def test_large_sets_keep_the_laws_of_small_ones(count, size, world, seed, grouped, without, start) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "LARGE", 40)
        whole = order(count, size * world, 1, 0, seed, grouped, without)
        batches, epochs = list(whole), whole.per_epoch
        assert isinstance(whole.epoch_batches(0), LargeEpoch) and len(batches) == 2 * epochs
        drawn = [sorted(row for part in batches[e * epochs : (e + 1) * epochs] for _, row in part) for e in (0, 1)]
        assert drawn[0] == drawn[1] == whole.rows.tolist() and len(drawn[0]) == count - without
        assert batches[:epochs] != [[(0, row) for _, row in part] for part in batches[epochs:]]
        assert [len(part) for part in batches].count(size * world) >= 2 * (epochs - 1)
        if count - without > 99:
            assert list(order(count, size * world, 1, 0, seed + 1, grouped, without)) != batches
        later = order(count, size * world, 1, 0, seed, grouped, without)
        later.start = int(start * len(batches))
        assert list(later) == batches[later.start :]
        shares = [list(order(count, size, world, rank, seed, grouped, without)) for rank in range(world)]
        for i, expected in enumerate(batches):
            assert [key for share in shares for key in share[i] if key[1] >= 0] == expected
            assert all(share[i] for share in shares)


def test_large_batches_hold_rows_of_similar_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LARGE", 40)
    for grouped, least, most in ((True, 0, 3), (False, 20, 60)):
        one = order(4_000, 8, grouped=grouped)
        spread = np.mean([np.ptp(one.lengths[batch]) for batch in one.epoch_batches(0)])
        assert least < spread < most
        means = [one.lengths[batch].mean() for batch in one.epoch_batches(0)]
        assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.15  # neighbours in the epoch are not alike


def test_up_to_the_limit_the_order_is_that_of_the_first_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """As NumPy's generator shuffles an index of all rows; one row more, and it is another one."""
    monkeypatch.setattr(loading, "LARGE", 300)
    one = order(303, 8, grouped=False, without=3)
    index = one.rows[np.random.default_rng(stable("order", 1, 0)).permutation(300)]
    assert np.array_equal(np.concatenate(one.epoch_batches(0)), index)
    assert isinstance(order(303, 8, without=2).epoch_batches(0), LargeEpoch)
    kept = np.setdiff1d(np.arange(303), one.without)
    assert np.array_equal(one.rows, kept)
