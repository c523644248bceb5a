"""Models and rows of the GPU benchmark: BERT-base and SmolLM2-135M by shape, with random weights; rows of known lengths."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from benchmarks.causal_step import Shape, following, generalised_jsd
from benchmarks.measuring import batches, lengths_of
from benchmarks.steps import Loss, Sizes, label_and_soft
from kdlab.modules.objective import WeightedTerm
from kdlab.types import IGNORE, Batch

LONGEST = "512"
PROFILES = {"SST-2": 128, "MNLI": 128, LONGEST: 512}  # profile of lengths -> longest row in tokens
BATCHES = 8  # that turns go through (tiny: 2)
MASKED = 0.15  # share of the tokens that a masked-LM predicts


@dataclass(frozen=True)
class Subject:
    """A student and a teacher. `labels`: what their rows are labelled with, "class", "masked" or "next"; `loss`: that of a
    plain loop; `rows`: of a batch, by profile."""

    name: str
    models: Sizes | Shape
    labels: str
    loss: Loss
    rows: Mapping[str, int]


def at_masked(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """`label_and_soft` at the positions with a label; logits (B, L, V), labels (B, L)."""
    mask = labels != IGNORE
    return label_and_soft(student[mask], teacher[mask], labels[mask])


def subjects(device: str, tiny: bool, dropout: float, attention_dropout: float, scale: float) -> list[Subject]:
    """The models on a `device`; `scale`: factor on the rows of a batch."""
    if tiny:
        bert = Sizes(32, 1, 2, 60, (), dropout, device, 16, attention_dropout=attention_dropout)
        decoder = Shape(48, 1, 2, 60, device, "bf16-mixed")
    else:
        bert = Sizes(768, 6, 12, 30522, (), dropout, device, 64, attention_dropout=attention_dropout)
        decoder = Shape(576, 10, 30, 49152, device, "bf16-mixed")
    masked = replace(bert, masked_lm=True)

    def rows(short: int, long: int) -> dict[str, int]:
        sizes = dict.fromkeys(PROFILES, 20) if tiny else {"SST-2": short, "MNLI": short, LONGEST: long}
        return {profile: max(10, round(size * scale)) for profile, size in sizes.items()}

    return [
        Subject("BERT-base, classifier", bert, "class", label_and_soft, rows(256, 64)),
        Subject("SmolLM2-135M, causal", decoder, "next", generalised_jsd, rows(128, 32)),
        Subject("BERT-base, masked-LM", masked, "masked", at_masked, rows(256, 64)),
    ]


def labelled(b: Batch, labels: str, seed: int) -> Batch:
    """A batch of rows with two classes with the `labels` of a `Subject`; of masked text one label a row at least."""
    if labels == "class":
        return b
    real = b.attention_mask.bool()
    if labels == "next":
        return replace(b, labels=following(b.input_ids, real))
    chosen = (torch.rand(real.shape, generator=torch.Generator().manual_seed(seed)) < MASKED) & real
    chosen[:, 1] = True  # every row has three tokens or more
    return replace(b, labels=b.input_ids.masked_fill(~chosen, IGNORE))


def rows_of(subject: Subject, profile: str, rows: int, tiny: bool, data: Path | None) -> list[Batch]:
    """Batches of `rows` rows on the subject's device, the largest first."""
    limit = 24 if tiny else PROFILES[profile]
    lengths = np.array([limit]) if profile == LONGEST else lengths_of(data, limit, profile)
    unlabelled = batches(lengths, rows, 2 if tiny else BATCHES, subject.models.vocab)
    made = [labelled(b, subject.labels, n) for n, b in enumerate(unlabelled)]
    made.sort(key=lambda b: -b.input_ids.numel())
    return [b.to(torch.device(subject.models.device)) for b in made]


@functools.lru_cache(maxsize=3)
def originals(models: Sizes | Shape) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedModel]:
    """Student and teacher on the CPU, made once: drawing 200 million weights takes seconds."""
    return replace(models, device="cpu").built()


@dataclass(frozen=True)
class Copies:
    """Copies of `originals` on the device of `models`; `attention`: the name that transformers has for another kernel."""

    models: Sizes | Shape
    attention: str | None = None

    @property
    def device(self) -> str:
        return self.models.device

    @property
    def precision(self) -> str:
        return self.models.precision

    def built(self) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedModel]:
        device = torch.device(self.device)
        student, teacher = (copy.deepcopy(model).to(device) for model in originals(self.models))  # pyright: ignore
        if self.attention is not None:
            student.set_attn_implementation(self.attention)
            teacher.set_attn_implementation(self.attention)
        return student, teacher

    def autocast(self) -> AbstractContextManager[Any]:
        return self.models.autocast()

    def knowledge(self) -> dict[str, WeightedTerm]:
        return self.models.knowledge()
