"""A fixed pool of rows: the student's outputs for them, and the rows that each strategy would select.

The analyses and the selection trace use the same rows throughout, in batches of the run's size: a strategy gets of the
pool the evidence that it would get in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdlab.errors import UserError, nearest
from kdlab.methods.marks import DECLARED_FIELDS, marks_of
from kdlab.methods.selection import strategies
from kdlab.methods.selection.strategies import Strategy
from kdlab.methods.selection.top_k import selection_size, top_k
from kdlab.models.encoder import Encoder
from kdlab.runtime.progress import track
from kdlab.runtime.seeding import generator
from kdlab.types import Batch, Evidence

ALL = "all"  # in the place of a strategy: no selection

# the default strategies of analyses and traces: AdaDS section 4.1, in the order of its tables
ADADS_STRATEGIES = ("random", "entropy", "margin", "least_confidence", "certainty", "cluster", "density")


@dataclass(frozen=True)
class RowPool:
    """The student's outputs for N rows, on the CPU, as strategies get them.

    `rows` (N,) ids, `labels` (N,), `logits` (N, C) and last-layer `features` (N, H) in float32; `sizes` of the batches in
    which the rows came. Of masked text, one batch at a time: `labels` (N, P), `logits` (N, P, V), and `mask` (N, P) of the
    positions that exist.
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
def row_pool(encoder: Encoder, batches: Iterable[Batch], device: torch.device | None = None) -> RowPool:
    """The pool of the real rows of `batches`; the encoder must be on `device` (None: the CPU) and in eval mode.

    UserError without a row.
    """
    parts: list[list[Tensor]] = []
    for batch in track(batches, "looking at rows", "batches"):
        batch = batch.to(device or torch.device("cpu"))
        every = torch.arange(len(batch), device=batch.rows.device)
        vectors = encoder.vectors(encoder.encode(batch), every, every)
        columns = (batch.rows, batch.labels, encoder.project(vectors).float(), vectors.float())
        parts.append([x[batch.real].cpu() for x in columns])
    if not parts:
        raise UserError("no labelled row to look at")
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return RowPool(*columns, sizes=tuple(len(part[0]) for part in parts))


@torch.no_grad()
def text_pool(encoder: Encoder, batch: Batch) -> RowPool:
    """The pool of one batch of masked text; the encoder must be on the batch's device and in eval mode."""
    outputs, masked = encoder.encode(batch, frozenset({"hidden"})), batch.labelled()
    counts = masked.sum(1)
    order = masked.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : max(1, int(counts.max()))]
    exists = torch.arange(order.shape[1], device=order.device) < counts[:, None]
    row = torch.arange(len(batch), device=order.device)[:, None].expand_as(order)
    vectors = encoder.vectors(outputs, row.flatten(), order.flatten())
    logits = encoder.project(vectors).float().unflatten(0, order.shape)
    values = (batch.rows, batch.labels.gather(1, order), logits, encoder.features(outputs).float(), exists)
    *columns, mask = (x[batch.real].cpu() for x in values)
    return RowPool(*columns, sizes=(len(mask),), mask=mask)


def join_pools(pools: Sequence[RowPool]) -> RowPool:
    """One pool from the shares of several ranks."""
    columns = [torch.cat([getattr(p, name) for p in pools]) for name in ("rows", "labels", "logits", "features")]
    return RowPool(*columns, sizes=tuple(size for p in pools for size in p.sizes))


def selection_mask(pool: RowPool, strategy: Strategy, ratio: float, *key: int | str, progress: float = 1.0) -> Tensor:
    """Mask (N,) bool of the rows that a strategy keeps at `ratio`, batch by batch. `key` names its random draws."""
    mask = torch.zeros(len(pool), dtype=torch.bool)
    start = 0
    for size in pool.sizes:
        part = slice(start, start + size)
        evidence = Evidence(
            rows=pool.rows[part],
            logits=pool.logits[part],
            features=pool.features[part],
            labels=pool.labels[part],
            mask=None if pool.mask is None else pool.mask[part],
            keep=selection_size(size, ratio),
            progress=progress,
            rng=generator(*key, "pool", int(pool.rows[start])),  # by row: the same on any number of ranks
        )
        mask[start + top_k(strategy(evidence.only(marks_of(strategy).needs)), ratio)] = True
        start += size
    return mask


def selection_rows(
    pool: RowPool, rules: Mapping[str, Strategy], ratio: float, step: int, progress: float, seed: int
) -> list[dict[str, Any]]:
    """Rows of selected.csv for one step: for each strategy, and for `ALL`, the ids of the rows it keeps and their mean
    distance to their class's centre."""
    distance = centre_distances(pool.features, pool.labels)
    masks = {
        name: selection_mask(pool, rule, ratio, seed, "trace", step, name, progress=progress)
        for name, rule in rules.items()
    }
    return [
        {
            "step": step,
            "strategy": name,
            "distance": float(distance[mask].mean()),
            "rows": " ".join(str(row) for row in sorted(pool.rows[mask].tolist())),
        }
        for name, mask in {**masks, ALL: pool.rows >= 0}.items()
    ]


def public_strategies() -> dict[str, Strategy]:
    """The strategies of `kdlab.methods.selection.strategies` by name that a pool has the evidence of."""
    return {name: value for name, value in vars(strategies).items() if hasattr(value, "marks") and is_shown(value)}


def is_shown(strategy: Strategy) -> bool:
    """True if a pool has what a strategy reads: no votes, no teacher's answers, no rows that are visited again."""
    return not marks_of(strategy).needs & DECLARED_FIELDS


def named_strategies(
    names: Sequence[str] | None, arms: Mapping[str, Strategy], regression: bool, default: Sequence[str] | None = None
) -> dict[str, Strategy]:
    """Strategies by name: the package's and a run's own `arms`.

    `names` None: `default`, or else `ADADS_STRATEGIES` and all arms that read no more than a pool has. In regression
    strategies that need logits are left out. UserError for a name that does not exist, or that is left out.
    """
    known = {**public_strategies(), **arms}
    shown = [arm for arm, strategy in arms.items() if arm not in ADADS_STRATEGIES and is_shown(strategy)]
    required = names or default or [*ADADS_STRATEGIES, *shown]
    for name in required:
        if name not in known:
            raise UserError(f"no strategy is called {name}: {nearest(name, known)}")
        if not is_shown(known[name]):
            lacks = ", ".join(sorted(marks_of(known[name]).needs & DECLARED_FIELDS))
            raise UserError(f"{name} reads {lacks}, which only a training has: leave it out here")
        if names and regression and "logits" in marks_of(known[name]).needs:
            raise UserError(f"{name} reads the probabilities of classes, and this task is regression, which has none")
    return {name: known[name] for name in required if not (regression and "logits" in marks_of(known[name]).needs)}


def centre_distances(features: Tensor, labels: Tensor) -> Tensor:
    """Euclidean distance (N,) of each row's features (N, H) to the mean of all rows of its class, float64.

    Dynamic KD, Fig. 4 (right), "distance to the corresponding category center". The paper names neither the space nor the
    distance: here it is the student's space, whose features selection reads.
    """
    features = features.double()
    member = torch.nn.functional.one_hot(labels.long().unique(return_inverse=True)[1]).double()
    centres = (member.T @ features) / member.sum(0)[:, None]
    return (features - member @ centres).norm(dim=1)
