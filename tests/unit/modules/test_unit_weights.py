"""Weighing rules of single units in the loss: AdaKD's temperatures and SelecTKD's weights against the papers' equations."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from kdlab.methods.knowledge.logits import label_cross_entropy, soft_cross_entropy
from kdlab.methods.knowledge.weighing import accepted, token_temperature
from kdlab.models.encoder import Encoder
from kdlab.modules.distillation_loss import DistillationLoss
from kdlab.modules.objective import WeightedTerm
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch, Plan
from tests.support.causal import decoder
from tests.unit.callbacks.test_positions import rows


def loss(chunk: int = 4, temperature: float = 1.0) -> DistillationLoss:
    terms = {
        "label": WeightedTerm(label_cross_entropy, 0.5),
        "soft": WeightedTerm(partial(soft_cross_entropy, temperature=temperature), 2.0),
    }
    return DistillationLoss(Encoder(decoder(1)), terms, [Teacher("t", Encoder(decoder(2)))], chunk=chunk)


def logits_of(model: Encoder, batch: Batch) -> torch.Tensor:
    """Logits (U, V) at the labelled positions, by the whole model."""
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    return model.model(**given).logits[batch.labelled()].double()


def values(distillation: DistillationLoss, batch: Batch, rule) -> tuple[float, float]:
    total, losses = distillation(batch, Plan(weigh=rule))
    return float(total.detach()), float(losses["soft"])


def test_adakd_divides_both_logits_by_a_temperature_of_each_position():
    batch, distillation = rows(), loss()
    with torch.no_grad():
        student, teacher = (logits_of(m, batch) for m in (distillation.student, distillation.teachers[0].encoder))
        q, p = student.softmax(-1), teacher.softmax(-1)
        s = ((p.sqrt() - q.sqrt()) ** 2).sum(-1).sqrt() / 2**0.5
        temperature = torch.exp(-0.5 * torch.tanh(torch.log(s / s.median()))).unsqueeze(1)
        each = F.kl_div(
            (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="none"
        ).sum(-1)
        soft = float((each * temperature[:, 0] ** 2).mean())
        label = float(F.cross_entropy(student, batch.labels[batch.labelled()]))
    total, found = values(distillation, batch, token_temperature)
    assert found == pytest.approx(soft, rel=1e-5) and total == pytest.approx(0.5 * label + 2 * soft, rel=1e-5)


def test_a_terms_own_temperature_stays():
    """Constant temperatures multiply it: base 2 on a term of temperature 1.5 is one of 3 (and its factor 9)."""
    batch = rows()
    found = values(loss(temperature=1.5), batch, partial(token_temperature, base=2.0, scale=0.0))[1]
    assert found == pytest.approx(values(loss(temperature=3.0), batch, None)[1], rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_selectkd_weighs_rejected_positions_less(beta):
    batch, distillation = rows(), loss()
    with torch.no_grad():
        student, teacher = (logits_of(m, batch) for m in (distillation.student, distillation.teachers[0].encoder))
        best = teacher.topk(60).indices
        weight = torch.where((best == student.argmax(-1, keepdim=True)).any(1), 1.0, beta)
        assert 0 < int((weight == 1).sum()) < len(weight)
        each = F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(-1)
    found = values(distillation, batch, partial(accepted, k=60, beta=beta))[1]
    assert found == pytest.approx(float((weight * each).mean()), rel=1e-5)
    assert float(distillation.term_weights.decisions["weight_soft"]) == pytest.approx(float(weight.mean()))
    assert float(distillation.term_weights.decisions["weight_label"]) == 1.0


def test_the_heads_that_ran_once_more_are_counted():
    counts = []
    for rule in (None, accepted):
        distillation, ledger = loss(), Ledger(10, True)
        distillation(rows(), Plan(weigh=rule), ledger=ledger)
        counts.append(ledger.totals()["flops"])
    head, teacher = distillation.flops.student_head(13), distillation.teachers[0].encoder
    assert counts[1]["student_forward"] - counts[0]["student_forward"] == head
    assert counts[1]["teacher_forward"] - counts[0]["teacher_forward"] == head and teacher is not None


def test_a_rule_that_returns_rows_is_refused():
    from kdlab.errors import UserError

    def wrong(context, terms):
        return torch.ones(len(terms))

    wrong.marks = accepted.marks
    with pytest.raises(UserError, match="gave no UnitWeights"):
        loss()(rows(), Plan(weigh=wrong), local=True)
