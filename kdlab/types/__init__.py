"""Values that the packages exchange: `Caveat`, `TaskShape`, `Plan`, `Batch`, `Outputs`, `Evidence`, `Observation`,
`WeighingContext`, `Context`.

Dimensions, defined once for the whole package:

B rows of a batch, k rows kept by selection, L tokens of a row (padded), U *units* (the places where a row makes a
prediction: its masked positions in masked-LM, the positions that predict a next token in causal language modelling, the
row itself in classification), P the largest number of units of one row, C classes (the vocabulary V of language models),
H hidden size, T teachers, M knowledge terms.
"""

from kdlab.types.batch import IGNORE, Batch, BatchState, Importance, Plan, PositionRule, RowRule
from kdlab.types.decisions import Context, Observation, WeighingContext
from kdlab.types.outputs import Evidence, Outputs
from kdlab.types.task import Caveat, TaskShape
from kdlab.types.tensors import moved

__all__ = [
    "IGNORE",
    "Batch",
    "BatchState",
    "Caveat",
    "Context",
    "Evidence",
    "Importance",
    "Observation",
    "Outputs",
    "Plan",
    "PositionRule",
    "RowRule",
    "TaskShape",
    "WeighingContext",
    "moved",
]
