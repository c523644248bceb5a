"""The first step of a run: make its data, its teachers and all that must be trained before it; the same on every rank."""

from __future__ import annotations

import logging
import os
import uuid
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdlab.config.saved import RUN_FOLDER, STARTED_IN
from kdlab.config.schema import Config
from kdlab.errors import UserError
from kdlab.models.loading import silence_transformers
from kdlab.modules.student import StudentModule
from kdlab.plugins import own_modules
from kdlab.runs import budget, folders
from kdlab.runs.budget import BudgetPlan
from kdlab.runs.process import notify
from kdlab.runtime.ledger import Ledger
from kdlab.stages import cache_plan, decision_callbacks, ksm_training, observation
from kdlab.stages.base import Stage
from kdlab.stages.components import Selection
from kdlab.stages.costs.step_costs import StepCosts
from kdlab.stages.observation import Observations
from kdlab.storage import checkpoints
from kdlab.teachers.teacher import Teacher

# Warnings of libraries about what kdlab handles itself or a user cannot change.
IGNORED_WARNINGS = (
    ".*does not have many workers.*",
    ".*dataloader is not resumable.*",
    ".*in eval mode at the start.*",
    ".*LeafSpec.*",
    ".*tensorboardX.*",
    ".*FSDP2-wrapped module.*returned a view tensor.*",  # nothing changes the states of `Encoder.encode` in place
    ".*val_dataloader.*but have no `validation_step`.*",  # a callback evaluates the student
)
UNLIMITED = 2**50  # micro-batches of a training that its budget alone ends


@dataclass
class PreparedRun:
    """A run before its training: what the steps callbacks, train and finish share."""

    config: Config
    resolved: dict[str, Any]  # `config` in plain containers, as in config.yaml
    overrides: list[str]  # of the command line, recorded in result.json
    folder: Path
    stage: Stage
    devices: int  # processes of the run on one machine
    world: int  # processes of the run on all machines
    data: Any  # the LightningDataModule
    ledger: Ledger
    teachers: list[Teacher]
    module: StudentModule
    baselines: dict[str, dict[str, float]]  # scores by metric of each baseline
    observations: Observations | None  # of an adaptive selection policy
    weighing: Selection | None  # weighing rules and their policy; None: constant term weights
    ksm_log: Path | None  # ksm.csv of the module that weighs the terms
    plan: BudgetPlan | None  # of the budget; None: there is none
    step_costs: StepCosts | None  # of a run with a budget
    identity: dict[str, Any]  # name, seed, run id and caveats, in result.json whatever its status
    checkpoint: Path | None  # to resume from

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.module.total_steps


