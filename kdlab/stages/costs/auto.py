"""Values in place of auto: the strategy of select=auto that a task allows, the share of select.look=auto that it affords."""

from __future__ import annotations

import math
from dataclasses import replace

from kdlab.config.groups.select import AUTO, SelectConfig
from kdlab.methods.selection.candidates import reads_student
from kdlab.models.flops import MethodCost
from kdlab.stages import components
from kdlab.stages.base import Stage
from kdlab.stages.observation import row_cost

SCORING = 0.5  # FLOPs of scoring over those of training on the rows kept; experiments/auto_found scored for 0.6
FEWEST = 2.0  # rows scored for each row kept, at least
UNLABELLED = "margin"  # strategy for rows without labels
FIXED = {"_target_": "kdlab.methods.selection.policies.Fixed"}


def affordable(cost: MethodCost, ratio: float, layers: float = 1.0) -> float:
    """The share l of a batch whose scores cost `SCORING` of a step without them: l e Fs = SCORING r (Fs + Bs + Ft).

    `layers`: the share e of the student's layers that a score takes. At least `FEWEST` r, at most 1, in whole hundredths
    that are rounded up.
    """
    share = SCORING * cost.random(ratio) / (layers * cost.student_forward)
    return min(1.0, math.ceil(100 * max(FEWEST * ratio, share) - 1e-9) / 100)


def resolve_arms(stage: Stage) -> None:
    """Put the strategy that the task allows in place of that of select=auto, and print it.

    Random rows on text, where no strategy has been worth its scores (experiments/adads_pretrain_strategies), and in regression,
    which has no probabilities; `UNLABELLED` with augmented rows, which have no labels.
    """
    select = stage.config.select
    if select.name != AUTO or select.ratio == 1:
        return
    if not stage.inputs.head.per_row:
        name, why = "random", "plain text, where scores have not been worth their cost"
    elif stage.inputs.regression:
        name, why = "random", "regression, which has no probabilities"
    elif stage.config.data.augment is not None:
        name, why = UNLABELLED, "augmented rows, which have no labels"
    else:
        return
    strategy = {"_target_": f"kdlab.methods.selection.strategies.{name}", "_partial_": True}
    stage.config.select = replace(select, arms={name: strategy}, policy=dict(FIXED), reward=None)
    stage.inputs.notify(f"select=auto: {name} rows on {why}")


def resolve_look(stage: Stage) -> None:
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
