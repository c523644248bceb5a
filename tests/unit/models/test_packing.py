"""Padding-free execution equals padded execution and runs fewer tokens."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from kdlab.methods.knowledge import logits
from kdlab.methods.knowledge.attention import attention_mse, value_relation
from kdlab.methods.knowledge.hidden_states import cosine, patient
from kdlab.models import packing
from kdlab.models.attention import capture
from kdlab.models.encoder import Encoder
from kdlab.models.student import student_from
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch
from tests.conftest import tiny_config
from tests.unit.modules.test_student_tasks import CLASSES, STUDENT, TEACHER, batch, classifier

LENGTHS = [12, 3, 30, 7, 7, 5, 22, 1, 16]
ALL = frozenset({"states", "scores", "values"})
LARGE = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, vocab_size=120, max_position_embeddings=64)  # fmt: skip


def model(family: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    if family == "deberta-v2":
        config = transformers.DebertaV2Config(**LARGE, relative_attention=True, pos_att_type=["p2c", "c2p"])
    elif family == "modernbert":
        config = transformers.ModernBertConfig(
            **LARGE, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, local_attention=8
        )
    else:
        config = tiny_config(family)
    return transformers.AutoModelForMaskedLM.from_config(config).eval()


def texts(lengths: list[int] = LENGTHS, segments: bool = False) -> Batch:
    rng = torch.Generator().manual_seed(1)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    ids = torch.randint(6, 100, mask.shape, generator=rng) * mask + (1 - mask)
    every = torch.arange(len(lengths))
    types = mask * (torch.arange(max(lengths)) > 4) if segments else None
    return Batch(every, 0, ids, mask, torch.zeros(len(lengths), dtype=torch.long), every >= 0, token_types=types)


@pytest.mark.parametrize("execution", ["packed", "bucketed"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert"])
def test_hidden_states_of_every_layer_equal_those_of_padded_execution(family, execution):
    b, one = texts(segments=True), model(family)
    encoder = Encoder(one, execution)
    assert encoder.execution == ("bucketed" if family in ("deberta-v2", "modernbert") else execution)
    with torch.no_grad():
        mine, theirs = encoder.encode(b, frozenset({"states"})), Encoder(one).encode(b, frozenset({"states"}))
    assert len(mine.states) == one.config.num_hidden_layers + 1  # pyright: ignore
    real = b.attention_mask.unsqueeze(-1)
    for a, c in zip((mine.hidden, *mine.states), (theirs.hidden, *theirs.states), strict=True):  # pyright: ignore
        torch.testing.assert_close(a * real, c * real, rtol=1e-5, atol=2e-6)
        assert encoder.execution == "bucketed" or not (a * (1 - real)).any()  # nothing at padding
    tokens = encoder.executed(b)[0]
    assert sum(LENGTHS) <= tokens < len(LENGTHS) * max(LENGTHS)


@pytest.mark.parametrize("execution", ["packed", "bucketed"])
def test_attention_scores_and_values_are_unpacked_to_their_rows(execution):
    b, one = texts(), model("bert")
    capture.prepare(one)
    with torch.no_grad():
        mine, theirs = Encoder(one, execution).encode(b, ALL), Encoder(one).encode(b, ALL)
    real = b.attention_mask.float()
    pairs = (real.unsqueeze(1) * real.unsqueeze(2)).unsqueeze(1)
    for a, c in zip(mine.scores, theirs.scores, strict=True):  # pyright: ignore
        torch.testing.assert_close(a * pairs, c * pairs, rtol=1e-5, atol=2e-6)
    for a, c in zip(mine.values, theirs.values, strict=True):  # pyright: ignore
        torch.testing.assert_close(a * real[:, None, :, None], c * real[:, None, :, None], rtol=1e-5, atol=2e-6)


def distiller(execution: str) -> StudentModule:
    given = {
        "label": WeightedTerm(logits.label_loss, 0.3),
        "soft": WeightedTerm(functools.partial(logits.soft_loss, temperature=2.0), 0.7, "all"),
        "patient": WeightedTerm(functools.partial(patient, layers="skip"), 0.5, "all"),
        "cosine": WeightedTerm(cosine, 0.4, "tokens"),
        "attention": WeightedTerm(attention_mse, 0.2, "all"),
        "values": WeightedTerm(value_relation, 0.2, "all"),
    }
    student = Encoder(classifier("bert", STUDENT, CLASSES, seed=1), execution)
    teacher = Teacher("teacher", Encoder(classifier("bert", TEACHER, CLASSES), execution))
    return StudentModule(student, given, OptimizerSettings(lr=1e-3), 10, [teacher]).eval()


@pytest.mark.parametrize("execution", ["packed", "bucketed"])
def test_loss_and_gradient_are_those_of_padded_execution(execution):
    b = batch(lengths=[12, 4, 11, 9, 3, 5])
    found = {}
    for name in ("padded", execution):
        module = distiller(name)
        loss = module.loss(b)
        loss.backward()
        found[name] = loss.detach(), {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    torch.testing.assert_close(found[execution][0], found["padded"][0], rtol=1e-5, atol=1e-6)
    assert found[execution][1].keys() == found["padded"][1].keys()
    for name, gradient in found["padded"][1].items():
        torch.testing.assert_close(found[execution][1][name], gradient, rtol=1e-3, atol=1e-6)


def test_masked_lm_training_is_equal_without_padding():
    b = texts([12, 4, 30, 9])
    b.labels = torch.where((torch.arange(30) % 3 == 0) & b.attention_mask.bool(), b.input_ids, -100)
    losses = []
    for execution in ("padded", "packed", "bucketed"):
        given = {
            "mlm": WeightedTerm(logits.label_cross_entropy, 1.0),
            "soft": WeightedTerm(logits.soft_cross_entropy, 1.0),
        }
        teacher = Teacher("teacher", Encoder(model("bert"), execution))
        student = Encoder(student_from(model("bert"), [0, 2]), execution)
        losses.append(StudentModule(student, given, OptimizerSettings(lr=1e-3), 10, [teacher]).eval().loss(b).detach())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(1, 70), min_size=1, max_size=40))
def test_packed_sequences_do_not_overlap_or_cross_rows(lengths):
    found = packing.layout(tuple(lengths))
    taken = torch.zeros(found.rows, found.width, dtype=torch.long)
    for row, start, length in zip(found.row.tolist(), found.start.tolist(), lengths, strict=True):
        assert start + length <= found.width
        taken[row, start : start + length] += 1
    assert int(taken.max()) == 1 and int(taken.sum()) == sum(lengths)
    assert found.tokens <= len(lengths) * max(lengths)


@given(st.lists(st.integers(1, 70), min_size=1, max_size=40))
def test_buckets_contain_every_row_once_and_cost_at_most_the_padded_batch(lengths):
    groups = packing.buckets(tuple(lengths))
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    longest = [max(lengths[i] for i in group) for group in groups]
    assert longest == sorted(set(longest))
    cost = sum(len(group) * n for group, n in zip(groups, longest, strict=True)) + packing.BUCKET_COST * len(groups)
    assert cost <= len(lengths) * max(lengths) + packing.BUCKET_COST


def test_buckets_are_the_cheapest_partition():
    lengths = (1, 2, 2, 40, 41, 90)
    by_hand = [[0, 1, 2], [3, 4], [5]]  # 3 * 2 + 2 * 41 + 90 + 3 * 64 = 370; one cut after 41: 6 * 0 ...
    cost = {1: 6 * 90 + 64, 2: min(5 * 41 + 90 + 128, 3 * 2 + 3 * 90 + 128), 3: 6 + 82 + 90 + 192}
    assert min(cost.values()) == cost[3]
    assert packing.buckets(lengths) == by_hand


def test_a_batch_of_equal_lengths_is_not_padded():
    found = packing.layout((32,) * 7)
    assert found.tokens == 7 * 32
    assert dataclasses.astuple(packing.layout((5,)))[:2] == (1, 5)
