"""The three LightningModules with a user's own `pl.Trainer`: no Hydra, no run folder, callbacks by choice."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback
from torch.utils.data import DataLoader

import kdlab
from kdlab.callbacks.select import Select
from kdlab.methods.knowledge.logits import label_loss, soft_loss
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.methods.selection.strategies import entropy
from kdlab.models.encoder import Encoder
from kdlab.modules.assistant import AssistantModule
from kdlab.modules.evaluation import TaskScore
from kdlab.modules.lightning_options import STEP_HOOKS, with_short_steps, without_idle_hooks
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.modules.teacher import TeacherModule
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.teacher import Teacher
from kdlab.types import TaskShape
from tests.unit.modules.test_student import batch as text_batch
from tests.unit.modules.test_student import distiller
from tests.unit.modules.test_student_tasks import CLASSES, batch, classifier

STEPS = 3
OPTIM = OptimizerSettings(lr=1e-2)
SHAPE = TaskShape(1, tuple(f"class {i}" for i in range(CLASSES)), ("accuracy",))

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]


def encoder(layers: int, seed: int = 0) -> Encoder:
    return Encoder(classifier("bert", layers, CLASSES, seed=seed).train())


def fit(module: pl.LightningModule, *callbacks: pl.Callback, text: bool = False) -> list[str]:
    """Train a few steps; the names of the parameters that have changed."""
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    rows = [text_batch() if text else batch() for _ in range(STEPS)]
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=STEPS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(module, train_dataloaders=DataLoader(rows, batch_size=None))  # pyright: ignore[reportArgumentType]
    assert trainer.global_step == STEPS
    return [name for name, p in module.named_parameters() if not torch.equal(p, before[name])]


def test_a_teacher_learns_from_labels():
    module = TeacherModule(encoder(2), OPTIM, STEPS, score=TaskScore(SHAPE))
    assert fit(module) and set(module.losses) == {"loss", "label"}
    assert 0 <= module.evaluate([batch()])["accuracy"] <= 1


def test_a_teacher_learns_from_masked_tokens():
    module = TeacherModule(distiller().student, OPTIM, STEPS)
    assert fit(module, text=True)
    assert set(module.evaluate([text_batch()])) == {"loss", "accuracy"}


def test_an_assistant_learns_from_its_teacher_which_stays_as_it_is():
    teacher = Teacher("teacher", encoder(4))
    weights = [p.clone() for p in teacher.encoder.parameters()]
    module = AssistantModule(encoder(2, seed=1), teacher, OPTIM, STEPS, temperature=2.0, label_weight=0.3)
    changed = fit(module)
    assert changed and all(name.startswith("assistant.model.") for name in changed)
    assert set(module.losses) == {"loss", "label", "soft"}
    assert all(torch.equal(a, b) for a, b in zip(teacher.encoder.parameters(), weights, strict=True))


@pytest.mark.parametrize("selects", [False, True])
def test_a_student_learns_from_its_teacher_on_selected_rows(selects):
    queried: list[int] = []
    teacher = Teacher("teacher", encoder(4), lambda name, rows, epoch: queried.append(len(rows)))
    terms = {"label": WeightedTerm(label_loss, 0.5), "soft": WeightedTerm(partial(soft_loss, temperature=2.0), 0.5)}
    module = StudentModule(
        encoder(2, seed=1), terms, OPTIM, STEPS, [teacher], Ledger(len(batch()), True), score=TaskScore(SHAPE)
    )
    select = Select(RowSelector({"entropy": entropy}, Fixed(["entropy"]), 0.5, STEPS, 0))
    changed = fit(module, *([select] if selects else []))
    assert changed and all(name.startswith("student.model.") for name in changed)
    assert queried == [len(batch()) // (2 if selects else 1)] * STEPS
    assert set(module.evaluate([batch()])) == {"loss", "accuracy", "score"}


def test_a_trainer_of_ones_own_takes_every_decision_by_public_names():
    """Select, Adopt and Weigh with strategies, rules and policies from `kdlab`, two teachers, a callback of the user's."""
    teachers = [kdlab.Teacher("small", encoder(2, seed=2)), kdlab.Teacher("large", encoder(4))]
    terms = {
        "label": kdlab.WeightedTerm(kdlab.terms.label_loss, 0.5),
        "soft": kdlab.WeightedTerm(kdlab.terms.soft_loss, 0.5),
    }
    module = kdlab.StudentModule(encoder(2, seed=1), terms, OPTIM, STEPS, teachers, score=kdlab.TaskScore(SHAPE))
    observe = kdlab.LossObserver(module, lambda: iter([batch()]))
    written: list[dict] = []
    select = kdlab.Select(
        kdlab.Selector("adads", ratio=0.5, total_steps=STEPS, observe=observe, interval=1, write=written.append)
    )
    fixed = kdlab.policies.Fixed
    adopt = kdlab.Adopt(kdlab.ArmSelector("adopt", {"hard": kdlab.adoption.hard}, fixed(["hard"]), STEPS, 1))
    weighing = partial(kdlab.weighing.uncertainty, certain=["label"], uncertain=["soft"])
    weigh = kdlab.Weigh(kdlab.ArmSelector("weigh", {"by": weighing}, fixed(["by"]), STEPS, 1))
    losses: list[float] = []
    mine = LambdaCallback(on_train_batch_end=lambda trainer, module, *_: losses.append(float(module.losses["loss"])))
    assert fit(module, select, adopt, weigh, mine)
    assert len(losses) == STEPS and [row["step"] for row in written] == list(range(STEPS))
    assert {"small", "large"} == set(module.teacher_names) and module.decisions


