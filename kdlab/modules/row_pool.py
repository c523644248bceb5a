"""A fixed pool of rows: what a student shows of them, and which of them each strategy would keep.

The analyses look at students through it, always at the same rows, in batches of the run's size: a strategy sees of the
pool what it would see in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdlab.errors import UserError, nearest
from kdlab.methods.marks import marks_of
from kdlab.methods.selection import strategies
from kdlab.methods.selection.strategies import Strategy
from kdlab.methods.selection.top_k import selection_size, top_k
from kdlab.models.encoder import Encoder
from kdlab.runtime.progress import track
from kdlab.runtime.seeding import generator
from kdlab.types import Batch, Evidence

# AdaDS section 4.1, in the order of its tables
STRATEGIES: dict[str, Strategy] = {
    name: getattr(strategies, name)
    for name in ("random", "entropy", "margin", "least_confidence", "certainty", "cluster", "density")
}


@dataclass(frozen=True)
class RowPool:
    """What a student shows of N rows, on the CPU: ids `rows` (N,), `labels` (N,), float32 `logits` (N, C) and
    last-layer `features` (N, H), the ones that strategies see; `sizes` of the batches the rows came in.

    Of masked text, one batch at a time: `labels` (N, P), `logits` (N, P, V), and `mask` (N, P) of what exists of them.
    """

    rows: Tensor
    labels: Tensor
    logits: Tensor
    features: Tensor
    sizes: tuple[int, ...]
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)


@torch.no_grad()
def look(encoder: Encoder, batches: Iterable[Batch], device: torch.device | None = None) -> RowPool:
    """The pool of the real rows of `batches`; the encoder is on `device` (None: the CPU) and in eval mode already."""
    parts: list[list[Tensor]] = []
    for batch in track(batches, "looking at rows", "batches"):
        batch = batch.to(device or torch.device("cpu"))
        every = torch.arange(len(batch), device=batch.rows.device)
        vectors = encoder.vectors(encoder.encode(batch), every, every)
        found = (batch.rows, batch.labels, encoder.project(vectors).float(), vectors.float())
        parts.append([x[batch.real].cpu() for x in found])
    if not parts:
        raise UserError("no labelled row to look at")
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return RowPool(*columns, sizes=tuple(len(part[0]) for part in parts))


@torch.no_grad()
def look_at_text(encoder: Encoder, batch: Batch) -> RowPool:
    """The pool of one batch of masked text; the encoder is where the batch is, and in eval mode already."""
    shown, masked = encoder.encode(batch, frozenset({"hidden"})), batch.labelled()
    counts = masked.sum(1)
    order = masked.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : max(1, int(counts.max()))]
    exists = torch.arange(order.shape[1], device=order.device) < counts[:, None]
    row = torch.arange(len(batch), device=order.device)[:, None].expand_as(order)
    logits = encoder.project(encoder.vectors(shown, row.flatten(), order.flatten())).float().unflatten(0, order.shape)
    found = (batch.rows, batch.labels.gather(1, order), logits, encoder.features(shown).float(), exists)
    *columns, mask = (x[batch.real].cpu() for x in found)
    return RowPool(*columns, sizes=(len(mask),), mask=mask)


def joined(pools: Sequence[RowPool]) -> RowPool:
    """One pool of several ranks' shares of it."""
    columns = [torch.cat([getattr(p, name) for p in pools]) for name in ("rows", "labels", "logits", "features")]
    return RowPool(*columns, sizes=tuple(size for p in pools for size in p.sizes))


def keeps(pool: RowPool, strategy: Strategy, ratio: float, *key: int | str, progress: float = 1.0) -> Tensor:
    """Which rows (N,) bool a strategy keeps at `ratio`, batch by batch. `key` decides what it draws at random."""
    found = torch.zeros(len(pool), dtype=torch.bool)
    start = 0
    for size in pool.sizes:
        some = slice(start, start + size)
        evidence = Evidence(
            rows=pool.rows[some],
            logits=pool.logits[some],
            features=pool.features[some],
            labels=pool.labels[some],
            mask=None if pool.mask is None else pool.mask[some],
            keep=selection_size(size, ratio),
            progress=progress,
            rng=generator(*key, "pool", int(pool.rows[start])),  # by row: the same on any number of ranks
        )
        found[start + top_k(strategy(evidence.only(marks_of(strategy).needs)), ratio)] = True
        start += size
    return found


def chosen(
    names: Sequence[str] | None, arms: Mapping[str, Strategy], regression: bool, default: Sequence[str] | None = None
) -> dict[str, Strategy]:
    """Strategies by name: the package's and a run's own `arms`.

    None: `default`, or all of them. In regression those that need uncertainty are left out, and UserError where they
    are asked for, as for a name that does not exist.
    """
    known = {**STRATEGIES, "scaled_entropy": strategies.scaled_entropy, **arms}
    wanted = names or default or [*STRATEGIES, *(arm for arm in arms if arm not in STRATEGIES)]
    for name in wanted:
        if name not in known:
            raise UserError(f"no strategy is called {name}: {nearest(name, known)}")
        if names and regression and "logits" in marks_of(known[name]).needs:
            raise UserError(f"{name} needs the student's uncertainty, and this task is regression, which has none")
    return {name: known[name] for name in wanted if not (regression and "logits" in marks_of(known[name]).needs)}


def centre_distances(features: Tensor, labels: Tensor) -> Tensor:
    """Euclidean distance (N,) of each row's features (N, H) to the mean of all rows of its class, float64.

    Dynamic KD, Fig. 4 (right), "distance to the corresponding category center". The paper says neither in which space
    nor by which distance: here it is the student's, in which selection itself looks at the rows.
    """
    features = features.double()
    member = torch.nn.functional.one_hot(labels.long().unique(return_inverse=True)[1]).double()
    centres = (member.T @ features) / member.sum(0)[:, None]
    return (features - member @ centres).norm(dim=1)
