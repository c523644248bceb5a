"""Training what a run needs first (teachers, assistants, baselines), and what each of these stages cost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy

from kdlab.callbacks.nonfinite import NonFiniteGuard
from kdlab.callbacks.progress import ProgressCallback
from kdlab.modules.distiller import Distiller
from kdlab.storage.artifacts import ArtifactStore
from kdlab.storage.files import atomic_write_json

COST = "cost.json"  # in an artifact that was trained: what that cost


class NoProfiler(PassThroughProfiler):
    """Measures nothing, by one object that is always the same: Lightning asks a hundred times a step."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.nothing


# Lightning without what kdlab does itself: order of the data, checkpoints, tables, evaluation.
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "use_distributed_sampler": False,
    "profiler": NoProfiler(),
}


def fit(
    module: Distiller,
    data: Any,
    steps: int,
    what: str,
    *callbacks: pl.Callback,
    accelerator: str,
    accumulate: int = 1,
    precision: str = "32-true",
) -> dict[str, Any]:
    """Train something that a run needs first: one process, no checkpoints, whatever the run itself uses.

    The module's ledger counts. Returns the cost: `steps`, teacher `queries` (rows; `cached` others
    were answered from a cache), model `flops`, `seconds` of training.
    """
    ledger = module.ledger
    assert ledger is not None
    device = first_device(accelerator)
    trainer = pl.Trainer(
        accelerator="cpu" if device.type == "cpu" else "gpu",  # else Lightning takes a GPU wherever it sees one
        strategy=SingleDeviceStrategy(device=device),
        precision=precision,  # pyright: ignore[reportArgumentType]
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        max_epochs=1,
        callbacks=[NonFiniteGuard(), *callbacks, ProgressCallback(steps, ledger, None, what)],
        **QUIET,
    )
    started = time.perf_counter()
    trainer.fit(module, train_dataloaders=data.train_dataloader())
    seconds = time.perf_counter() - started
    totals = ledger.totals()
    module.to(trainer.strategy.root_device)  # Lightning has moved it to the CPU; it is measured next
    module.ledger = None  # what is measured next is no cost of training
    return {
        "steps": steps,
        "queries": totals["teacher_queries"]["total"],
        "cached": totals["teacher_queries"]["cached"],
        "flops": totals["flops"]["total"],
        "seconds": seconds,
    }


class Preparation:
    """The stages that a run rests on, each in the artifact store with what it cost."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self._stages: dict[Path, dict[str, Any]] = {}

    def get(
        self, kind: str, parts: Mapping[str, Any], build: Callable[[Path], dict[str, Any]], what: str, stage: str
    ) -> Path:
        """The folder of a trained artifact, as `ArtifactStore.get`; `build` returns what the training cost, and `stage` is what
        tables call it."""
        made_now = []

        def build_and_count(out: Path) -> None:
            atomic_write_json(out / COST, build(out))
            made_now.append(True)

        folder = self.store.get(kind, parts, build_and_count, what)
        cost = read_json(folder / COST) if (folder / COST).is_file() else {}  # older ones have none
        before = self._stages.get(folder, {"made_now": False})
        self._stages[folder] = {
            "what": stage,
            "made_now": bool(made_now) or before["made_now"],
            **{name: cost.get(name) for name in ("queries", "cached", "flops", "seconds", "steps")},
        }
        return folder

    def stages(self) -> list[dict[str, Any]]:
        """What the run rests on, in the order in which it was needed: `what`, `made_now` (by this process; otherwise it
        was found), `queries`, `cached`, `flops`, `seconds`, `steps` (None: made by a kdlab that did not count)."""
        return [dict(stage) for stage in self._stages.values()]


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def precision_of(given: str, accelerator: str) -> str:
    """`given`, or for "auto" bf16-mixed where the device multiplies bfloat16 natively (about twice as fast), else 32-true."""
    if given != "auto":
        return given
    if accelerator != "cpu" and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public way to ask
        native = any(getattr(torch.cpu, name, bool)() for name in names)
    return "bf16-mixed" if native else "32-true"


def first_device(accelerator: str) -> torch.device:
    """Where one process trains: this rank's GPU where there is one and it is wanted, else the CPU."""
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if gpu else torch.device("cpu")
