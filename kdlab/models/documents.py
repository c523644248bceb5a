"""Documents that share a row: positions within each, and, for models that cannot keep them apart, a row for each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.types import Batch, Outputs

Encode = Callable[[Batch, frozenset[str]], Outputs]


def positions(batch: Batch) -> Tensor:
    """Position (k, L) of each token in its document, from 0; in the row where rows are documents. At padding any number."""
    token = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand(batch.input_ids.shape)
    if batch.documents is None:
        return token
    begins = batch.documents.diff(dim=1, prepend=batch.documents[:, :1] - 1) != 0
    return token - torch.where(begins, token, 0).cummax(1).values


def apart(batch: Batch) -> tuple[Batch, Tensor]:
    """A batch with each of the D documents of `batch` as a row, and the place (D, l) of its tokens among the k L of `batch`."""
    real = batch.attention_mask.bool().flatten()
    begins = (positions(batch) == 0).flatten() & real
    first = begins.nonzero().squeeze(1)
    lengths = torch.bincount((begins.cumsum(0) - 1)[real], minlength=len(first))
    token = torch.arange(int(lengths.max()), device=first.device)
    exists = token < lengths.unsqueeze(1)
    places = first.unsqueeze(1) + token * exists
    row = first // batch.input_ids.shape[1]
    rows = Batch(
        rows=batch.rows[row],
        epoch=batch.epoch,
        input_ids=batch.input_ids.flatten()[places],
        attention_mask=exists.long(),
        labels=batch.labels.flatten()[places] if batch.labels.ndim == 2 else batch.labels[row],
        real=batch.real[row],
    )
    return rows, places


def encode_apart(encode: Encode, batch: Batch, wants: frozenset[str]) -> Outputs:
    """The outputs for `batch` of a model that runs each document as a row of its own; zero at padding.

    UserError where attention is read, whose scores are of single documents.
    """
    if wants & {"scores", "values"}:
        raise UserError(
            "attention of documents that share a row cannot be read from a model of this family: rows of one document each, "
            "or knowledge without attention"
        )
    rows, places = apart(batch)
    found = encode(rows, wants)
    exists = rows.attention_mask.bool()

    def together(states: Tensor) -> Tensor:
        whole = states.new_zeros(batch.input_ids.numel(), states.shape[-1])
        return whole.index_copy(0, places[exists], states[exists]).view(*batch.input_ids.shape, -1)

    assert found.hidden is not None
    return Outputs(
        hidden=together(found.hidden),
        mask=batch.attention_mask,
        states=found.states and tuple(map(together, found.states)),
    )