def prepare(config: Config, resolved: dict[str, Any], folder: Path, overrides: list[str], stage: Stage) -> PreparedRun:
    """Train the teachers, baselines and modules that are missing, build the student, find the checkpoint to resume from.

    Creates `folder`. UserError for inputs that cannot be used.
    """
    trainer = config.trainer
    devices = device_count(trainer.accelerator, trainer.devices)
    world = devices * trainer.num_nodes
    torch.set_num_threads(threads_of(trainer.threads, devices))

    resumes = config.resume and not config.overwrite and folders.same_run(folder, resolved)
    stage.inputs.caveats.open(folders.caveats(folder) if resumes else ())
    data = stage.inputs.data_module(most_batches(config), trainer.max_epochs)
    batches = data.sampler(0, world).batches
    _say_what_is_kept(stage, world, len(data.train))
    ledger = Ledger(len(data.train), stage.inputs.fixed_inputs)
    plan, step_costs, teachers = None, None, []
    if config.budget.given:
        step_costs = StepCosts(stage, stage.module_without_weights(), data, world)
        budget.check_step(stage, step_costs)  # before a teacher is made
        teachers = stage.teachers(ledger)
        plan = budget.plan(stage, step_costs, teachers, ledger, folder, resumes)
        batches = min(batches, plan.steps * trainer.accumulate)
        data = stage.inputs.data_module(batches, None)
    observations = observation.plan(stage, world, -(-batches // trainer.accumulate))
    if step_costs is not None:
        step_costs.observe(config.select)  # their interval depends on the number of steps
    caches = cache_plan.plan(stage, data, batches, world)
    teachers = teachers or stage.teachers(ledger)
    baselines = stage.baselines(batches, world)
    weighing, ksm_log = ksm_training.weighing(stage, batches, world, partial(cache_plan.attach, stage, caches))
    module = stage.student_module(stage.student(*teachers), teachers, ledger, -(-batches // trainer.accumulate))
    _say_what_trains(config, module)

    folder.mkdir(parents=True, exist_ok=True)
    run_id = (folders.run_id(folder) if resumes else None) or uuid.uuid4().hex
    cache_plan.attach(stage, caches, teachers, ledger, len(data.train), run_id)
    return PreparedRun(
        config,
        resolved,
        overrides,
        folder,
        stage,
        devices,
        world,
        data,
        ledger,
        teachers,
        module,
        baselines,
        observations,
        weighing,
        ksm_log,
        plan,
        step_costs,
        _identity(stage, folder, run_id),
        checkpoints.newest_valid(folder / "checkpoints", notify) if resumes else None,
    )


def _say_what_is_kept(stage: Stage, world: int, rows: int) -> None:
    """Print a line where a ratio keeps less than a row of a batch, and one on what stale scores keep of `rows` rows."""
    config = stage.config
    batch_size = config.data.batch_size * (world if config.select.scope == "global" else 1)
    if config.select.unit != "position" and config.select.ratio * batch_size < 1:
        notify(f"select.ratio={config.select.ratio} of a batch is less than one row: one row of each batch is kept")
    if config.select.scoring == "stale" and config.select.ratio < 1:
        arms, width, outputs = stage.selection().arms, stage.inputs.student_shape.width, stage.inputs.example[0]
        if line := decision_callbacks.stale_line(arms, config.select.balance, rows, width, outputs):
            notify(line)


def _say_what_trains(config: Config, module: StudentModule) -> None:
    """Print a line on the size of the adapters, where these train in place of the student's weights."""
    if config.student.lora.rank is not None:
        trained = sum(p.numel() for p in module.student.parameters() if p.requires_grad)
        whole = sum(p.numel() for p in module.student.parameters())
        notify(f"student.lora.rank={config.student.lora.rank}: {trained:,} of {whole:,} parameters train")


def _identity(stage: Stage, folder: Path, run_id: str) -> dict[str, Any]:
    """The entries of result.json that a run has from its start on."""
    return {
        "name": stage.config.name,
        "seed": stage.config.seed,
        "run": run_id,
        STARTED_IN: str(Path.cwd()),
        RUN_FOLDER: os.path.relpath(folder),
        **({folders.CODE: code} if (code := own_modules.records()) else {}),
        "caveats": stage.inputs.caveats.entries,
    }


def most_batches(config: Config) -> int | None:
    """Micro-batches of the training by trainer.max_steps; None where its epochs alone limit it."""
    trainer = config.trainer
    if trainer.max_steps is None:
        return UNLIMITED if trainer.max_epochs is None else None
    return trainer.max_steps * trainer.accumulate


def device_count(accelerator: str, devices: int | str) -> int:
    """Processes that a run starts on one machine: `devices`, or every GPU for "auto". UserError for GPUs that are missing."""
    gpus = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    if devices == "auto":
        return max(1, gpus)
    if accelerator in ("gpu", "cuda") and gpus == 0:
        raise UserError(f"trainer.accelerator={accelerator}: no GPU found; trainer.accelerator=cpu runs without")
    if gpus and int(devices) > gpus:
        raise UserError(f"trainer.devices={devices}: this machine has {gpus} GPUs")
    return int(devices)


def threads_of(threads: int | None, devices: int) -> int:
    """CPU threads of one process: trainer.threads, else OMP_NUM_THREADS (set by a sweep), else its share of the cores."""
    share = os.environ.get("OMP_NUM_THREADS", "")
    return threads or (int(share) if share.isdigit() else 0) or max(1, (os.cpu_count() or 1) // devices)


def quiet_libraries() -> None:
    """Silence messages of Lightning and transformers that a user of kdlab cannot act on."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    silence_transformers()
    for text in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=text)
