"""`select.observe=scored`: the loss of the rows that are scored, its cost, its state, its resume."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kdlab.callbacks.scoring.observed import ScoredLoss
from kdlab.methods.selection import strategies
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.types import IGNORE, Evidence
from tests.unit.callbacks.test_look import Scored

TAKING = {"left": 1, "accumulate": 1}


def observing(arm: Any, stage: str, look: float = 1.0, labels_on: str = "selected") -> tuple[Scored, ScoredLoss]:
    observed = ScoredLoss(6, 6 * look)
    return Scored(arm, stage, look, labels_on, scored=observed), observed


def by_hand(scored: Scored, rows: list[int]) -> float:
    """Mean loss of the labels of some rows of the batch, in a forward of their own."""
    batch = scored.batch.take(torch.tensor([scored.batch.rows.tolist().index(row) for row in rows]))
    parts = []
    with scored.module.inference_mode():
        for part in scored.module.evidence(batch, scored.module.student.encode(batch, frozenset())):
            known = part.labels != IGNORE if part.mask is None else part.mask.bool()  # pyright: ignore
            parts.append(F.cross_entropy(part.logits[known].double(), part.labels[known], reduction="none"))  # pyright: ignore
    return float(torch.cat(parts).mean())


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("look", [1.0, 0.5])
@pytest.mark.parametrize("name", ["entropy", "density", "random"])
def test_the_observation_is_the_loss_of_the_rows_that_were_looked_at(name, stage, look):
    """Those of an arm that reads logits cost nothing; features lack a head; a random draw runs as many rows for it."""
    scored, observed = observing(getattr(strategies, name), stage, look)
    observed.begin(**TAKING)
    plain = Scored(getattr(strategies, name), stage, look)
    assert scored.kept(0) == plain.kept(0)  # observing changes no selection
    assert [len(rows) for rows in scored.encoded] == [6 * look]
    drawn = scored.encoded[0]
    assert observed() == pytest.approx(by_hand(scored, drawn), rel=1e-6)
    assert observed() is None
    spent, before = (each.module.ledger.totals()["flops"] for each in (scored, plain))  # pyright: ignore
    assert spent.get("scoring", 0) == before.get("scoring", 0)
    assert (spent.get("observation", 0) > 0) == (name != "entropy")
    if name == "density" and stage == "finetune":
        assert spent["observation"] == scored.module.distillation.flops.student_head(len(drawn))


def test_batches_that_are_not_due_are_not_read():
    scored, observed = observing(strategies.random, "finetune")
    observed.begin(left=2, accumulate=1)  # 6 rows of one batch are enough
    scored.kept(0)
    observed.begin(left=None, accumulate=1)
    scored.kept(1)
    assert observed() is None and scored.encoded == []
    observed.begin(left=1, accumulate=1)
    scored.kept(2)
    assert observed() is not None and len(scored.encoded) == 1


@pytest.mark.parametrize(("rows", "accumulate", "steps"), [(6, 1, 1), (12, 1, 2), (13, 1, 3), (13, 2, 2), (1, 4, 1)])
def test_the_last_steps_with_so_many_rows_count(rows, accumulate, steps):
    observed = ScoredLoss(rows, 6.0)
    taking = []
    for left in range(5, 0, -1):
        observed.begin(left, accumulate)
        taking.append(observed.taking)
    assert taking == [left <= steps for left in range(5, 0, -1)]


def test_labels_on_all_rows_observe_the_training_forward():
    scored, observed = observing(strategies.entropy, "finetune", 1.0, "all")
    observed.begin(**TAKING)
    scored.batch.plan = SimpleNamespace(select=None, rows=None, importance=None)  # pyright: ignore
    scored.callback.answer(scored.module, scored.batch, 0)
    rule: Any = scored.batch.plan.select  # pyright: ignore
    with scored.module.inference_mode():
        outputs = scored.module.student.encode(scored.batch, rule.needed)
    rule(scored.batch, outputs)
    assert observed() == pytest.approx(by_hand(scored, scored.batch.rows.tolist()), rel=1e-6)


def test_rows_that_are_not_real_or_have_no_label_do_not_count():
    observed = ScoredLoss(4, 4.0)
    observed.begin(**TAKING)
    logits, labels = torch.tensor([[2.0, 0], [0, 1], [5, 5], [0, 3]]), torch.tensor([0, IGNORE, 1, 1])
    observed.take_all([Evidence(logits=logits[:2], labels=labels[:2]), Evidence(logits=logits[2:], labels=labels[2:])],
                      torch.tensor([True, True, False, True]))  # fmt: skip
    observed.close()
    expected = [torch.log1p(torch.tensor(-2.0).exp()), torch.log1p(torch.tensor(-3.0).exp())]
    assert observed() == pytest.approx(float(sum(expected)) / 2)
    observed.begin(**TAKING)
    observed.take_all([Evidence(logits=logits, labels=torch.full((4,), IGNORE))], torch.ones(4, dtype=torch.bool))
    observed.close()
    assert observed() is None


def test_regression_observes_squared_errors():
    observed = ScoredLoss(2, 3.0)
    observed.begin(**TAKING)
    labels = torch.tensor([1.0, float("nan"), 0.0])
    observed.take_all(
        [Evidence(logits=torch.tensor([[3.0], [1.0], [1.0]]), labels=labels)], torch.ones(3, dtype=torch.bool)
    )
    observed.close()
    assert observed() == (4 + 1) / 2


def test_a_resumed_observation_goes_on():
    scored, observed = observing(strategies.entropy, "finetune")
    observed.begin(left=1, accumulate=2)
    scored.kept(0)
    state = scored.callback.state_dict()
    twin, other = observing(strategies.entropy, "finetune")
    twin.callback.load_state_dict(state)
    assert other() == observed()


@pytest.mark.parametrize(
    ("warmup", "left"), [(0.0, [4, 3, 2, 1, 4, 3, 2, 1, None, None]), (0.3, [3, 2, 1, 4, 3, 2, 1, None, None, None])]
)
def test_steps_to_the_next_observation(warmup, left):
    selector = RowSelector({"a": strategies.random}, Fixed(["a"]), 0.5, 10, 0, interval=4, warmup=warmup)
    assert [selector.steps_left(step) for step in range(10)] == left


class Recorded:
    """A reward and a policy that record what they get."""

    def __init__(self, arms: Any = ()) -> None:
        self.losses: list[float] = []
        self.q: dict[str, float] = {}

    def observe(self, value: float) -> tuple[None, None]:
        self.losses.append(value)
        return None, None

    def choose(self, progress: float, rng: Any) -> str:
        return "a"


def test_without_an_observation_nothing_is_learnt_and_an_arm_is_picked():
    reward, given = Recorded(), [None, 0.5]
    selector = RowSelector({"a": strategies.random}, Recorded(), 0.5, 10, 0, reward, lambda: given.pop(0), 1)  # pyright: ignore
    selector.decide(0)
    assert selector.arm == "a" and reward.losses == []
    selector.decide(1)
    assert reward.losses == [0.5]
