"""Dynamic masking for masked-LM: draw the positions of a row to predict, and their input tokens.

A mask is a function of (seed, epoch, row) and of the row's tokens only: not of the batch, the rank or the number of
workers. So a teacher's answers can be cached, and a resumed run draws the masks of an uninterrupted one. Static masking
uses one fixed epoch: held-out text is always masked with epoch `STATIC`, so that evaluations measure the same
predictions.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kdlab.errors import UserError
from kdlab.runtime.seeding import stable
from kdlab.types import IGNORE

STATIC = -1  # the epoch number of static masks
_STEP = np.uint64(0x9E3779B97F4A7C15)


def _uniform(key: int, size: int) -> np.ndarray:
    """`size` independent uniform numbers in (0, 1) from a 63-bit key: splitmix64 (Steele et al. 2014) of a counter.

    Not a generator of numpy, whose stream may change with its version, and whose construction for each row costs more
    than the mask.
    """
    bits = np.uint64(key) + _STEP * np.arange(1, size + 1, dtype=np.uint64)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ (bits >> np.uint64(31))) >> np.uint64(12)) * 2.0**-52 + 2.0**-53  # 52 bits: never rounds to 1


class Masker:
    """Mask one row: `masker(input_ids, epoch, row)` returns (masked ids, labels), both (L,) like the input.

    `mask_id`, `special_ids`, `vocab_size`: the tokenizer's; special tokens are never masked and never drawn as random
    replacements. `probability` p: a row with n other tokens gets max(1, round(p n)) masked positions (none if n is
    0). Of them a share `keep` keeps its token, a share `replace` gets a random token, the rest the mask token (Devlin
    et al. 2019: 0.15; 0.1, 0.1, 0.8).

    `counts` None: positions are drawn uniformly. `counts` (V,), the frequency of each token in the training text:
    positions are drawn without replacement with weights max(count, 1)^-`smoothing`, so that rare words are masked more
    often (DistilBERT's script, which draws over the whole batch: smoothing 0.7). Labels are IGNORE elsewhere.
    """

    def __init__(
        self,
        mask_id: int,
        special_ids: Iterable[int],
        vocab_size: int,
        seed: int,
        probability: float = 0.15,
        keep: float = 0.1,
        replace: float = 0.1,
        counts: np.ndarray | None = None,
        smoothing: float = 0.7,
    ) -> None:
        if not 0 < probability < 1 or min(keep, replace) < 0 or keep + replace > 1:
            raise UserError(
                f"masking: probability {probability}, keep {keep}, replace {replace}; "
                "probability lies between 0 and 1, keep and replace are shares that sum to at most 1"
            )
        if counts is not None and len(counts) != vocab_size:
            raise UserError(f"masking: {len(counts)} token counts for a vocabulary of {vocab_size} tokens")
        ordinary = np.ones(vocab_size, dtype=bool)
        ordinary[list(special_ids)] = False
        if not ordinary.any():
            raise UserError(f"masking: all {vocab_size} tokens of the vocabulary are special, nothing can be masked")
        self.mask_id, self.seed, self.probability, self.keep, self.replace = mask_id, seed, probability, keep, replace
        self._ordinary = ordinary
        self._replacements = np.flatnonzero(ordinary)
        self._weights = None if counts is None else np.maximum(counts, 1).astype(np.float64) ** -smoothing

    def __call__(self, input_ids: np.ndarray, epoch: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        masked = np.array(input_ids)
        labels = np.full_like(masked, IGNORE)
        maskable = np.flatnonzero(self._ordinary[masked])
        if len(maskable) == 0:
            return masked, labels
        count = max(1, round(self.probability * len(maskable)))
        draws = _uniform(stable("mask", self.seed, epoch, row), len(maskable) + 2 * count)
        # Weighted sampling without replacement: the least of exponential variables with rates w (Efraimidis and
        # Spirakis 2006). Without weights, the least of the uniform draws.
        times = draws[: len(maskable)]
        if self._weights is not None:
            times = -np.log(times) / self._weights[masked[maskable]]
        positions = maskable[np.argpartition(times, count - 1)[:count]]
        positions.sort()
        labels[positions] = masked[positions]
        choice, token = draws[len(maskable) :].reshape(2, count)
        masked[positions[choice >= self.keep + self.replace]] = self.mask_id
        random = (self.keep <= choice) & (choice < self.keep + self.replace)
        masked[positions[random]] = self._replacements[(token[random] * len(self._replacements)).astype(np.int64)]
        return masked, labels
