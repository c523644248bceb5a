"""Answers about some of a row's positions, where selection has kept the others from the teacher (`select.unit=position`).

Such an answer has an array (n, 3) int32 more than one about all positions: the token of each position, and the run and the
micro-step that asked for it. A later query for other positions of the row runs a forward for these alone, and both are
merged into one answer; the first answer about a position stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdlab.teachers.cache.answer_store import CachedRow
from kdlab.teachers.cache.codec import CacheSpec, packed, places_of, unpacked
from kdlab.types import Batch


def places_in(spec: CacheSpec, entry: CachedRow, every: Tensor, layers: int) -> np.ndarray:
    """The positions (n, 3) of a stored answer; `every` (L,): the mask of those that the row has."""
    arrays = unpacked(entry.payload)[1]
    return arrays[-1] if len(arrays) > spec.arrays(layers) else places_of(every, (entry.run, entry.step))


def due_units(
    spec: CacheSpec,
    batch: Batch,
    stored: Sequence[CachedRow | None],
    now: tuple[int, int],
    answered: Sequence[bool],
    layers: int,
) -> tuple[Tensor, bool] | None:
    """Mask (k, L) bool, on the host, of the positions that a query counts, and whether some of them must be computed.

    Those of the batch that no answer has, and those that this run stored at this micro-step, `now`, before it was killed;
    but not of rows `answered` at this step already. None where every answer is about whole rows.
    """
    if spec.logits != "labelled":
        return None
    partial = [entry is not None and len(unpacked(entry.payload)[1]) > spec.arrays(layers) for entry in stored]
    if batch.predicted is None and not any(partial):
        return None
    wanted, every = spec.units(batch), spec.every_unit(batch)
    due, missing = wanted.clone(), False
    stamp = np.asarray(now, np.int64).astype(np.uint32).view(np.int32)
    for i, entry in enumerate(stored):
        if entry is None:
            missing = True
            continue
        places = places_in(spec, entry, every[i], layers)
        known = torch.from_numpy(places[:, 0].astype(np.int64))
        fresh = torch.from_numpy((places[:, 1:] == stamp).all(1) & (not answered[i]))
        has = torch.zeros_like(due[i])
        has[known] = True
        missing = missing or bool((wanted[i] & ~has).any())
        has[known] = ~fresh
        due[i] = wanted[i] & ~has
    return due, missing


def merged(spec: CacheSpec, entry: CachedRow, added: bytes, every: Tensor, layers: int) -> bytes:
    """The stored answer `entry` with the positions of `added`, which replace the same ones, in the order of the tokens."""
    codes, new = unpacked(np.frombuffer(added, np.uint8))
    _, old = unpacked(entry.payload)
    before = places_in(spec, entry, every, layers)
    kept = ~np.isin(before[:, 0], new[-1][:, 0])
    places = np.concatenate([before[kept], new[-1]])
    order = places[:, 0].argsort(kind="stable")
    columns = [np.concatenate([old[i][kept], new[i]])[order] for i in range(spec.columns)]
    return packed([*columns, *old[spec.columns : spec.arrays(layers)], places[order]], codes)
