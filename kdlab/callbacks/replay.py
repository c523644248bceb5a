"""`Replay`: rows that were kept before are trained on again, with the answers that the teachers gave then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from kdlab.data.permutation import Permutation
from kdlab.runtime import distributed
from kdlab.types import Batch


class Replay(pl.Callback):
    """Puts rows of earlier batches into the plan of each batch (`Plan.replayed`): `share` for each row that it keeps.

    Called after `Select`. The rows are drawn evenly from all that were kept so far, by `seed` and the number of the batch,
    so any number of ranks, which take equal parts, draws the same ones. The first batches have fewer, as long as fewer were
    kept. Teachers answer from their caches (`teachers.cache`), so a replayed row is no query; the student learns from it
    once more. `collated` makes a batch of training rows (n,) int64, of which there are `count`. The idea is data echoing
    (arXiv 1907.05550): to take again what was dear to get.
    """

    def __init__(self, share: float, collated: Callable[[np.ndarray], Batch], count: int, seed: int) -> None:
        self.share, self.collated, self.seed = share, collated, seed
        self._rows = np.empty(0, np.int64)  # kept so far, in the order of their first batch, each once
        self._known = np.zeros(count, dtype=bool)

    @property
    def state_key(self) -> str:
        return "Replay"

    def state_dict(self) -> dict[str, Any]:
        return {"rows": torch.from_numpy(self._rows.copy())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = state_dict["rows"].numpy().copy()
        self._known[:] = False
        self._known[self._rows] = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert batch.plan is not None, "Select comes before Replay"
        kept = kept_rows(batch, batch.plan.rows)
        drawn = self.drawn(kept, batch_idx)
        self._add(kept)
        own = np.array_split(drawn, distributed.world())[distributed.rank()]
        if len(own):
            batch.plan.replayed = self.collated(own).to(batch.rows.device)

    def drawn(self, kept: np.ndarray, batch_idx: int) -> np.ndarray:
        """The rows (n,) to train on again beside the rows `kept`, which are none of them."""
        count, size = int(self.share * len(kept) + 0.5), len(self._rows)
        if not size or not count:
            return self._rows[:0]
        places = np.arange(min(size, count + len(kept)))
        found = self._rows[Permutation(size, self.seed, "replay", batch_idx)(places)]
        return found[~np.isin(found, kept)][:count]

    def _add(self, kept: np.ndarray) -> None:
        new = kept[~self._known[kept]]
        self._known[new] = True
        self._rows = np.concatenate([self._rows, new])


def kept_rows(batch: Batch, index: Tensor | None) -> np.ndarray:
    """Ids (k,) of the real rows that are kept of the batches of all ranks, in rank order (collective). `index` (k,): this
    rank's, numbered in `batch` (None: all)."""
    host = batch.host
    rows, real = (host.rows, host.real) if index is None else (host.rows[index], host.real[index])
    kept = rows[real.bool()]
    return (distributed.gather_rows(kept) if distributed.world() > 1 else kept).numpy()
