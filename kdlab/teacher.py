"""The teacher: frozen, in eval mode, outside the student's parameters and checkpoints, and counted at every query."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdlab.models import Encoder
from kdlab.types import Batch


class Teacher:
    """A frozen masked-LM encoder that answers for the rows it is asked about.

    `name` is what the ledger calls it. Not a Module on purpose: as a submodule it would enter every checkpoint.
    """

    def __init__(self, name: str, encoder: Encoder, ask: Callable[[str, Tensor, int], None] | None = None) -> None:
        self.name = name
        self.encoder = encoder.eval().requires_grad_(False)
        self._count = ask

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Teacher:
        """Move to a device, in `dtype` if given (a frozen bf16 copy is faster than autocast)."""
        self.encoder.to(device=device, dtype=dtype)
        return self

    @torch.no_grad()
    def ask(self, batch: Batch, count: bool = True) -> Tensor:
        """Last hidden states (k, L, H) for the rows of `batch`; each real row is one query in the ledger."""
        if count and self._count is not None:
            self._count(self.name, batch.rows[batch.real], batch.epoch)
        return self.encoder.encode(batch.input_ids, batch.attention_mask)

    @torch.no_grad()
    def project(self, vectors: Tensor) -> Tensor:
        """Logits (U, V) of hidden vectors (U, H) of an answer."""
        return self.encoder.project(vectors)
