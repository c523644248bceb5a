"""The Lightning callback that notes along the way which rows the student would have selected (Dynamic KD, Fig. 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl

from kdlab.methods.selection.strategies import Strategy
from kdlab.modules.distiller import Distiller
from kdlab.modules.row_pool import RowPool, centre_distances, joined, keeps, look
from kdlab.runtime import distributed
from kdlab.types import Batch

COLUMNS = ("step", "strategy", "distance", "rows")
ALL = "all"  # stands for no selection


class SelectionTrace(pl.Callback):
    """Every `every` optimizer steps, before the step, and after the last: rows of selected.csv (`COLUMNS`).

    The student looks at a pool of labelled training rows, the same all along (`batches` gives this rank's share), and
    for each of `strategies` it is noted which of them it keeps at `ratio` and how far they are from their class's
    centre; once more for all rows. No teacher is asked and nothing enters the ledger but seconds of evaluation: the
    teacher's entropy of these rows is `python -m kdlab.analyse selected`'s to ask, when the run is over. What is
    trained stays the same bit for bit.
    """

    def __init__(
        self,
        every: int,
        batches: Callable[[], Iterable[Batch]],
        strategies: Mapping[str, Strategy],
        ratio: float,
        total_steps: int,
        seed: int,
        write: Callable[[dict[str, Any]], None],
    ) -> None:
        self.every, self.ratio, self.total_steps, self.seed = every, ratio, total_steps, seed
        self.batches = batches
        self.strategies = dict(strategies)
        self.write = write

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if first and trainer.global_step % self.every == 0:
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(trainer, pl_module)

    def _look(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Distiller)
        step = trainer.global_step
        with module.metered("evaluation"):
            with module.quiet():
                shares = [look(module.student, batches, module.device) for batches in [list(self.batches())] if batches]
            pool = joined([pool for pools in distributed.gather_objects(shares) for pool in pools])
            for row in traced(pool, self.strategies, self.ratio, step, step / self.total_steps, self.seed):
                self.write(row)


def traced(
    pool: RowPool, strategies: Mapping[str, Strategy], ratio: float, step: int, progress: float, seed: int
) -> list[dict[str, Any]]:
    """Rows of selected.csv for one look at the pool: for each strategy, and for `ALL`, the mean distance to the class
    centre of the rows it keeps, and their ids."""
    distance = centre_distances(pool.features, pool.labels)
    picks = {
        name: keeps(pool, s, ratio, seed, "trace", step, name, progress=progress) for name, s in strategies.items()
    }
    return [
        {
            "step": step,
            "strategy": name,
            "distance": float(distance[mine].mean()),
            "rows": " ".join(str(row) for row in sorted(pool.rows[mine].tolist())),
        }
        for name, mine in {**picks, ALL: pool.rows >= 0}.items()
    ]
