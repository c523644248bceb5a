"""The share of each batch that is scored where `select.look` is auto: as much as the teacher's cost is worth."""

from __future__ import annotations

import math
from dataclasses import replace

from kdlab.config.groups import AUTO, SelectConfig
from kdlab.methods.selection.candidates import reads_student
from kdlab.models.flops import MethodCost
from kdlab.stages import components
from kdlab.stages.base import Stage
from kdlab.stages.observation import row_cost

SCORING = 0.5  # FLOPs of scoring over those of training on the rows kept (experiments/choosing_pays)
FEWEST = 2.0  # rows scored for each row kept, at least


def affordable(cost: MethodCost, ratio: float, layers: float = 1.0) -> float:
    """The share l of a batch whose scores cost `SCORING` of a step without them: l e Fs = SCORING r (Fs + Bs + Ft).

    `layers`: the share e of the student's layers that a score takes. At least `FEWEST` r, at most 1, in whole hundredths
    that are rounded up.
    """
    share = SCORING * cost.random(ratio) / (layers * cost.student_forward)
    return min(1.0, math.ceil(100 * max(FEWEST * ratio, share) - 1e-9) / 100)


def resolve(stage: Stage) -> None:
    """Put the affordable share in place of select.look=auto, and print it. Nothing is loaded; the models' configs are read.

    All rows are scored where scores cost nothing: with labels on all rows, and by strategies that read no output of the student.
    """
    select = stage.config.select
    if select.look != AUTO:
        return
    look = _look(stage, select)
    stage.config.select = replace(select, look=look)
    if select.ratio < 1:
        stage.inputs.notify(f"select.look=auto: {100 * look:g} % of each batch is scored, at the models' FLOPs")


def _look(stage: Stage, select: SelectConfig) -> float:
    free = stage.config.knowledge.labels_on == "all" and select.scoring == "fresh"
    if select.ratio == 1 or free or not any(map(reads_student, stage.selection().arms.values())):
        return 1.0
    depth = stage.inputs.student_shape.layers
    layers = components.exit_layer(select, depth) / depth if select.scoring == "early_exit" else 1.0
    kept = max(select.ratio, 1 / stage.config.data.batch_size)  # one row at least
    return affordable(row_cost(stage), kept, layers)
