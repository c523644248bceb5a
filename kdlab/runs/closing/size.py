"""Measure the size and speed of a run's student and teachers, for result.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl

from kdlab.models import size
from kdlab.models.encoder import Encoder
from kdlab.modules.evaluation import inference_mode
from kdlab.runs.prepare import PreparedRun
from kdlab.types import Batch

BATCH_SIZES = (1, 32)  # texts of a timed forward: one as it comes, and a batch
SECONDS = 2.5  # of all timed forwards of a run, about


def sizes(prepared: PreparedRun, trainer: pl.Trainer) -> dict[str, dict[str, Any]]:
    """The entry `size` of result.json: of the student and of each teacher `parameters`, those `without_embeddings`,
    `megabytes` (10^6 bytes) of the saved weights, and `milliseconds` per text by batch size.

    Forwards are as in the run's evaluations: in its precision and execution mode, on held-out rows drawn at random. Without
    milliseconds: all models under trainer.measure_speed=false, and a teacher that is sharded over ranks. For rank 0, on
    its own; no random state, mode of a module, or count of the ledger changes.
    """
    pool = prepared.stage.teacher_pool
    models = {"student": (prepared.module.student, size.saved_bytes(prepared.folder / "student"), True)}
    for teacher, member in zip(prepared.teachers, pool.members, strict=bool(prepared.teachers)):
        saved = size.saved_bytes(pool.folder(member), pool.revision(member))
        alone = not (teacher.shared and prepared.world > 1)
        models[teacher.name] = (teacher.encoder, saved, alone)
    timed = {}
    if prepared.config.trainer.measure_speed:
        timed = {count: prepared.data.heldout_sample(8, count) for count in BATCH_SIZES}
    share = SECONDS / (len(models) * len(BATCH_SIZES))
    return {
        name: {
            **dict(zip(("parameters", "without_embeddings"), size.parameter_counts(encoder.model), strict=True)),
            "megabytes": None if saved is None else round(saved / 1e6, 3),
            "milliseconds": _milliseconds(encoder, trainer, timed if alone else {}, share),
        }
        for name, (encoder, saved, alone) in models.items()
    }


def _milliseconds(
    encoder: Encoder, trainer: pl.Trainer, timed: dict[int, Sequence[Batch]], seconds: float
) -> dict[str, float]:
    with inference_mode(encoder, trainer):
        return {
            str(count): round(size.milliseconds_per_text(encoder, batches, seconds), 4)
            for count, batches in timed.items()
        }
