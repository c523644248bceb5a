"""The gradient of a batch taken in parts is that of transformers' own model on the whole batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import example, given
from hypothesis import strategies as st

from kdlab.methods.knowledge.logits import label_loss, soft_loss
from kdlab.models.encoder import Encoder
from kdlab.modules.batch_parts import LossByParts, divided
from kdlab.modules.distillation_loss import DistillationLoss
from kdlab.modules.evaluation import TaskScore
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.teacher import TeacherModule
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.teacher import Teacher
from kdlab.types import IGNORE
from tests.conftest import tiny_config
from tests.unit.modules import test_student, test_student_tasks
from tests.unit.modules.test_plain_trainer import SHAPE

OPTIM = OptimizerSettings(lr=1e-3)


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, wanted[name], atol=1e-6, rtol=1e-4), name


@pytest.mark.parametrize("mode", ["packed", "padded"])
@pytest.mark.parametrize("tokens", [1, 9, 20])
def test_of_a_classifier(mode, tokens):
    model, batch = test_student_tasks.classifier(), test_student_tasks.batch()
    loss = F.cross_entropy(model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits, batch.labels)
    loss.backward()
    wanted = gradients(model)
    module = TeacherModule(
        Encoder(model, mode), OPTIM, 10, ledger=Ledger(100), score=TaskScore(SHAPE), part_tokens=tokens
    )
    found = module.training_step(batch, 0)
    assert all(p.grad is None for p in model.parameters())  # as with any loss, before its backward
    found.backward()
    assert found.item() == pytest.approx(loss.item(), rel=1e-5) and module.losses["label"].item() == pytest.approx(
        loss.item(), rel=1e-5
    )
    assert_equal(gradients(model), wanted)


@pytest.mark.parametrize("tokens", [1, 15, 30])
def test_of_masked_text(tokens):
    """The parts have different numbers of masked positions, and one row has none."""
    torch.manual_seed(0)
    model, batch = transformers.AutoModelForMaskedLM.from_config(tiny_config("bert")).eval(), test_student.batch()
    batch.labels[2] = IGNORE
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE).backward()
    wanted = gradients(model)
    TeacherModule(Encoder(model), OPTIM, 10, part_tokens=tokens).training_step(batch, 0).backward()
    found = gradients(model)
    assert_equal(found, {name: one for name, one in wanted.items() if name in found})
    assert not any(one.any() for name, one in wanted.items() if name not in found)


def distillation(label_weight: float = 0.3) -> DistillationLoss:
    teacher = Teacher("teacher", Encoder(test_student_tasks.classifier(layers=4)))
    terms = {"label": WeightedTerm(label_loss, label_weight), "soft": WeightedTerm(soft_loss, 0.7, "all")}
    return DistillationLoss(Encoder(test_student_tasks.classifier(layers=2, seed=1)), terms, [teacher])


def test_with_a_teacher_and_an_outer_gradient():
    """The outer factor, such as that of accumulation, and gradients that are there already, are kept."""
    loss, batch = distillation(), test_student_tasks.batch()
    for factor in (0.5, 0.25):
        (factor * loss(batch)[0]).backward()
    wanted = gradients(loss.student.model)
    for factor in (0.5, 0.25):
        total, losses = LossByParts(loss, 9)(batch)
        (factor * total).backward()
    assert_equal(gradients(loss.student.model), wanted)
    whole, of_whole = loss(batch)
    assert total.item() == pytest.approx(whole.item(), rel=1e-5)
    assert {name: one.item() for name, one in losses.items()} == pytest.approx(
        {name: one.item() for name, one in of_whole.items()}, rel=1e-5
    )


def test_whole_where_parts_would_differ(monkeypatch):
    """Rows without a label count in one term and not in the other: their shares are not those of the parts."""
    by_parts, every = LossByParts(distillation(), 9), test_student_tasks.batch()
    assert len(by_parts._parts(every)) > 1
    assert len(by_parts._parts(test_student_tasks.batch(hidden=(0, 3)))) == 1
    with torch.no_grad():
        assert len(by_parts._parts(every)) == 1
    monkeypatch.setattr("kdlab.runtime.distributed.world", lambda: 2)
    assert len(by_parts._parts(every)) == 1


def test_an_error_leaves_the_gradients(monkeypatch):
    loss, batch = distillation(), test_student_tasks.batch()
    loss(batch)[0].backward()
    before = {name: p.grad for name, p in loss.student.model.named_parameters()}
    by_parts, seen = LossByParts(loss, 9), []

    def fails(part, **rest):
        seen.append(part)
        if len(seen) == 2:
            raise MemoryError
        return distillation()(part, **rest)

    monkeypatch.setattr(by_parts, "loss", fails, raising=False)
    fails.student, fails.active_terms = loss.student, loss.active_terms
    with pytest.raises(MemoryError):
        by_parts(batch)
    assert all(p.grad is before[name] for name, p in loss.student.model.named_parameters())


@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), st.integers(1, 300))
@example([2, 9, 9], 1)
@example([100, 1, 1, 100], 50)
def test_parts_have_each_row_once_in_order(lengths, tokens):
    parts = divided(lengths, tokens)
    assert [row for part in parts for row in part.tolist()] == [*range(len(lengths))]
    assert all(sum(lengths[row] for row in part) <= tokens + max(lengths) for part in parts)
    assert len(parts) <= -(-sum(lengths) // tokens)


def test_rows_far_longer_than_a_part_are_parts_by_themselves():
    assert [part.tolist() for part in divided([2, 9, 9], 1)] == [[0], [1], [2]]
    assert [part.tolist() for part in divided([2, 9, 9], 10)] == [[0, 1], [2]]
    assert [part.tolist() for part in divided([2, 2, 2, 2], 4)] == [[0, 1], [2, 3]]


def test_costs_are_those_of_the_parts():
    """Padding apart, which parts have less of."""
    ledgers = [Ledger(100), Ledger(100)]
    batch = test_student_tasks.batch()
    by_parts, alone = (
        TeacherModule(
            Encoder(test_student_tasks.classifier()),
            OPTIM,
            10,
            ledger=ledger,
            score=TaskScore(SHAPE),
            part_tokens=tokens,
        )
        for ledger, tokens in zip(ledgers, (20, None), strict=True)
    )
    by_parts.training_step(batch, 0)
    parts = [batch.take(rows) for rows in divided(batch.attention_mask.sum(1).tolist(), 20)]
    assert len(parts) == 3
    for part in parts:
        alone.training_step(part, 0)
    assert ledgers[0].totals()["flops"] == ledgers[1].totals()["flops"]
    assert ledgers[0].totals()["flops"]["total"] > 0
