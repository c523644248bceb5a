"""Prerequisites of a run that are trained first (teachers, assistants, KSMs, baselines), and the cost of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import SingleDeviceStrategy

from kdlab.callbacks.checkpoint import CheckpointCallback, LedgerState
from kdlab.callbacks.nonfinite import NonFiniteGuard
from kdlab.callbacks.progress import ProgressCallback
from kdlab.models import loading
from kdlab.modules.assistant import AssistantModule
from kdlab.modules.checkpoint_io import AtomicCheckpointIO
from kdlab.modules.lightning_options import PLAIN_TRAINER, with_short_steps, without_idle_hooks
from kdlab.modules.student import StudentModule
from kdlab.modules.teacher import TeacherModule
from kdlab.runtime import signals
from kdlab.runtime.devices import first_device
from kdlab.storage import checkpoints
from kdlab.storage.artifacts import ABOUT, COST, ArtifactStore
from kdlab.storage.files import atomic_write_json, read_json

# parts of names of a config's fields that change a forward or a training of the same weights
FORWARD_FIELDS = ("dropout", "heads", "activation", "hidden_act", "norm_eps")


@dataclass(frozen=True)
class Saving:
    """Checkpoints of a training in `folder`, from the newest of which it goes on; `every` so many optimizer steps, or where
    that is None as the schedule of runs says (`CheckpointSchedule`). `notify` takes one line."""

    folder: Path
    every: int | None
    notify: Callable[[str], None]


@dataclass
class Training:
    """A training of a prerequisite that has not begun: `module` on `data` for `steps`, in a Lightning `precision`; `title`
    heads its progress bar."""

    module: StudentModule | TeacherModule | AssistantModule
    data: Any
    steps: int
    title: str
    precision: str = "32-true"

    def run(self, accelerator: str, saving: Saving | None = None) -> dict[str, Any]:
        """Train; returns the cost (`fit`)."""
        return fit(
            self.module, self.data, self.steps, self.title,
            accelerator=accelerator, precision=self.precision, saving=saving,
        )  # fmt: skip


def fit(
    module: StudentModule | TeacherModule | AssistantModule,
    data: Any,
    steps: int,
    title: str,
    *callbacks: pl.Callback,
    accelerator: str,
    accumulate: int = 1,
    precision: str = "32-true",
    saving: Saving | None = None,
) -> dict[str, Any]:
    """Train `module` on one process, whatever the run itself uses; `title` heads its progress bar. Without `saving` there
    are no checkpoints.

    Returns the cost by the module's ledger: optimizer `steps`, teacher `queries` (rows; `unique`: distinct inputs among
    them; `cached`: further rows answered from a cache), model `flops`, `seconds` of training.
    """
    ledger = module.ledger
    assert ledger is not None
    device = first_device(accelerator)
    guard, seconds = NonFiniteGuard(), LedgerState(ledger)
    last = (ProgressCallback(steps, ledger, None, title),)
    checkpoint = None
    if saving is not None:
        checkpoint = checkpoints.newest_valid(saving.folder, saving.notify)
        last = (CheckpointCallback(saving.folder, saving.every, steps, ledger, guard), *last)
    if checkpoint is not None and saving is not None:
        saving.notify(f"{title}: going on after step {checkpoints.step_of(checkpoint)}")
    trainer = pl.Trainer(
        accelerator="cpu" if device.type == "cpu" else "gpu",  # by default Lightning takes any GPU it finds
        strategy=SingleDeviceStrategy(device=device),
        precision=precision,  # pyright: ignore[reportArgumentType]
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        max_epochs=1,
        callbacks=without_idle_hooks([guard, seconds, *callbacks, *last]),
        plugins=[AtomicCheckpointIO()],
        **PLAIN_TRAINER,
    )
    with_short_steps(trainer)
    with signals.defer_signals() if saving is not None else nullcontext():
        trainer.fit(module, train_dataloaders=data.train_dataloader(), ckpt_path=checkpoint, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    totals = ledger.totals()
    module.to(trainer.strategy.root_device)  # Lightning has moved it to the CPU; its evaluation follows
    module.ledger = None  # the evaluation is no cost of training
    return {
        "steps": steps,
        "queries": totals["teacher_queries"]["total"],
        "unique": totals["teacher_queries"]["unique"],
        "cached": totals["teacher_queries"]["cached"],
        "flops": totals["flops"]["total"],
        "seconds": seconds.spent,
    }


class Preparation:
    """The trained prerequisites of a run: each an artifact of `store`, with its cost and the names that `about` gives for the
    config of the model it is made from (None: the main teacher's)."""

    def __init__(self, store: ArtifactStore, about: Callable[[Any], Mapping[str, Any]] = lambda config: {}) -> None:
        self.store, self.about = store, about
        self._stages: dict[Path, dict[str, Any]] = {}

    def get(
        self,
        kind: str,
        parts: Mapping[str, Any],
        build: Callable[[Path], dict[str, Any]],
        what: str,
        stage: str,
        baseline: bool = False,
        config: Any = None,
    ) -> Path:
        """Folder of a trained artifact, as `ArtifactStore.get`; `build` returns the cost of the training, `stage` is its
        title in tables. `baseline`: the run is compared with it and does not depend on it. `config`: of the model that
        the artifact, a model, is made from; `parts` identify its weights only, so an artifact of the same weights with
        other `FORWARD_FIELDS` (its dropout) is left alone, and this one has these fields in its key."""
        built = []

        def build_and_record(out: Path) -> None:
            atomic_write_json(out / COST, build(out))
            atomic_write_json(out / ABOUT, self.about(config))
            built.append(True)

        used = set(self.store.used)
        folder = self.store.get(kind, parts, build_and_record, what)
        if (
            config is not None
            and not built
            and forward_fields(loading.load_config(folder, causal=None)) != forward_fields(config)
        ):
            if (entry := f"{kind}/{folder.name}") not in used:
                self.store.used.pop(entry, None)
            folder = self.store.get(kind, {**parts, "config": forward_fields(config)}, build_and_record, what)
        self.record(folder, stage, bool(built), baseline)
        return folder

    def record(self, folder: Path, stage: str, made_now: bool = False, baseline: bool = False) -> None:
        """List a trained prerequisite that lies in `folder`, with the cost that is kept there."""
        cost = read_json(folder / COST) if (folder / COST).is_file() else {}  # older artifacts have none
        before = self._stages.get(folder, {"made_now": False})
        self._stages[folder] = {
            "what": stage,
            "made_now": made_now or before["made_now"],
            **({"baseline": True} if baseline else {}),
            **{name: cost.get(name) for name in ("queries", "cached", "flops", "seconds", "steps")},
        }

    def stages(self) -> list[dict[str, Any]]:
        """The prerequisites in the order of their use: `what`, `made_now` (trained by this process, not loaded),
        `queries`, `cached`, `flops`, `seconds`, `steps` (None: trained by a version that recorded no cost); and `baseline`,
        true, where the run does not depend on it."""
        return [dict(stage) for stage in self._stages.values()]


def forward_fields(config: Any) -> dict[str, Any]:
    """The `FORWARD_FIELDS` of a model's config, by name."""
    return {name: value for name, value in config.to_dict().items() if any(part in name for part in FORWARD_FIELDS)}
