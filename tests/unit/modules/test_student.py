"""The distiller's loss against the same three terms computed the plain way, on whole tensors."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from kdlab.errors import UserError
from kdlab.methods.knowledge import hidden_states
from kdlab.methods.knowledge import logits as terms
from kdlab.models.encoder import Encoder
from kdlab.models.student import student_from
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import Optimization, OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.teacher import Teacher
from kdlab.types import IGNORE, Batch
from tests.conftest import tiny_config

ROWS, LENGTH = 6, 12


def batch() -> Batch:
    rng = torch.Generator().manual_seed(3)
    ids = torch.randint(6, 100, (ROWS, LENGTH), generator=rng)
    mask = torch.ones_like(ids)
    for row, length in enumerate([12, 12, 11, 9, 7, 5]):
        mask[row, length:] = 0
    labels = torch.full_like(ids, IGNORE)
    chosen = (torch.rand(ids.shape, generator=rng) < 0.3) & (mask == 1)
    chosen[:, 1] = True
    labels[chosen] = ids[chosen]
    ids = torch.where(chosen, torch.tensor(4), ids)
    return Batch(torch.arange(ROWS), 0, ids, mask, labels, torch.ones(ROWS, dtype=torch.bool))


def weighted(at: str = "labelled") -> dict[str, WeightedTerm]:
    soft = functools.partial(terms.soft_cross_entropy, temperature=2.0)
    return {
        "soft": WeightedTerm(soft, 5.0, at),
        "mlm": WeightedTerm(terms.label_cross_entropy, 2.0, "labelled"),
        "cosine": WeightedTerm(hidden_states.cosine, 1.0, "tokens"),
    }


def distiller(family: str = "bert", reduce: str = "tokens", at: str = "labelled", chunk: int = 5) -> StudentModule:
    torch.manual_seed(0)
    model = transformers.AutoModelForMaskedLM.from_config(tiny_config(family))
    student = Encoder(student_from(model, [0, 2]))
    ledger = Ledger(ROWS)
    teacher = Teacher("teacher", Encoder(model), ledger.count_queries)
    return StudentModule(student, weighted(at), OptimizerSettings(lr=1e-3), 10, [teacher], ledger, reduce, chunk=chunk)


def plainly(module: StudentModule, b: Batch, reduce: str, at: str) -> torch.Tensor:
    """The loss as a textbook would write it: whole logits of both models, row by row."""
    student = module.student.model(input_ids=b.input_ids, attention_mask=b.attention_mask, output_hidden_states=True)
    with torch.no_grad():
        teacher = module.teachers[-1].encoder.model(
            input_ids=b.input_ids, attention_mask=b.attention_mask, output_hidden_states=True
        )
    masked, real = b.labels != IGNORE, b.attention_mask.bool()
    soft = 4 * F.kl_div(F.log_softmax(student.logits / 2, -1), F.softmax(teacher.logits / 2, -1), reduction="none").sum(
        -1
    )
    mlm = F.cross_entropy(student.logits.transpose(1, 2), b.labels, reduction="none", ignore_index=IGNORE)
    cosine = 1 - F.cosine_similarity(student.hidden_states[-1], teacher.hidden_states[-1], dim=-1)

    def mean(value: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        if reduce == "tokens":
            return value[where].mean()
        return torch.stack([v[w].mean() for v, w in zip(value, where, strict=True)]).mean()

    return 5 * mean(soft, masked if at == "labelled" else real) + 2 * mean(mlm, masked) + mean(cosine, real)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
@pytest.mark.parametrize(("reduce", "at"), [("tokens", "labelled"), ("rows", "labelled"), ("tokens", "all")])
def test_loss_and_gradient_equal_the_plain_way(family, reduce, at):
    module, b = distiller(family, reduce, at), batch()
    wanted = plainly(module, b, reduce, at)
    wanted_grads = torch.autograd.grad(wanted, list(module.parameters()), allow_unused=True)
    loss = module.loss(b)
    loss.backward()
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    for (name, p), g in zip(module.named_parameters(), wanted_grads, strict=True):
        if g is None:
            assert p.grad is None or not p.grad.any(), name
        else:
            torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6, msg=name)


def test_the_report_adds_up_to_the_loss():
    module = distiller()
    loss = module.loss(batch()).detach()
    report = {name: float(value) for name, value in module.losses.items()}
    assert report["loss"] == pytest.approx(float(loss), rel=1e-6)
    assert 5 * report["soft"] + 2 * report["mlm"] + report["cosine"] == pytest.approx(float(loss), rel=1e-5)


def test_rows_that_are_not_real_change_nothing():
    module, b = distiller(), batch()
    wanted = module.loss(b.take(torch.arange(4)))
    b.real[4:] = False
    torch.testing.assert_close(module.loss(b), wanted)
    assert module.ledger.totals()["teacher_queries"]["total"] == 4 + 4


def test_no_tensor_of_rows_by_length_by_vocabulary_is_made():
    module, b = distiller(chunk=8), batch()
    vocabulary = module.student.model.config.vocab_size
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                logits = isinstance(tensor, torch.Tensor) and tensor.ndim > 1 and tensor.shape[-1] == vocabulary
                if logits and tensor.shape[:-1] != (32,):  # (32, vocabulary) is the weight, transposed
                    largest = max(largest, tensor.numel() // vocabulary)
            return out

    with Watch():
        module.loss(b).backward()
        with torch.no_grad():
            for _ in module.evidence(b, module.encode(b)):
                pass
    assert 0 < largest <= 8 < ROWS * LENGTH


def test_evidence_holds_the_logits_of_each_rows_masked_positions():
    module, b = distiller(chunk=9), batch()
    module.student.eval()
    with torch.no_grad():
        whole = module.student.model(input_ids=b.input_ids, attention_mask=b.attention_mask).logits
        parts = list(module.evidence(b, module.encode(b)))
    assert len(parts) > 1
    row = 0
    for part in parts:
        for logits, mask, labels in zip(part.logits, part.mask, part.labels, strict=True):
            where = b.labels[row] != IGNORE
            torch.testing.assert_close(logits[mask], whole[row][where], rtol=1e-5, atol=1e-5)
            assert torch.equal(labels[mask], b.labels[row][where])
            row += 1
    assert row == ROWS


def test_the_ledger_counts_one_query_a_row_and_the_flops_of_each_part():
    module, b = distiller(), batch()
    module.loss(b)
    totals = module.ledger.totals()
    student, teacher = module.plain_flops(b)
    assert totals["teacher_queries"]["per_teacher"]["teacher"]["total"] == ROWS
    assert totals["flops"]["student_forward"] + totals["flops"]["student_backward"] == student
    assert totals["flops"]["student_backward"] == 2 * totals["flops"]["student_forward"]
    assert totals["flops"]["teacher_forward"] == teacher
    module.loss(b, local=True)
    assert module.ledger.totals()["flops"] == totals["flops"]


def test_the_teacher_is_frozen_and_in_no_state_of_the_module():
    module = distiller()
    teacher = set(module.teachers[-1].encoder.parameters())
    assert not teacher & set(module.parameters())
    assert not any(p.requires_grad for p in teacher)
    assert len(module.state_dict()) == len(module.student.state_dict())
    module.train()
    assert not module.teachers[-1].encoder.training


def test_terms_that_read_a_teacher_need_one():
    student = distiller().student
    with pytest.raises(UserError, match="teacher"):
        StudentModule(student, weighted(), OptimizerSettings(lr=1e-3), 10)
    alone = StudentModule(
        student, {"mlm": WeightedTerm(terms.label_cross_entropy, 1.0)}, OptimizerSettings(lr=1e-3), 10
    )
    b = batch()
    row, place = (b.labels != IGNORE).nonzero(as_tuple=True)
    logits = student.model(input_ids=b.input_ids, attention_mask=b.attention_mask).logits[row, place]
    torch.testing.assert_close(alone.loss(b), F.cross_entropy(logits, b.labels[row, place]))


def test_gradients_are_clipped_to_their_joint_norm():
    module = distiller()
    module.optimization = Optimization(OptimizerSettings(lr=1e-3, clip=0.5), 10, 0)
    module.loss(batch()).backward()
    before = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in before.values()]))
    assert norm > 0.5
    module.configure_gradient_clipping(None)
    for name, p in module.named_parameters():
        if name in before:
            torch.testing.assert_close(p.grad, before[name] * 0.5 / norm, rtol=1e-4, atol=1e-7)


def test_the_learning_rate_rises_then_falls_to_zero():
    module = distiller()
    module.optimization = Optimization(OptimizerSettings(lr=1.0, warmup=0.1), 100, 0)
    schedule = module.configure_optimizers()["lr_scheduler"]["scheduler"]
    rates = [schedule.lr_lambdas[0](step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0 and rates.index(1.0) == 9
    assert rates[100] == 0 and rates[55] == pytest.approx(0.5)
