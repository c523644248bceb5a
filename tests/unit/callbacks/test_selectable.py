"""`Select` on LightningModules of one's own: the protocol, batches of every form, the step that gets the rows kept."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import BatchEncoding

import kdlab
from kdlab.callbacks.adopt import Adopt
from kdlab.methods.selection.arm_selector import ArmSelector
from kdlab.methods.selection.policies import Fixed
from kdlab.types import Batch

STEPS, ROWS = 6, 8

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*_pytree"),
]


class Pair(NamedTuple):
    inputs: torch.Tensor
    labels: torch.Tensor


FORMS = {
    "dict": lambda inputs, labels: {"inputs": inputs, "labels": labels, "names": ["x"] * len(inputs), "note": "same"},
    "tuple": lambda inputs, labels: (inputs, labels),
    "list": lambda inputs, labels: [inputs, labels],
    "named": Pair,
}


class Own(pl.LightningModule):
    """A classifier that records the rows of each step."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.form = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.0), nn.Linear(8, 3)), form
        self.trained: list[list[list[float]]] = []
        self.modes: list[bool] = []

    def parts(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return (batch["inputs"], batch["labels"]) if self.form == "dict" else (batch[0], batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        assert self.training and type(batch) is type(FORMS[self.form](*self.parts(batch)))
        inputs, labels = self.parts(batch)
        self.trained.append(inputs.tolist())
        return nn.functional.cross_entropy(self.net(inputs), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def show_rows(self, batch: Any) -> kdlab.Evidence:
        self.modes.append(self.net[1].training or torch.is_grad_enabled())
        inputs, labels = self.parts(batch)
        return kdlab.Evidence(logits=self.net(inputs), features=self.net[0](inputs), labels=labels)

    def take_rows(self, batch: Any, rows: torch.Tensor) -> Any:
        return kdlab.take_rows(batch, rows)


def batches(form: str) -> list[Any]:
    rng = torch.Generator().manual_seed(1)
    return [
        FORMS[form](torch.randn(ROWS, 4, generator=rng), torch.randint(0, 3, (ROWS,), generator=rng))
        for _ in range(STEPS)
    ]


def fit(module: pl.LightningModule, form: str, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), **options,
    )  # fmt: skip
    rows = DataLoader(batches(form), batch_size=None, collate_fn=lambda batch: batch)  # pyright: ignore
    trainer.fit(module, rows)
    return trainer


def selector(name: str = "adads", **more: Any) -> kdlab.Selector:
    losses = iter([3.0, 2.0, 1.5, 0.5, 0.4, 0.1])
    return kdlab.Selector(name, ratio=0.25, total_steps=STEPS, observe=lambda: next(losses), interval=1, **more)


@pytest.mark.parametrize("form", FORMS)
def test_a_step_gets_the_rows_that_the_same_selector_keeps_in_a_bare_loop(form):
    module, own = Own(form), selector()
    fit(module, form, kdlab.Select(own))
    assert module.modes == [False] * STEPS
    assert "training_step" not in module.__dict__  # its own step again

    bare, twin = selector(), Own(form)
    optimizer = twin.configure_optimizers()
    for step, batch in enumerate(batches(form)):
        twin.eval()
        with torch.no_grad():
            shown = twin.show_rows(batch)
        twin.train()
        rows = bare.rows(step, logits=shown.logits, features=shown.features, labels=shown.labels)
        assert module.trained[step] == twin.parts(batch)[0][rows].tolist() and len(rows) == 2
        optimizer.zero_grad()
        twin.training_step(twin.take_rows(batch, rows), step).backward()
        optimizer.step()
    assert {**bare.state_dict(), "step": None} == {**own.state_dict(), "step": None}


def test_every_row_is_trained_at_ratio_1():
    module = Own("tuple")
    fit(module, "tuple", kdlab.Select(kdlab.Selector("random", ratio=1.0, total_steps=STEPS)))
    assert [len(rows) for rows in module.trained] == [ROWS] * STEPS and module.modes == []


def test_accumulated_micro_batches_share_a_decision():
    written: list[dict[str, Any]] = []
    module = Own("tuple")
    fit(module, "tuple", kdlab.Select(selector(write=written.append)), accumulate_grad_batches=3)
    assert [row["step"] for row in written] == [0, 1] and len(module.trained) == STEPS


def test_a_checkpoint_of_the_trainer_has_the_state_of_the_policy(tmp_path):
    trainer = fit(Own("tuple"), "tuple", kdlab.Select(own := selector()))
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    state = torch.load(tmp_path / "saved.ckpt", weights_only=True)["callbacks"]["Select"]
    assert state == own.state_dict() and state["reward"]["observations"]


def test_a_module_whose_step_fails_has_its_own_step_again():
    module = Own("tuple")
    module.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.0), nn.Linear(8, 1))  # labels above its one class
    with pytest.raises((IndexError, RuntimeError)):
        fit(module, "tuple", kdlab.Select(kdlab.Selector("random", total_steps=STEPS)))
    assert "training_step" not in module.__dict__


