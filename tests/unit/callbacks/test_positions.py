"""Selection of positions: masks by hand, the loss of the positions kept, heads that run for these alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdlab.callbacks.scoring.positions import PositionSelection
from kdlab.callbacks.select import Select
from kdlab.methods.knowledge.logits import label_cross_entropy, soft_cross_entropy
from kdlab.methods.selection import strategies
from kdlab.methods.selection.keeping import Keeping
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.models.encoder import Encoder
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.teacher import Teacher
from kdlab.types import IGNORE, Batch, Plan
from tests.support.causal import characters, decoder
from tests.support.evidence import ON_LOGITS, evidence

LENGTHS = (9, 5, 2)  # tokens; the last row has one position


def rows(lengths: tuple[int, ...] = LENGTHS) -> Batch:
    generator = torch.Generator().manual_seed(3)
    longest = max(lengths)
    ids = torch.randint(5, len(characters()), (len(lengths), longest), generator=generator)
    mask = (torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)).long()
    labels = torch.full_like(ids, IGNORE)
    labels[:, :-1] = torch.where(mask[:, 1:].bool(), ids[:, 1:], IGNORE)
    count = len(lengths)
    return Batch(torch.arange(count), 0, ids, mask, labels, torch.ones(count, dtype=torch.bool))


def module(ledger: Ledger | None = None, **more) -> StudentModule:
    terms = {
        "label": WeightedTerm(label_cross_entropy, 0.5),
        "soft": WeightedTerm(soft_cross_entropy, 0.5),
    }
    made = StudentModule(
        Encoder(decoder(1)), terms, OptimizerSettings(lr=1e-3), 10, [Teacher("t", Encoder(decoder(2)))], ledger,
        chunk=4, **more,
    )  # fmt: skip
    made._trainer = None
    return made


class Trainer:
    """What `inference_mode` reads of a trainer."""

    global_step = 0

    class precision_plugin:
        @staticmethod
        def forward_context():
            import contextlib

            return contextlib.nullcontext()


def planned(student: StudentModule, batch: Batch, arm=strategies.entropy, ratio: float = 0.5, **more) -> Plan:
    """The plan of a batch, its positions selected by `arm`; `keeping`: of the selector."""
    keeping = more.pop("keeping", None)
    selector = RowSelector({"arm": arm}, Fixed(["arm"]), ratio, 10, 0, keeping=keeping)
    selector.arm = "arm"
    select = Select(selector, unit="position", **more)
    batch.plan = Plan()
    select.answer(student, batch, 0)
    return batch.plan


def entropies(student: StudentModule, batch: Batch) -> Tensor:
    """(B, L) the entropy at each position with a label, by the whole model; -inf elsewhere."""
    with torch.no_grad():
        logits = student.student.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.double()
    log_p = logits.log_softmax(-1)
    return torch.where(batch.labelled(), -(log_p.exp() * log_p).sum(-1), -torch.inf)


@pytest.fixture
def student(monkeypatch) -> StudentModule:
    made = module(Ledger(10, True))
    monkeypatch.setattr(type(made), "trainer", property(lambda _: Trainer()))
    return made


def mask_of(student: StudentModule, batch: Batch, plan: Plan) -> Tensor:
    outputs = student.student.encode(batch)
    assert plan.positions is not None
    return plan.positions(batch, outputs, None)[0]


def test_the_positions_of_the_highest_entropy_of_each_row(student):
    batch = rows()
    mask = mask_of(student, batch, planned(student, batch))
    wanted = torch.zeros_like(mask)
    for row, entropy in enumerate(entropies(student, batch)):
        count = max(1, (LENGTHS[row] - 1) // 2)  # 4 of 8, 2 of 4, and the one of the last row
        wanted[row, entropy.argsort(descending=True)[:count]] = True
    assert torch.equal(mask, wanted)


def test_the_positions_of_the_highest_entropy_of_the_batch(student):
    batch = rows()
    mask = mask_of(student, batch, planned(student, batch, per_row=False, ratio=0.3))
    wanted = entropies(student, batch).flatten().argsort(descending=True)[: int(0.3 * 13)]
    assert mask.flatten().nonzero().flatten().tolist() == sorted(wanted.tolist())


@pytest.mark.parametrize(("ratio", "per_row"), [(0.01, True), (0.01, False)])
def test_each_row_or_the_batch_keeps_one_position_at_least(student, ratio, per_row):
    batch = rows()
    mask = mask_of(student, batch, planned(student, batch, ratio=ratio, per_row=per_row))
    assert mask.sum(1).tolist() == ([1, 1, 1] if per_row else mask.sum(1).tolist()) and int(mask.sum()) == (
        3 if per_row else 1
    )


def test_of_equal_scores_the_first_positions_are_kept(student):
    batch = rows((9, 5))

    def equal(evidence):
        return torch.zeros(len(evidence), dtype=torch.float64)

    equal.marks = strategies.entropy.marks
    mask = mask_of(student, batch, planned(student, batch, equal))
    assert mask[0].nonzero().flatten().tolist() == [0, 1, 2, 3] and mask[1].nonzero().flatten().tolist() == [0, 1]


def test_rows_that_are_not_real_and_rows_without_labels_have_no_position(student):
    batch = rows((9, 5, 7))
    batch.real[1], batch.labels[2] = False, IGNORE
    mask = mask_of(student, batch, planned(student, batch))
    assert mask.sum(1).tolist() == [4, 0, 0]


@pytest.mark.parametrize("name", sorted(set(ON_LOGITS) - {"loss", "reducible", "disagreement", "gradient_norm"}))
def test_strategies_score_positions_as_rows_of_a_task(student, name):
    """A few positions at a time, as the strategy scores all of them at once."""
    batch = rows()
    strategy = ON_LOGITS[name]
    mask = mask_of(student, batch, planned(student, batch, strategy, ratio=0.4, per_row=False))
    with torch.no_grad():
        student.student.eval()
        logits = student.student.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    units = batch.labelled()
    scores = strategy(evidence(logits[units], batch.labels[units]))
    assert torch.equal(mask[units].nonzero().flatten(), scores.argsort(descending=True, stable=True)[:5].sort().values)


def test_random_positions_are_drawn_by_seed_and_batch(student):
    batch = rows((40, 40))
    masks = [mask_of(student, batch, planned(student, batch, strategies.random)) for _ in range(2)]
    assert torch.equal(*masks) and masks[0].sum(1).tolist() == [19, 19]


@pytest.mark.parametrize("labels_on", ["selected", "all"])
def test_the_loss_is_that_of_the_labels_kept(monkeypatch, labels_on):
    """The plain loss of a batch whose other labels are IGNORE; with labels on all, of the teacher's term alone."""
    ledger = Ledger(10, True)
    made = module(ledger, labels_on=labels_on)
    monkeypatch.setattr(type(made), "trainer", property(lambda _: Trainer()))
    monkeypatch.setattr(type(made), "progress", property(lambda _: 0.0))
    batch = rows()
    plan = planned(made, batch)
    mask = mask_of(made, batch, plan)
    loss = made.training_step(batch, 0)
    by_hand = rows()
    by_hand.labels = by_hand.labels.masked_fill(~mask, IGNORE)
    plain = module(labels_on="selected")
    wanted = plain.loss(by_hand, local=True)
    terms = {name: float(value) for name, value in plain.losses.items()}
    if labels_on == "all":
        plain.loss(rows(), local=True)
        assert float(made.losses["label"]) == pytest.approx(float(plain.losses["label"]), rel=1e-6)
        assert float(made.losses["soft"]) == pytest.approx(terms["soft"], rel=1e-6)
        return
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)
    totals = ledger.totals()
    loss.backward()
    wanted.backward()
    for one, other in zip(made.student.parameters(), plain.student.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert totals["teacher_queries"]["total"] == 0  # `Teacher` was given no counter
    assert totals["flops"]["teacher_forward"] > 0


def test_heads_run_for_the_positions_kept_alone(student, monkeypatch):
    """The teacher's head, and the student's in the loss; scoring runs the student's head at all positions once."""
    ran = {"teacher": 0, "student": 0}
    monkeypatch.setattr(type(student), "progress", property(lambda _: 0.0))
    teacher = student.teachers[0]
    for name, encoder in (("teacher", teacher.encoder), ("student", student.student)):
        project = encoder.project

        def counted(vectors, project=project, name=name):
            ran[name] += len(vectors)
            return project(vectors)

        monkeypatch.setattr(encoder, "project", counted)
    batch = rows()
    planned(student, batch)
    student.training_step(batch, 0)
    kept, every = 4 + 2 + 1, 8 + 4 + 1
    assert ran == {"teacher": kept, "student": every + kept}
    assert student.ledger is not None and student.ledger.totals()["flops"][
        "scoring"
    ] == student.distillation.flops.student_head(every)


def test_a_row_without_a_position_does_not_query_the_teacher(student, monkeypatch):
    monkeypatch.setattr(type(student), "progress", property(lambda _: 0.0))
    batch = rows((9, 9, 9))
    plan = planned(student, batch, per_row=False, ratio=0.05)
    mask = mask_of(student, batch, plan)
    seen = []
    query = student.teachers[0].query
    monkeypatch.setattr(
        student.teachers[0], "query", lambda b, *a, **k: seen.append(b.rows.tolist()) or query(b, *a, **k)
    )
    student.training_step(batch, 0)
    assert seen == [batch.rows[mask.any(1)].tolist()] and len(seen[0]) == 1


def test_sampled_positions_estimate_the_loss_of_all(student, monkeypatch):
    """The mean over many draws of the weighted loss is the loss of all positions."""
    monkeypatch.setattr(type(student), "progress", property(lambda _: 0.0))
    batch = rows()
    found = []
    keeping = Keeping(temperature=0.5, importance=True)
    for number in range(80):
        for per_row in (True, False):
            one = rows()
            plan = planned(student, one, keeping=keeping, per_row=per_row)
            assert isinstance(plan.positions, PositionSelection)
            plan.positions.batch_idx = number
            with torch.no_grad():
                found.append(float(student.loss(one, local=True, plan=plan)))
    with torch.no_grad():
        wanted = float(student.loss(batch, local=True))
    spread = torch.tensor(found).view(80, 2).std(0) / 80**0.5
    for each, error in zip(torch.tensor(found).view(80, 2).mean(0).tolist(), spread.tolist(), strict=True):
        assert each == pytest.approx(wanted, abs=4 * error)


def test_explored_positions_are_others_than_the_best(student):
    batch = rows((41, 41))
    best = mask_of(student, batch, planned(student, batch, ratio=0.25))
    mixed = mask_of(student, batch, planned(student, batch, ratio=0.25, keeping=Keeping(explore=0.5)))
    assert mixed.sum(1).tolist() == [10, 10] and (mixed & best).sum(1).tolist() != [10, 10]
    assert int((mixed & best).sum()) >= 10
