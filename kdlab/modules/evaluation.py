"""Scores of an encoder over labelled batches, exact over all ranks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.data.tasks import metric_names, metrics
from kdlab.errors import UserError
from kdlab.models.encoder import Encoder
from kdlab.models.head import Head
from kdlab.runtime import distributed
from kdlab.runtime.progress import track
from kdlab.types import Batch, TaskShape

Project = Callable[[Tensor], Tensor]  # vectors (U, H) -> logits (U, C)
JOINED = 256  # batches whose answers become one tensor
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


@dataclass
class Answers:
    """The answers of a model to the rows of a split, in the order of `rows` (N,) int64, their indices in the split:
    `logits` (N, C) float32, and `labels` (N,). On the CPU."""

    rows: Tensor
    logits: Tensor
    labels: Tensor


class Scorer(Protocol):
    """Scores an encoder over batches of all ranks; each rank passes its own (collective).

    `names`: of the scores. `device`: where the encoder is (None: the CPU). `count` receives each batch and its number
    of units with logits; `project` replaces the encoder's own (of a teacher that orders its classes otherwise).
    `answers`: those that were scored last; None where a row has more than one answer.
    """

    names: tuple[str, ...]
    answers: Answers | None

    def __call__(
        self,
        encoder: Encoder,
        batches: Iterable[Batch],
        device: torch.device | None = None,
        count: Count = count_nothing,
        project: Project | None = None,
    ) -> dict[str, float]: ...


def predicted_units(batch: Batch) -> tuple[Tensor, Tensor]:
    """Row and token (U,) int64 of each position with a label, of the real rows."""
    row, token = (batch.labelled() & batch.real.unsqueeze(1)).nonzero(as_tuple=True)
    return row, token


class MaskedLMScore:
    """Masked-LM loss (nats) and accuracy over all masked positions of all real rows, `chunk` positions at a time.

    UserError where no position is masked.
    """

    names = ("loss", "accuracy")
    answers = None

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
            row, token = predicted_units(batch)
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
            raise UserError(f"nothing to evaluate: no {encoder.head.unit} in the held-out text")
        return {"loss": loss / positions, "accuracy": correct / positions}


class CausalLMScore(MaskedLMScore):
    """Next-token loss (nats), its exponential, the perplexity, and accuracy over all predicted tokens of all real rows."""

    names = ("loss", "perplexity", "accuracy")

    def __call__(
        self,
        encoder: Encoder,
        batches: Iterable[Batch],
        device: torch.device | None = None,
        count: Count = count_nothing,
        project: Project | None = None,
    ) -> dict[str, float]:
        scores = super().__call__(encoder, batches, device, count, project)
        perplexity = math.exp(min(scores["loss"], 700.0))  # a float ends at exp(709)
        return {"loss": scores["loss"], "perplexity": perplexity, "accuracy": scores["accuracy"]}


def text_score(head: Head, chunk: int = 256) -> MaskedLMScore:
    """The evaluation of a model of text by its head, `chunk` positions at a time."""
    return CausalLMScore(chunk) if head.causal else MaskedLMScore(chunk)


@torch.no_grad()
def token_agreement(
    student: Encoder,
    teacher: Encoder,
    project: Project,
    batches: Iterable[Batch],
    device: torch.device | None = None,
    chunk: int = 256,
) -> float:
    """Share of the predicted tokens of all ranks' real rows at which student and teacher have the same most likely token
    (collective); `project` gives the teacher's logits. `chunk` positions have logits at a time."""
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in track(batches, "comparing with the teacher", "batches"):
        batch = batch.to(device or torch.device("cpu"))
        row, token = predicted_units(batch)
        own, theirs = (one.vectors(one.encode(batch), row, token) for one in (student, teacher))
        for start in range(0, len(row), chunk):
            part = slice(start, start + chunk)
            same = student.project(own[part]).argmax(-1) == project(theirs[part]).argmax(-1)
            sums += torch.stack([same.sum(), torch.tensor(len(same), device=same.device)]).double().cpu()
    agreed, positions = distributed.all_sum(sums).tolist()
    return agreed / max(positions, 1.0)