# ---- mistakes


def test_a_module_without_the_protocol_is_refused_by_the_names_that_it_lacks():
    module = Own("tuple")
    assert isinstance(module, kdlab.SelectableModule)
    assert not isinstance(pl.LightningModule(), kdlab.SelectableModule)

    class Without(pl.LightningModule):
        training_step, configure_optimizers, net = Own.training_step, Own.configure_optimizers, nn.Linear(1, 1)

    with pytest.raises(kdlab.UserError, match=r"Without has no show_rows and no take_rows \(docs/python.md\)"):
        fit(Without(), "tuple", kdlab.Select(kdlab.Selector("random", total_steps=STEPS)))


def test_a_policy_without_an_observation_is_refused_before_the_first_step():
    module = Own("tuple")
    with pytest.raises(kdlab.UserError, match="give observe="):
        fit(module, "tuple", kdlab.Select(kdlab.Selector("adads", total_steps=STEPS)))
    assert module.trained == []


def test_evidence_of_another_kind_is_refused(monkeypatch):
    module = Own("tuple")
    monkeypatch.setattr(Own, "show_rows", lambda self, batch: self.net(batch[0]))
    with pytest.raises(kdlab.UserError, match=r"Own.show_rows returned Tensor; give kdlab.Evidence"):
        fit(module, "tuple", kdlab.Select(kdlab.Selector("entropy", total_steps=STEPS)))
    monkeypatch.setattr(Own, "show_rows", lambda self, batch: kdlab.Evidence(logits=self.net(batch[0])))
    with pytest.raises(kdlab.UserError, match=r"Own.show_rows has no features, which the strategy density reads"):
        fit(module, "tuple", kdlab.Select(kdlab.Selector("density", total_steps=STEPS)))


def test_adoption_needs_a_student_module():
    with pytest.raises(
        kdlab.UserError, match="Adopt decides about the teachers of a kdlab.StudentModule, and Own is none"
    ):
        fit(Own("tuple"), "tuple", Adopt(ArmSelector("adopt", {"a": None}, Fixed(["a"]), STEPS, 0)))


# ---- rows of batches


def test_rows_of_batches_of_every_form():
    rows, inputs = torch.tensor([1, 3]), torch.arange(8.0).reshape(4, 2)
    taken = kdlab.take_rows({"x": inputs, "names": list("abcd"), "scale": 2.0, "deep": (inputs, torch.ones(()))}, rows)
    assert taken["x"].tolist() == [[2, 3], [6, 7]] and taken["names"] == ["b", "d"] and taken["scale"] == 2.0
    assert taken["deep"][0].shape == (2, 2) and taken["deep"][1] == 1
    assert kdlab.take_rows(inputs, rows).shape == (2, 2)
    assert isinstance(kdlab.take_rows(BatchEncoding({"input_ids": inputs}), rows), BatchEncoding)
    assert kdlab.take_rows(Pair(inputs, inputs[:, 0]), rows).labels.tolist() == [2, 6]
    ids = torch.ones(4, 5, dtype=torch.long)
    ours = Batch(torch.arange(4), 0, ids, ids, torch.arange(4), torch.ones(4, dtype=torch.bool))
    assert kdlab.take_rows(ours, rows).rows.tolist() == [1, 3]
    with pytest.raises(kdlab.UserError, match="a batch of type dict holds no tensor"):
        kdlab.take_rows({"names": list("abcd")}, rows)