def test_a_teacher_of_other_classes_is_refused():
    other = Encoder(classifier("bert", 2, CLASSES + 2).train())
    terms = {"soft": WeightedTerm(partial(soft_loss, temperature=2.0), 1.0)}
    with pytest.raises(
        kdlab.UserError, match=f"the teacher big predicts {CLASSES + 2} classes, and the student {CLASSES}"
    ):
        StudentModule(encoder(2), terms, OPTIM, STEPS, [Teacher("big", other)])


def test_only_the_hooks_that_do_nothing_are_left_out():
    """The others are called as before, those that are set on an object too."""
    called: list[str] = []

    class Ends(pl.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            called.append("end")

    class EndsToo(Ends):
        pass

    starts = LambdaCallback(on_train_batch_start=lambda *_: called.append("start"))
    given = [Ends(), EndsToo(), starts, pl.Callback()]
    callbacks = without_idle_hooks(given)
    assert callbacks == given
    kept = [[hook for hook in STEP_HOOKS if getattr(one, hook) is not None] for one in callbacks]
    assert kept == [["on_train_batch_end"], ["on_train_batch_end"], ["on_train_batch_start"], []]
    assert fit(TeacherModule(encoder(2), OPTIM, STEPS, score=TaskScore(SHAPE)), *callbacks)
    assert called == ["start", "end", "end"] * STEPS


class Recording(pl.Callback):
    """Notes each hook of a step, with the step; and logs a number by Lightning."""

    def __init__(self) -> None:
        self.called: list[tuple[str, int]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.called.append(("start", batch_idx))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.called.append(("update", trainer.global_step))

    def on_validation_start(self, trainer, pl_module) -> None:
        self.called.append(("validation", trainer.global_step))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        pl_module.log("mine", float(batch_idx), batch_size=1)
        self.called.append(("end", trainer.global_step))


class Validated(TeacherModule):
    """A module of the user's own, which validates."""

    def validation_step(self, batch, batch_idx) -> None:
        self.validated = getattr(self, "validated", 0) + 1


class WithoutNumber(Validated):
    """Its step takes no number of the batch."""

    def training_step(self, batch):  # pyright: ignore[reportIncompatibleMethodOverride]
        return TeacherModule.training_step(self, batch, 0)


@pytest.mark.parametrize("limit", [0, 1])
@pytest.mark.parametrize("kind", [Validated, WithoutNumber])
def test_the_loop_with_short_steps_does_what_lightnings_does(kind, limit):
    """The same hooks in the same order, numbers that are logged, validation, weights; with accumulation."""

    def train(short: bool) -> tuple[Any, ...]:
        torch.manual_seed(0)
        module, recording = kind(encoder(2), OPTIM, STEPS, score=TaskScore(SHAPE)), Recording()
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=STEPS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[recording], accumulate_grad_batches=2, limit_val_batches=limit,
            val_check_interval=2, num_sanity_val_steps=0,
        )  # fmt: skip
        assert not short or with_short_steps(trainer) is trainer
        loaders = [DataLoader([batch() for _ in range(7)], batch_size=None) for _ in range(2)]  # pyright: ignore
        trainer.fit(module, loaders[0], loaders[1])
        weights = {name: p.detach().numpy().tobytes() for name, p in module.named_parameters()}
        done = trainer.global_step, trainer.fit_loop.epoch_loop.batch_progress.state_dict()
        return recording.called, dict(trainer.logged_metrics), getattr(module, "validated", 0), done, weights

    found, wanted = train(True), train(False)
    assert found == wanted
    assert (wanted[2] > 0) == (limit > 0) and wanted[1].keys() == {"mine"} and wanted[3][0] == STEPS


@pytest.mark.filterwarnings("ignore:You have overridden")
def test_transfer_hooks_of_ones_own_are_called():
    """Of the module, of its class, of a data module; without one a batch is only moved."""
    called: list[str] = []

    class Rows(pl.LightningDataModule):
        def train_dataloader(self):
            return DataLoader([batch() for _ in range(STEPS)], batch_size=None)  # pyright: ignore

    class MyRows(Rows):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            called.append("data")
            return batch

    class MyModule(TeacherModule):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            called.append("module")
            return batch

    def train(module: TeacherModule, rows: pl.LightningDataModule) -> list[str]:
        called.clear()
        pl.Trainer(
            accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, datamodule=rows)  # fmt: skip
        return list(called)

    given = (OPTIM, STEPS)
    assert train(TeacherModule(encoder(2), *given, score=TaskScore(SHAPE)), Rows()) == []
    assert train(TeacherModule(encoder(2), *given, score=TaskScore(SHAPE)), MyRows()) == ["data"]
    assert train(MyModule(encoder(2), *given, score=TaskScore(SHAPE)), MyRows()) == ["module", "data"]
    moved = TeacherModule(encoder(2), *given, score=TaskScore(SHAPE))._call_batch_hook(
        "transfer_batch_to_device", batch(), torch.device("meta"), 0
    )
    assert moved.input_ids.device.type == "meta"
