"""A pseudo-random permutation of many numbers that is worked out where it is needed, without an array of them."""

from __future__ import annotations

import numpy as np

from kdlab.runtime.seeding import stable

ROUNDS = 8  # even: the halves change places in each


class Permutation:
    """A permutation of the numbers below `size` by a Feistel network (Luby and Rackoff 1988) with keys from `key`.

    The network permutes the numbers of as many bits as the greatest one has; one that leaves the range goes through it again
    until it is back (cycle walking, Black and Rogaway 2002), at most twice as often on average.
    """

    def __init__(self, size: int, *key: int | str) -> None:
        self.size = size
        bits = max(2, (size - 1).bit_length())
        self._bits = bits // 2, bits - bits // 2  # of the upper and the lower half
        self._keys = [np.uint64(stable("round", number, *key)) for number in range(ROUNDS)]

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """The numbers (n,) int64 at `places` (n,), each of which is at least 0 and below `size`."""
        found = self._once(places.astype(np.uint64))
        while len(outside := np.flatnonzero(found >= self.size)):
            found[outside] = self._once(found[outside])
        return found.astype(np.int64)

    def _once(self, numbers: np.ndarray) -> np.ndarray:
        upper, lower = (np.uint64(bits) for bits in self._bits)
        one = np.uint64(1)
        left, right = numbers >> lower, numbers & ((one << lower) - one)
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & ((one << upper) - one))
            upper, lower = lower, upper
        return (left << lower) | right


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """A hash of each of the numbers, uint64: the finalizer of MurmurHash3."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        numbers = (numbers ^ (numbers >> np.uint64(33))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(33))
