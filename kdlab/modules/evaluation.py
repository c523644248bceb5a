"""How good a model is: scores of an encoder over labelled batches, exact over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.data.tasks import metrics
from kdlab.errors import UserError
from kdlab.models.encoder import Encoder
from kdlab.runtime import distributed
from kdlab.runtime.progress import track
from kdlab.types import Batch, TaskShape

Project = Callable[[Tensor], Tensor]


def nothing(batch: Batch, units: int) -> None:
    """What is told of each batch where nobody counts."""


class Scorer(Protocol):
    """Scores an encoder. Each rank passes its own batches; `spent` is told each batch and how many units had logits;
    `project` stands in for the encoder's own (a teacher that orders its classes otherwise)."""

    names: tuple[str, ...]

    def __call__(
        self,
        encoder: Encoder,
        batches: Iterable[Batch],
        device: torch.device | None = None,
        spent: Callable[[Batch, int], None] = nothing,
        project: Project | None = None,
    ) -> dict[str, float]: ...


class MaskedLMScore:
    """Masked-LM loss (nats) and accuracy over all masked positions of all real rows, `chunk` positions at a time.

    UserError where no position is masked.
    """

    names = ("loss", "accuracy")

    def __init__(self, chunk: int = 256) -> None:
        self.chunk = chunk

    @torch.no_grad()
    def __call__(
        self,
        encoder: Encoder,
        batches: Iterable[Batch],
        device: torch.device | None = None,
        spent: Callable[[Batch, int], None] = nothing,
        project: Project | None = None,
    ) -> dict[str, float]:
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in track(batches, "evaluating", "batches"):
            batch = batch.to(device or torch.device("cpu"))
            row, place = batch.labelled().nonzero(as_tuple=True)
            row, place = row[batch.real[row]], place[batch.real[row]]
            vectors = encoder.vectors(encoder.encode(batch), row, place)
            labels = batch.labels[row, place]
            spent(batch, len(labels))
            for start in range(0, len(labels), self.chunk):
                some = slice(start, start + self.chunk)
                logits = (project or encoder.project)(vectors[some])
                sums[0] += F.cross_entropy(logits.float(), labels[some], reduction="none").sum().double().cpu()
                sums[1] += (logits.argmax(-1) == labels[some]).sum().cpu()
                sums[2] += len(logits)
        loss, right, count = distributed.all_sum(sums).tolist()
        if count == 0:
            raise UserError("nothing to evaluate: no masked position in the held-out text")
        return {"loss": loss / count, "accuracy": right / count}


class TaskScore:
    """Loss, the task's metrics, and their mean as `score`, over all real rows with a label.

    The loss is the cross-entropy in nats, or the mean squared error in regression.
    """

    def __init__(self, shape: TaskShape) -> None:
        self.shape = shape
        self.names = ("loss", *shape.metrics, "score")

    def __call__(
        self,
        encoder: Encoder,
        batches: Iterable[Batch],
        device: torch.device | None = None,
        spent: Callable[[Batch, int], None] = nothing,
        project: Project | None = None,
    ) -> dict[str, float]:
        rows, logits, labels = answers(encoder, batches, device, spent, project)
        order = rows.argsort(stable=True)  # sums do not depend on who held which rows
        logits, labels = logits[order], labels[order]
        if not logits.isfinite().all():
            raise UserError("some answers are NaN or infinite: the model has diverged; try a smaller learning rate")
        found = metrics.score(self.shape.metrics, metrics.predicted(logits), labels)  # first: it refuses hidden labels
        if self.shape.regression:
            loss = float(F.mse_loss(logits[:, 0].double(), labels.double()))
        else:
            loss = float(F.cross_entropy(logits.double(), labels))
        return {"loss": loss, **{name: found[name] for name in self.shape.metrics}, "score": found["average"]}


@torch.no_grad()
def answers(
    encoder: Encoder,
    batches: Iterable[Batch],
    device: torch.device | None = None,
    spent: Callable[[Batch, int], None] = nothing,
    project: Project | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Row ids (N,), float32 logits (N, C) and labels (N,) of all ranks' real rows, on the CPU."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in track(batches, "evaluating", "batches"):
        batch = batch.to(device or torch.device("cpu"))
        every = torch.arange(len(batch), device=batch.rows.device)
        vectors = encoder.vectors(encoder.encode(batch), every, every)
        spent(batch, len(batch))
        logits = (project or encoder.project)(vectors).float()
        parts.append(tuple(x[batch.real].cpu() for x in (batch.rows, logits, batch.labels)))  # pyright: ignore
    columns = [torch.cat(column) for column in zip(*parts, strict=True)] if parts else None
    gathered = [found for found in distributed.gather_objects(columns) if found is not None]
    if not gathered:
        raise UserError("nothing to evaluate: no labelled row")
    return tuple(torch.cat(column) for column in zip(*gathered, strict=True))  # pyright: ignore[reportReturnType]


def over_splits(
    score: Callable[[Iterable[Batch]], dict[str, float]], splits: Mapping[str, Iterable[Batch]]
) -> dict[str, float]:
    """The scores of every held-out split in one dict: the first split's names plain, those of others followed by
    `_<split>`; `score`, where there is one, is the mean of all splits (MNLI: of matched and mismatched)."""
    found: dict[str, float] = {}
    whole: list[float] = []
    for split, batches in splits.items():
        one = score(batches)
        whole += [one.pop("score")] if "score" in one else []
        found |= {f"{name}_{split}" if split else name: value for name, value in one.items()}
    return {**found, "score": sum(whole) / len(whole)} if whole else found
