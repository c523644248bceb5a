"""Documents that share a row: positions within each, and, for models that cannot keep them apart, a row for each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers import masking_utils

from kdlab.errors import UserError
from kdlab.types import Batch, Outputs, moved

Encode = Callable[[Batch, frozenset[str]], Outputs]


def positions(batch: Batch) -> Tensor:
    """Position (k, L) of each token in its document, from 0; in the row where rows are documents. At padding any number."""
    token = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand(batch.input_ids.shape)
    if batch.documents is None:
        return token
    begins = batch.documents.diff(dim=1, prepend=batch.documents[:, :1] - 1) != 0
    return token - torch.where(begins, token, 0).cummax(1).values


@contextlib.contextmanager
def known_sequences(positions: Tensor | None) -> Iterator[None]:
    """Tell transformers, for a forward in the block, which tokens of a row are of one sequence, by position ids (k, L) on the
    host (None: a model without them).

    It works that out in each forward from those on the device, and waits for it to know whether a row holds several.
    """
    if positions is None:
        yield
        return
    found, ask = masking_utils.find_packed_sequence_indices(positions), masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda ids: None if found is None else moved(found, ids.device)
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = ask


def apart(batch: Batch) -> tuple[Batch, Tensor]:
    """A batch with each of the D documents of `batch` as a row, and the place (D, l), on the host, of its tokens among the k L
    of `batch`."""
    device, batch = batch.rows.device, batch.host
    real = batch.attention_mask.bool().flatten()
    begins = (positions(batch) == 0).flatten() & real
    first = begins.nonzero().squeeze(1)
    lengths = torch.bincount((begins.cumsum(0) - 1)[real], minlength=len(first))
    token = torch.arange(int(lengths.max()))
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
    return rows.to(device), places


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
    exists, device = rows.host.attention_mask.bool(), batch.rows.device
    target, source = (moved(x, device) for x in (places[exists], exists.flatten().nonzero().squeeze(1)))

    def together(states: Tensor) -> Tensor:
        whole = states.new_zeros(batch.input_ids.numel(), states.shape[-1])
        return whole.index_copy(0, target, states.flatten(0, 1)[source]).view(*batch.input_ids.shape, -1)

    assert found.hidden is not None
    return Outputs(
        hidden=together(found.hidden),
        mask=batch.attention_mask,
        states=found.states and tuple(map(together, found.states)),
    )
