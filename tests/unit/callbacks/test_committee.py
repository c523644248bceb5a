"""Votes of a committee in `Select`: whose they are, what they cost; and summaries in place of a batch's logits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins import Precision
from torch import Tensor

from kdlab.callbacks.select import Select
from kdlab.methods.marks import needs
from kdlab.methods.selection import strategies
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.methods.selection.scores import arm_scores
from kdlab.models.encoder import Encoder
from kdlab.models.student import set_dropout
from kdlab.modules.early_exit import first_layers
from kdlab.modules.evidence.votes import Votes
from kdlab.runtime.ledger import Ledger
from kdlab.types import Evidence, Plan
from tests.unit.modules import test_student, test_student_tasks
from tests.unit.modules.test_student_tasks import label as LABEL


def voted(stage: str, votes: Votes, seed: int = 0, dropout: float = 0.0) -> tuple[Any, Any, list[Tensor]]:
    """The module and batch of `stage`, and the votes that a strategy of `Select` gets for the batch, in parts."""
    if stage == "pretrain":
        module, batch = test_student.distiller(), test_student.batch()
    else:
        module, batch = test_student_tasks.distiller({"label": LABEL}), test_student_tasks.batch()
    module._trainer = SimpleNamespace(global_step=0, precision_plugin=Precision())  # pyright: ignore
    module.ledger = Ledger(100)
    set_dropout(module.student.model, dropout)
    seen: list[Tensor] = []

    @needs("votes", rowwise=True)
    def recorded(evidence: Evidence) -> Tensor:
        assert evidence.votes is not None and evidence.logits is None
        seen.append(evidence.votes)
        return strategies.committee(evidence)

    batch.plan = Plan()
    chooser = RowSelector({"arm": recorded}, Fixed(["arm"]), 0.5, 10, seed)
    chooser.arm = "arm"
    Select(chooser, votes=votes).answer(module, batch, 0)
    return module, batch, seen


def whole(seen: list[Tensor]) -> Tensor:
    return torch.cat(seen, dim=1)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_exits_vote_as_models_of_the_first_layers_do(stage):
    module, batch, seen = voted(stage, Votes())
    depth = module.student.model.config.num_hidden_layers
    votes = whole(seen)
    assert len(votes) == depth > 1
    with module.inference_mode():
        for layers in range(1, depth + 1):
            shallow = Encoder(first_layers(module.student.model, layers), module.student.execution)
            known = list(module.evidence(batch, shallow.encode(batch, frozenset({"hidden"}))))
            position = layers % depth  # the student itself is the first member
            logits, mask = torch.cat([part.logits for part in known]), known[0].mask
            here = slice(None) if mask is None else torch.cat([part.mask for part in known])
            torch.testing.assert_close(votes[position][here], logits[here])
    assert module.ledger.state_dict()["flops"]["scoring"] > 0


def test_passes_with_dropout_are_drawn_by_the_seed_of_the_selection():
    votes = whole(voted("finetune", Votes(3), dropout=0.3)[2])
    assert len(votes) == 4 and not torch.equal(votes[1], votes[2])
    assert torch.equal(whole(voted("finetune", Votes(3), dropout=0.3)[2]), votes)
    other = whole(voted("finetune", Votes(3), 1, dropout=0.3)[2])
    assert torch.equal(other[0], votes[0]) and not torch.equal(other[1], votes[1])
    still = whole(voted("finetune", Votes(2))[2])  # without dropout all members agree
    torch.testing.assert_close(still[1], still[0])


def test_dropout_for_votes_ends_with_them_and_draws_from_no_generator_of_the_training():
    module = voted("finetune", Votes(), dropout=0.3)[0]
    with module.inference_mode():
        before = torch.get_rng_state()
        with module.dropout(5):
            assert module.student.training
            first = torch.rand(3)
        assert not module.student.training and torch.equal(torch.get_rng_state(), before)
        with module.dropout(5):
            assert torch.equal(torch.rand(3), first)


def test_what_a_committee_costs_is_in_the_ledger_as_scoring():
    def flops(votes: Votes) -> int:
        module = voted("finetune", votes)[0]
        return module.ledger.state_dict()["flops"]["scoring"]

    module, batch, _ = voted("finetune", Votes())
    counter = module.distillation.flops
    head = counter.student_head(len(batch))
    states = counter.student_layers(batch, frozenset({"states"}))
    assert flops(Votes()) == states + module.student.model.config.num_hidden_layers * head
    assert flops(Votes(3)) == 4 * (counter.student_layers(batch) + head)


@pytest.mark.parametrize("name", ["divbs", "badge"])
def test_a_summary_of_a_few_rows_at_a_time_gives_the_scores_of_the_whole(name):
    rng = torch.Generator().manual_seed(0)
    facts: dict[str, Any] = {
        "rows": torch.arange(9),
        "features": torch.randn(9, 5, generator=rng),
        "labels": torch.randint(0, 6, (9, 2), generator=rng),
        "mask": torch.rand(9, 2, generator=rng) < 0.8,
        "keep": 4,
    }
    logits, strategy = torch.randn(9, 2, 6, generator=rng), getattr(strategies, name)
    looked: list[int] = []

    def parts():
        for at in torch.arange(9).split(2):
            looked.append(len(at))
            yield Evidence(logits=logits[at], labels=facts["labels"][at], mask=facts["mask"][at])

    evidence = Evidence(**facts, rng=torch.Generator().manual_seed(1))
    found = arm_scores(strategy, evidence, parts())
    expected = strategy(Evidence(**facts, logits=logits, rng=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(found, expected)
    assert len(looked) == 5 and evidence.logits is None
