"""Scores of an encoder over labelled batches, exact over all ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.data.tasks import metrics
from kdlab.errors import UserError
from kdlab.models.encoder import Encoder
from kdlab.runtime import distributed
from kdlab.runtime.progress import track
from kdlab.types import Batch, TaskShape

Project = Callable[[Tensor], Tensor]  # vectors (U, H) -> logits (U, C)
Count = Callable[[Batch, int], None]  # receives each batch, and how many units had logits


def count_nothing(batch: Batch, units: int) -> None:
    """`Count` of an evaluation whose FLOPs are not recorded."""


@contextlib.contextmanager
def inference_mode(encoder: Encoder, trainer: pl.Trainer) -> Iterator[None]:
    """No gradient, no dropout in `encoder`, the trainer's precision."""
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            yield
    finally:
        encoder.train(training)


class UnfiniteAnswers(UserError):
    """Answers of a model that are NaN or infinite, which have no score; `who` names the model, `why` the cause."""

    def __init__(self, who: str = "the model", why: str = "it has diverged; try a smaller learning rate") -> None:
        super().__init__(f"some answers of {who} are NaN or infinite: {why}")


class Scorer(Protocol):
    """Scores an encoder over batches of all ranks; each rank passes its own (collective).

    `names`: of the scores. `device`: where the encoder is (None: the CPU). `count` receives each batch and its number
    of units with logits; `project` replaces the encoder's own (of a teacher that orders its classes otherwise).
    """

    names: tuple[str, ...]

    def __call__(
        self,
        encoder: Encoder,
        batches: Iterable[Batch],
        device: torch.device | None = None,
        count: Count = count_nothing,
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
        count: Count = count_nothing,
        project: Project | None = None,
    ) -> dict[str, float]:
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in track(batches, "evaluating", "batches"):
            batch = batch.to(device or torch.device("cpu"))
            row, token = batch.labelled().nonzero(as_tuple=True)
            row, token = row[batch.real[row]], token[batch.real[row]]
            vectors = encoder.vectors(encoder.encode(batch), row, token)
            labels = batch.labels[row, token]
            count(batch, len(labels))
            for start in range(0, len(labels), self.chunk):
                part = slice(start, start + self.chunk)
                logits = (project or encoder.project)(vectors[part])
                sums[0] += F.cross_entropy(logits.float(), labels[part], reduction="none").sum().double().cpu()
                sums[1] += (logits.argmax(-1) == labels[part]).sum().cpu()
                sums[2] += len(logits)
        loss, correct, positions = distributed.all_sum(sums).tolist()
        if positions == 0:
            raise UserError("nothing to evaluate: no masked position in the held-out text")
        return {"loss": loss / positions, "accuracy": correct / positions}


class TaskScore:
    """Loss, the metrics of the task `shape`, and their mean as `score`, over all real rows with a label.

    `metric`: the one that is the `score` in place of the mean (`data.metric`). The loss is the cross-entropy in nats; in
    regression the mean squared error. `UnfiniteAnswers` for logits that are not
    finite.
    """

    def __init__(self, shape: TaskShape, metric: str | None = None) -> None:
        self.shape = shape
        self.metric = metric or "average"
        self.names = ("loss", *shape.metrics, "score")

    def __call__(
        self,
        encoder: Encoder,
        batches: Iterable[Batch],
        device: torch.device | None = None,
        count: Count = count_nothing,
        project: Project | None = None,
    ) -> dict[str, float]:
        rows, logits, labels = predictions(encoder, batches, device, count, project)
        order = rows.argsort(stable=True)  # sums do not depend on the ranks that held the rows
        logits, labels = logits[order], labels[order]
        if not logits.isfinite().all():
            raise UnfiniteAnswers
        scores = metrics.score(self.shape.metrics, metrics.predicted(logits), labels)  # first: it refuses hidden labels
        if self.shape.regression:
            loss = float(F.mse_loss(logits[:, 0].double(), labels.double()))
        else:
            loss = float(F.cross_entropy(logits.double(), labels))
        return {"loss": loss, **{name: scores[name] for name in self.shape.metrics}, "score": scores[self.metric]}


@torch.no_grad()
def predictions(
    encoder: Encoder,
    batches: Iterable[Batch],
    device: torch.device | None = None,
    count: Count = count_nothing,
    project: Project | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Row ids (N,), float32 logits (N, C) and labels (N,) of all ranks' real rows, on the CPU (collective).

    UserError where no rank has a row.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in track(batches, "evaluating", "batches"):
        batch = batch.to(device or torch.device("cpu"))
        every = torch.arange(len(batch), device=batch.rows.device)
        vectors = encoder.vectors(encoder.encode(batch), every, every)
        count(batch, len(batch))
        logits = (project or encoder.project)(vectors).float()
        parts.append(tuple(x[batch.real].cpu() for x in (batch.rows, logits, batch.labels)))  # pyright: ignore
    columns = [torch.cat(column) for column in zip(*parts, strict=True)] if parts else None
    gathered = [share for share in distributed.gather_objects(columns) if share is not None]
    if not gathered:
        raise UserError("nothing to evaluate: no labelled row")
    return tuple(torch.cat(column) for column in zip(*gathered, strict=True))  # pyright: ignore[reportReturnType]


def over_splits(
    score: Callable[[Iterable[Batch]], dict[str, float]], splits: Mapping[str, Iterable[Batch]]
) -> dict[str, float]:
    """Scores of every held-out split in one dict: of the split "" by plain names, of others followed by `_<split>`.

    `score`, if there is one, is the mean over all splits (MNLI: of matched and mismatched).
    """
    scores: dict[str, float] = {}
    means: list[float] = []
    for split, batches in splits.items():
        values = score(batches)
        means += [values.pop("score")] if "score" in values else []
        scores |= {f"{name}_{split}" if split else name: value for name, value in values.items()}
    return {**scores, "score": sum(means) / len(means)} if means else scores
