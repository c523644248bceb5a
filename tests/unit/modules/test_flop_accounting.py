"""The ledger's FLOPs of training steps, scoring and observations against torch's FlopCounterMode, to the last FLOP."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins import Precision
from torch.utils.flop_counter import FlopCounterMode

from kdlab.callbacks.observer import LossObserver
from kdlab.callbacks.select import Select
from kdlab.methods import adoption
from kdlab.methods.knowledge import weighing
from kdlab.methods.marks import needs
from kdlab.methods.selection import strategies
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.models.encoder import Encoder
from kdlab.modules.early_exit import EarlyExit
from kdlab.modules.evaluation import TaskScore
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch, Evidence, Plan, TaskShape
from tests.support.cadence import each_time
from tests.unit.modules import test_student
from tests.unit.modules.test_student_tasks import COSINE, PATIENT, STUDENT, TEACHER, TINYBERT, batch, classifier, soft
from tests.unit.modules.test_student_tasks import label as LABEL

HEAD = WeightedTerm(LABEL.term, 1.0, head_only=True)
KNOWLEDGE: dict[str, dict[str, WeightedTerm]] = {
    "labels": {"label": LABEL},
    "response": {"label": LABEL, "soft": soft()},
    "response at labels": {"label": LABEL, "soft": WeightedTerm(soft().term, 0.7)},
    "pkd": {"label": LABEL, "soft": soft(), "patient": PATIENT},
    "tinybert": TINYBERT,
    "tinybert and its head": {**TINYBERT, "head": HEAD},
    "head alone": {"head": HEAD},
    "distilbert": {"label": LABEL, "soft": soft(), "cosine": COSINE},
}


def module_of(
    given: dict[str, WeightedTerm],
    *,
    family: str = "bert",
    execution: str = "padded",
    labels_on: str = "selected",
    width: int = 32,
    teachers: int = 1,
) -> StudentModule:
    """A classifier that learns `given` from teachers of growing depth, all with eager attention (sdpa is not counted)."""

    def encoder(*shape: Any, **more: Any) -> Encoder:
        model = classifier(family, *shape, **more)
        model.set_attn_implementation("eager")
        return Encoder(model, execution)

    ledger = Ledger(6, fixed_inputs=True)
    pool = [Teacher(f"t{i}", encoder(TEACHER - i), ledger.count_queries) for i in reversed(range(teachers))]
    student, score = encoder(STUDENT, seed=1, width=width), TaskScore(TaskShape(1, tuple("abcd"), ("accuracy",)))
    module = StudentModule(
        student, given, OptimizerSettings(lr=1e-3), 10, pool, ledger, score=score, labels_on=labels_on
    )
    return with_trainer(module)


def text_module(at: str = "labelled", labels_on: str = "selected") -> StudentModule:
    module = test_student.distiller(at=at)
    module.labels_on_all = labels_on == "all"
    for encoder in (module.student, module.teachers[0].encoder):
        encoder.model.set_attn_implementation("eager")
    return with_trainer(module)


def with_trainer(module: StudentModule) -> StudentModule:
    module._trainer = SimpleNamespace(global_step=0, precision_plugin=Precision())  # pyright: ignore
    return module.eval()


def assert_counted(module: StudentModule, run: Callable[[], torch.Tensor | None]) -> dict[str, int]:
    """The FLOPs in the ledger after `run`, and the backward of its result, are those that torch has dispatched."""
    with FlopCounterMode(display=False) as counter:
        loss = run()
        if loss is not None:
            loss.backward()
    assert module.ledger is not None
    parts = module.ledger.totals()["flops"]
    assert parts["total"] == counter.get_total_flops() > 0
    return parts


def step(module: StudentModule, b: Batch, plan: Plan | None = None) -> Callable[[], torch.Tensor]:
    b.plan = plan
    return lambda: module.training_step(b, 0)


FAMILIES = ["bert", "roberta", "distilbert", "electra"]
STEPS = [f"{knowledge}, {family}" for knowledge in KNOWLEDGE for family in FAMILIES]
# by day each set with one family, in turn
IN_TURN = [f"{knowledge}, {FAMILIES[i % len(FAMILIES)]}" for i, knowledge in enumerate(KNOWLEDGE)]


@pytest.mark.parametrize("case", each_time(STEPS, *IN_TURN))
def test_steps(case):
    knowledge, family = case.split(", ")
    module = module_of(KNOWLEDGE[knowledge], family=family)
    plain = module.plain_flops(batch())
    parts = assert_counted(module, step(module, batch()))
    assert sum(plain) == parts["total"]  # what `all_data` counts


@pytest.mark.parametrize("knowledge", KNOWLEDGE)
def test_packed_steps_on_rows_with_hidden_labels(knowledge):
    module = module_of(KNOWLEDGE[knowledge], execution="packed")
    assert_counted(module, step(module, batch(hidden=(2, 4))))


@pytest.mark.parametrize("knowledge", ["tinybert", "pkd", "distilbert"])
def test_projections_to_the_teachers_width(knowledge):
    """All states are projected, those that no term reads too; their backward then is not run, but counted as twice."""
    module = module_of(KNOWLEDGE[knowledge], width=16)
    plain = module.plain_flops(batch())
    idle = {"tinybert": 1, "pkd": 3, "distilbert": 0}[knowledge]  # the last state; of skip, which reads layer 1, others
    with FlopCounterMode(display=False) as counter:
        step(module, batch())().backward()
    assert module.ledger is not None
    counted, tokens = module.ledger.totals()["flops"]["total"], batch().input_ids.numel()
    assert counted == sum(plain)
    assert counted - counter.get_total_flops() == idle * 2 * (2 * tokens * 16 * 32)


@pytest.mark.parametrize("labels_on", ["selected", "all"])
@pytest.mark.parametrize("knowledge", KNOWLEDGE)
def test_steps_on_selected_rows(knowledge, labels_on):
    module = module_of(KNOWLEDGE[knowledge], labels_on=labels_on)
    assert_counted(module, step(module, batch(), Plan(rows=torch.tensor([0, 3, 5]))))


@pytest.mark.parametrize("labels_on", ["selected", "all"])
@pytest.mark.parametrize("at", ["labelled", "all"])
def test_steps_on_text(at, labels_on):
    module = text_module(at, labels_on)
    assert_counted(module, step(module, test_student.batch(), Plan(rows=torch.tensor([0, 3, 5]))))


@pytest.mark.parametrize("rule", [adoption.hard, adoption.soft, adoption.ensemble, adoption.least_uncertain])
@pytest.mark.parametrize("labels_on", ["selected", "all"])
def test_several_teachers_and_weighed_terms(rule, labels_on):
    module = module_of(KNOWLEDGE["pkd"], teachers=2, labels_on=labels_on)
    weigh = functools.partial(weighing.uncertainty, certain=["soft"], uncertain=["patient"])
    plan = Plan(rows=torch.tensor([0, 1, 3, 5]), adopt=rule, weigh=weigh)
    assert_counted(module, step(module, batch(), plan))


def select(arm: Any, **more: Any) -> Select:
    selector = RowSelector({"arm": arm}, Fixed(["arm"]), 0.5, 10, 0)
    selector.arm = "arm"
    return Select(selector, **more)


@needs("features")
def by_feature(evidence: Evidence) -> torch.Tensor:
    """A strategy on features without a product of its own (density has one, which the ledger leaves out)."""
    assert evidence.features is not None
    return evidence.features[:, 0].double()


STRATEGIES = {
    "random": strategies.random, "entropy": strategies.entropy, "gradient_norm": strategies.gradient_norm, "by_feature": by_feature,
}  # fmt: skip


SELECTIONS = [
    f"{name}, {stage}, {on}" for name in STRATEGIES for stage in ("text", "task") for on in ("selected", "all")
]
# by day each strategy with labels on the rows selected in one stage and on all rows in the other, in turn
BY_DAY = [
    f"{name}, {stage}, {('selected', 'all')[(number + (stage == 'task')) % 2]}"
    for number, name in enumerate(STRATEGIES)
    for stage in ("text", "task")
]


@pytest.mark.parametrize("case", each_time(SELECTIONS, *BY_DAY))
def test_selection_and_its_step(case):
    strategy, stage, labels_on = case.split(", ")
    if stage == "text":
        module, b = text_module(labels_on=labels_on), test_student.batch()
    else:
        module, b = module_of(KNOWLEDGE["response"], labels_on=labels_on), batch()
    b.plan = Plan()

    def run() -> torch.Tensor:
        select(STRATEGIES[strategy]).answer(module, b, 0)
        return module.training_step(b, 0)

    assert_counted(module, run)


def test_an_early_exit():
    module, b = module_of(KNOWLEDGE["response"]), batch()
    b.plan = Plan()
    choice = select(strategies.entropy, forward=EarlyExit(1))
    assert set(assert_counted(module, lambda: choice.answer(module, b, 0))) == {"scoring", "total", "all_data"}


@pytest.mark.parametrize("kd", [False, True])
@pytest.mark.parametrize("knowledge", ["response", "tinybert", "distilbert", "pkd"])
def test_observations_of_a_task(knowledge, kd):
    module = module_of(KNOWLEDGE[knowledge], width=16)
    assert ("teacher_forward" in observed_parts(module, batch(), kd)) == kd


@pytest.mark.parametrize("kd", [False, True])
@pytest.mark.parametrize("at", ["labelled", "all"])
def test_observations_of_text(at, kd):
    assert ("teacher_forward" in observed_parts(text_module(at), test_student.batch(), kd)) == kd


def observed_parts(module: StudentModule, b: Batch, kd: bool) -> dict[str, int]:
    """The ledger's parts of two observations of `b`, equal to torch's count."""
    observer = LossObserver(module, lambda: [b], kd)

    def run() -> None:
        observer(), observer()

    return assert_counted(module, run)