class TaskScore:
    """Loss, the metrics of the task `shape`, and their mean as `score`, over all real rows with a label.

    `metric`: the one that is the `score` in place of the mean (`data.metric`), one of the task's or any other of the
    same kind. The loss is the cross-entropy in nats; in regression the mean squared error. `UnfiniteAnswers` for logits
    that are not finite.
    """

    def __init__(self, shape: TaskShape, metric: str | None = None) -> None:
        self.shape = shape
        self.metric = metric
        self.metrics = metric_names.named(shape.metrics, metric)
        self.names = ("loss", *self.metrics, "score")
        self.answers: Answers | None = None

    def __call__(
        self,
        encoder: Encoder,
        batches: Iterable[Batch],
        device: torch.device | None = None,
        count: Count = count_nothing,
        project: Project | None = None,
    ) -> dict[str, float]:
        self.answers = in_order(encoder, batches, device, count, project)
        return self.of(self.answers)

    def of(self, answers: Answers) -> dict[str, float]:
        """The scores of a model's answers."""
        logits, labels = answers.logits, answers.labels
        if not logits.isfinite().all():
            raise UnfiniteAnswers
        scores = metrics.score(self.metrics, metrics.predicted(logits), labels)  # first: it refuses hidden labels
        if self.shape.regression:
            loss = float(F.mse_loss(logits[:, 0].double(), labels.double()))
        else:
            loss = float(F.cross_entropy(logits.double(), labels))
        mean = sum(scores[name] for name in self.shape.metrics) / len(self.shape.metrics)
        return {
            "loss": loss,
            **{name: scores[name] for name in self.metrics},
            "score": mean if self.metric is None else scores[self.metric],
        }


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
    done: list[tuple[Tensor, ...]] = []  # joined now and then: a tensor of a few rows takes a hundred times their bytes
    parts: list[tuple[Tensor, ...]] = []
    for batch in track(batches, "evaluating", "batches"):
        batch = batch.to(device or torch.device("cpu"))
        every = torch.arange(len(batch), device=batch.rows.device)
        vectors = encoder.vectors(encoder.encode(batch), every, every)
        count(batch, len(batch))
        logits = (project or encoder.project)(vectors).float()
        parts.append(tuple(x[batch.real].cpu() for x in (batch.rows, logits, batch.labels)))
        if len(parts) == JOINED:
            done.append(_joined(parts))
            parts.clear()
    columns = _joined([*done, *parts]) if done or parts else None
    gathered = [share for share in distributed.gather_objects(columns) if share is not None]
    if not gathered:
        raise UserError("nothing to evaluate: no labelled row")
    return _joined(gathered)  # pyright: ignore[reportReturnType]


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def in_order(
    encoder: Encoder,
    batches: Iterable[Batch],
    device: torch.device | None = None,
    count: Count = count_nothing,
    project: Project | None = None,
) -> Answers:
    """`predictions` in the order of the rows, so that sums over them do not depend on the ranks that held them."""
    rows, logits, labels = predictions(encoder, batches, device, count, project)
    order = rows.argsort(stable=True)
    return Answers(rows[order], logits[order], labels[order])


def over_splits(score: Callable[[Any], dict[str, float]], splits: Mapping[str, Any]) -> dict[str, float]:
    """Scores of every held-out split in one dict: of the split "" by plain names, of others followed by `_<split>`.

    `score`, if there is one, is the mean over all splits (MNLI: of matched and mismatched). `splits`: what `score` takes,
    batches or answers, by split.
    """
    scores: dict[str, float] = {}
    means: list[float] = []
    for split, batches in splits.items():
        values = score(batches)
        means += [values.pop("score")] if "score" in values else []
        scores |= {f"{name}_{split}" if split else name: value for name, value in values.items()}
    return {**scores, "score": sum(means) / len(means)} if means else scores


def with_answers(
    score: Callable[[Iterable[Batch]], dict[str, float]],
    scorer: Callable[[], Answers | None],
    splits: Mapping[str, Iterable[Batch]],
) -> tuple[dict[str, float], dict[str, Answers]]:
    """The scores of `over_splits`, and the answers by split, where a row has one; `scorer` gives those scored last."""
    found: dict[str, Answers] = {}
    names = iter(splits)

    def one(batches: Iterable[Batch]) -> dict[str, float]:
        values, name = score(batches), next(names)
        if (answers := scorer()) is not None:
            found[name] = answers
        return values

    return over_splits(one, splits), found
