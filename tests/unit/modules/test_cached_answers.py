"""The loss on cached answers of a few tokens, and terms that read how far the training is, against equations by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdlab.methods.knowledge import sparse_logits
from kdlab.methods.knowledge.divergences import interpolated_kl
from kdlab.methods.knowledge.logits import soft_cross_entropy
from kdlab.methods.knowledge.weighing import token_temperature
from kdlab.models.encoder import Encoder
from kdlab.modules.distillation_loss import DistillationLoss
from kdlab.modules.objective import WeightedTerm
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.cache.cache import AnswerCache
from kdlab.teachers.cache.codec import CacheSpec
from kdlab.teachers.cache.memory_store import MemoryStore
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch, Plan
from tests.support.causal import decoder
from tests.unit.callbacks.test_positions import rows
from tests.unit.modules.test_unit_weights import logits_of


def loss(term: Any, spec: CacheSpec | None = None) -> DistillationLoss:
    teacher = Teacher("t", Encoder(decoder(2)))
    if spec is not None:
        vocabulary = decoder(2).config.vocab_size
        ledger = Ledger(10, False)
        teacher.cache = AnswerCache(MemoryStore(), spec, vocabulary, "0123456789abcdef", False, ledger, notify=print)
    return DistillationLoss(Encoder(decoder(1)), {"soft": WeightedTerm(term, 1.0)}, [teacher], chunk=4)


def shares(distillation: DistillationLoss, batch: Batch, spec: CacheSpec) -> np.ndarray:
    """The distribution (U, V) that a cache has stored of the teacher's answers, from the stored tokens by numpy."""
    answer = distillation.teachers[0].answer(batch, False).logits
    assert answer is not None
    found = np.zeros((len(answer.units), answer.outputs))
    for row, stored in zip(found, answer.units, strict=True):
        if spec.vocabulary == "sampled":
            np.add.at(row, stored[0].astype(int), 1 / spec.k)
        else:
            values = np.exp((stored[0] - stored[0].max()).astype(float))
            row[stored[1].astype(int)] = values / values.sum()
    return found


@pytest.mark.parametrize("vocabulary", ["topk", "sampled"])
def test_the_loss_reads_the_stored_tokens_alone(vocabulary, monkeypatch):
    """No tensor of the whole vocabulary is made of an answer; the loss is KL(stored distribution || student)."""

    def spread(*given):
        raise AssertionError("an answer was spread over the vocabulary")

    monkeypatch.setattr(sparse_logits, "whole_logits", spread)
    spec, batch = CacheSpec("labelled", vocabulary, 9), rows()
    distillation = loss(soft_cross_entropy, spec)
    total, _ = distillation(batch)
    p = shares(distillation, batch, spec)
    with torch.no_grad():
        log_q = logits_of(distillation.student, batch).log_softmax(-1).numpy()
    each = np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - log_q), 0).sum(1)
    assert float(total.detach()) == pytest.approx(each.mean(), rel=1e-5)
    total.backward()
    assert all(one.grad is not None for one in distillation.student.head_parameters())


def test_a_term_without_the_mark_and_a_weighing_rule_get_the_whole_vocabulary():
    spec, batch = CacheSpec("labelled", "sampled", 9), rows()
    widths = []

    def own_term(student, teacher, temperature=1.0):
        widths.append(teacher.logits.shape[-1])
        return soft_cross_entropy(student, teacher, temperature)

    own_term.marks = type(soft_cross_entropy.marks)(frozenset({"logits"}))  # pyright: ignore
    spread, _ = loss(own_term, spec)(batch)
    kept, _ = loss(soft_cross_entropy, spec)(batch)
    assert set(widths) == {decoder(1).config.vocab_size}
    assert float(spread.detach()) == pytest.approx(float(kept.detach()), rel=1e-5)
    weighed, _ = loss(soft_cross_entropy, spec)(batch, Plan(weigh=token_temperature))
    other, _ = loss(own_term, spec)(batch, Plan(weigh=token_temperature))
    assert float(weighed.detach()) == pytest.approx(float(other.detach()), rel=1e-5)


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.999])
def test_a_term_reads_how_far_the_training_is(progress):
    """TAID's target at that share of the steps: softmax of (1 - t) s + t times the teacher's logits, t from 0.2 to 0.8."""
    batch, distillation = rows(), loss(partial(interpolated_kl, start=0.2, end=0.8))
    with torch.no_grad():
        s, told = (logits_of(m, batch) for m in (distillation.student, distillation.teachers[0].encoder))
        t = 0.2 + 0.6 * progress
        each = F.kl_div(s.log_softmax(-1), ((1 - t) * s + t * told).softmax(-1), reduction="none").sum(-1)
    total, _ = distillation(batch, progress=progress)
    assert float(total.detach()) == pytest.approx(float(each.mean()), rel=1e-4)
