"""Selection of positions: masks by hand, the loss of the positions kept, heads that run for these alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdlab.callbacks.select import Select
from kdlab.methods.knowledge.logits import label_cross_entropy, soft_cross_entropy
from kdlab.methods.selection import strategies
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
