"""Selection strategies: one score for each of N rows; rows of higher scores are kept first, always.

A strategy is a function `Evidence -> (N,) float scores`. `@needs` (`kdlab.methods.marks`) declares the fields of
`Evidence` that it reads ("logits", "features", "labels", "teacher", ...): the caller computes and passes only these. `rowwise=True`
declares that a row's score depends on that row alone, so a batch may be scored in chunks.

In masked-LM a row's score is the mean of the token scores over its P masked positions; a row that has none gets -inf
and is kept last. Strategies on logits raise UserError for one output (regression).
Scores are float64 (float32 on Apple's GPUs, which have no float64).
Sources: AdaDS section 4.1, Eq. 4-8. `scaled_entropy`: DeKD section 3.2.
"""

from kdlab.methods.selection.strategies.base import Strategy as Strategy
from kdlab.methods.selection.strategies.diverse import badge, divbs
from kdlab.methods.selection.strategies.ensemble import Ensemble
from kdlab.methods.selection.strategies.features import cluster, density
from kdlab.methods.selection.strategies.history import Forgetting
from kdlab.methods.selection.strategies.labels import gradient_norm, loss, reducible
from kdlab.methods.selection.strategies.teacher import disagreement, teachability, tip
from kdlab.methods.selection.strategies.uncertainty import (
    certainty,
    entropy,
    least_confidence,
    margin,
    scaled_entropy,
)
from kdlab.methods.selection.strategies.uniform import random
from kdlab.methods.selection.strategies.votes import committee

__all__ = [  # in the order of docs/api.md
    "random",
    "entropy",
    "scaled_entropy",
    "margin",
    "least_confidence",
    "certainty",
    "loss",
    "gradient_norm",
    "reducible",
    "disagreement",
    "tip",
    "teachability",
    "density",
    "cluster",
    "divbs",
    "badge",
    "committee",
    "Forgetting",
    "Ensemble",
]
