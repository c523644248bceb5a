"""Do the labels and the teacher pull a student's parameters the same way? The angle of their gradients, row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdlab.methods.knowledge.logits import label_loss
from kdlab.models.encoder import Encoder
from kdlab.types import Batch, Outputs

Loss = Callable[[Outputs, Outputs], Tensor]


def cosines(encoder: Encoder, batch: Batch, told: Tensor, soft: Loss, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Cosine (B,) of the angle between the gradients of label loss and distillation loss of each row, float64.

    AdaDS section 4.3 and Fig. 1, which counts the rows where the angle is below 90 degrees (cosine above 0). `told`
    (U, C) are the teacher's logits at the batch's units (`units`), `soft` the distillation loss on logits, both losses
    added over the units of a row; gradients with regard to `parameters`, all together one vector, one row at a time: B
    forwards and 2 B backwards, one gradient of the model's size in memory at a time for each loss. 0 where a gradient
    vanishes.
    """
    cosine_list = []
    counts = torch.bincount(units(batch)[0], minlength=len(batch)).tolist()
    for i, theirs in enumerate(told.split(counts)):
        row = batch.take(torch.tensor([i], device=batch.rows.device))
        at, place = units(row)
        logits = encoder.project(encoder.vectors(encoder.encode(row), at, place))
        student = Outputs(logits=logits, labels=row.labels if row.labels.ndim == 1 else row.labels[at, place])
        one = _gradient(label_loss(student), parameters, keep=True)
        other = _gradient(soft(student, Outputs(logits=theirs)), parameters, keep=False)
        scale = _product(one, one).sqrt() * _product(other, other).sqrt()
        cosine_list.append(_product(one, other) / scale if scale > 0 else scale)
    return torch.stack(cosine_list).cpu() if cosine_list else torch.zeros(0, dtype=torch.float64)


def units(batch: Batch) -> tuple[Tensor, Tensor]:
    """Row and place (U,) of each prediction of a batch, row after row: its masked positions, or each row itself."""
    if batch.labels.ndim == 1:
        every = torch.arange(len(batch), device=batch.rows.device)
        return every, every
    row, place = batch.labelled().nonzero(as_tuple=True)
    return row, place


def _gradient(loss: Tensor, parameters: Sequence[nn.Parameter], keep: bool) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss.sum(), list(parameters), retain_graph=keep, allow_unused=True))


def _product(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> Tensor:
    parts = [
        torch.dot(a.flatten(), b.flatten()) for a, b in zip(one, other, strict=True) if a is not None and b is not None
    ]
    return torch.stack(parts).double().sum()
