"""One answer out of several teachers' logits: a weighted mean of probabilities, or joined logits.

Teachers may have logits for some of the C classes only (specialists).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

UNKNOWN = -1e4  # logit of a class that no answering teacher has: finite, so that 0 * log 0 is 0


class PartialLogits(NamedTuple):
    """Logits (n, c) of one teacher for some of U units and some of C classes.

    `classes`: those of its c columns (None: all C); `units` (n,): positions of its rows (None: all U); `weight` (n,):
    its adoption weight for each (None: 1); `tokens` (n, c): the classes of each unit's own columns (None: the same for all).
    """

    logits: Tensor
    classes: Sequence[int] | None = None
    units: Tensor | None = None
    weight: Tensor | None = None
    tokens: Tensor | None = None


def mixture(
    parts: Sequence[PartialLogits], units: int, classes: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Logits (units, classes) of the weighted mean of the teachers' probabilities, and the sum (units,) of the weights.

    Each teacher is softened before it is mixed, as in MUKI: softmax of the logits over `temperature` is the mean of
    softmax(t / temperature), each over the classes the teacher has. In regression (one output) the mean of the outputs.
    """
    first = parts[0].logits
    total = first.new_zeros(units, classes, dtype=torch.float32)
    weights = first.new_zeros(units, dtype=torch.float32)
    for logits, known, which, weight, _ in parts:
        each = logits.float() if classes == 1 else F.softmax(logits.float() / temperature, -1)
        weight = each.new_ones(len(each)) if weight is None else weight.float()
        each = each * weight.unsqueeze(1)
        if known is not None:
            each = each.new_zeros(len(each), classes).index_copy(1, torch.tensor(known, device=each.device), each)
        total = total + (each if which is None else torch.zeros_like(total).index_add(0, which, each))
        weights = weights + (weight if which is None else torch.zeros_like(weights).index_add(0, which, weight))
    mean = total / weights.clamp_min(1e-30).unsqueeze(1)
    if classes == 1:
        return mean, weights
    return temperature * torch.where(mean > 0, mean.clamp_min(1e-38).log(), UNKNOWN), weights


def joined(parts: Sequence[PartialLogits], units: int, classes: int) -> Tensor:
    """Logits (units, classes): each teacher's in the columns of its classes, side by side.

    The mean of the logits where several teachers have a class (ours: specialists share none). Every teacher has
    answered every unit.
    """
    total = parts[0].logits.new_zeros(units, classes, dtype=torch.float32)
    count = total.new_zeros(classes)
    for logits, known, _, _, _ in parts:
        columns = torch.tensor(range(classes) if known is None else known, device=total.device)
        total = total.index_add(1, columns, logits.float())
        count = count.index_add(0, columns, count.new_ones(len(columns)))
    return torch.where(count > 0, total / count.clamp_min(1), UNKNOWN)
