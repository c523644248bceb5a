"""Size and speed of a model: parameters, bytes of its saved weights, milliseconds per text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn

from kdlab.models.encoder import Encoder
from kdlab.types import Batch

LEAST, MOST = 3, 16  # timed forwards


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Numbers of parameters: of all, and of those outside of `nn.Embedding`s. Tied ones count once, sharded ones whole."""
    embedded = {p for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    counts = {p: p.numel() for p in model.parameters()}
    return sum(counts.values()), sum(count for p, count in counts.items() if p not in embedded)


def saved_bytes(place: str | Path, revision: str | None = None) -> int | None:
    """Bytes of the weights in a model folder, or in the Hub's local cache under a Hub name; None if there are none."""
    files = [file for file in Path(place).glob("*") if file.suffix == ".safetensors"]
    if not files:
        files = [file for file in Path(place).glob("*.bin") if file.name.startswith("pytorch_model")]
    if not files and not Path(place).is_dir():
        cached = try_to_load_from_cache(str(place), "model.safetensors", revision=revision)
        files = [Path(cached)] if isinstance(cached, str) else []
    return sum(file.stat().st_size for file in files) if files else None


@torch.no_grad()
def milliseconds_per_text(encoder: Encoder, batches: Sequence[Batch], seconds: float) -> float:
    """Median milliseconds per text of forwards, with their logits, over `batches` of equal size in turn.

    A forward before warms up and is not timed. Then `MOST` are, or fewer that last about `seconds` together: `LEAST`, or
    one where the first took `seconds`. The caller chooses the mode of `encoder` and its precision.
    """
    device = next(encoder.parameters()).device
    moved = [batch.to(device) for batch in batches]
    least = 1 if _timed(encoder, moved[0], device) > seconds else LEAST
    times: list[float] = []
    while len(times) < least or (len(times) < MOST and sum(times) < seconds):
        times.append(_timed(encoder, moved[len(times) % len(moved)], device))
    return 1000 * median(times) / len(moved[0])


def _timed(encoder: Encoder, batch: Batch, device: torch.device) -> float:
    """Seconds of one forward with its logits, the device's work included."""
    _synchronise(device)
    began = perf_counter()
    if encoder.per_row:
        row = place = torch.arange(len(batch), device=device)
    else:
        row, place = batch.labelled().nonzero(as_tuple=True)
    encoder.project(encoder.vectors(encoder.encode(batch), row, place))
    _synchronise(device)
    return perf_counter() - began


def _synchronise(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
