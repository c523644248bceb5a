"""One run, from a checked configuration to a finished run folder: prepare, callbacks, train, finish."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from kdlab.config.schema import Config
from kdlab.errors import UserError
from kdlab.modules.checkpoint_io import AtomicCheckpointIO
from kdlab.modules.evaluation import over_splits
from kdlab.modules.lightning_options import PLAIN_TRAINER
from kdlab.plotting import run_figures
from kdlab.runs import callbacks, failures, folders
from kdlab.runs.callbacks import RunCallbacks
from kdlab.runs.loggers import base
from kdlab.runs.model_card import card
from kdlab.runs.prepare import PreparedRun, device_count, prepare, quiet_libraries
from kdlab.runs.process import FOLDER, is_first_process, notify
from kdlab.runs.record import RunRecord
from kdlab.runs.result import result_of
from kdlab.runs.summary import beside_random, table
from kdlab.runtime import distributed, signals
from kdlab.stages.base import Stage
from kdlab.stages.registry import stage_of
from kdlab.stages.validation import check
from kdlab.storage.files import atomic_write_json, atomic_write_text, native_errors, user_errors


def start(config: Config, resolved: dict[str, Any], folder: Path, chosen: bool, overrides: list[str]) -> int:
    """Check the machine and the inputs, choose the run folder, and run; on rank 0. Returns the exit code.

    `folder` is the configuration's, `chosen` whether the user named it; `resolved` is `config` in plain containers.
    UserError before anything is loaded or written.
    """
    check_machine(config)
    resumes = False
    if not config.overwrite:
        folder, resumes = folders.choose(resolved, folder, chosen, False, config.resume)
    stage = stage_of(config, notify)
    check(stage)
    if config.overwrite:  # only now: a mistake in the new command must not delete the old run
        folder, resumes = folders.choose(resolved, folder, chosen, True, config.resume)
    notify(config.scale.says)
    if resumes:
        notify(f"resuming the unfinished run in {folder} (resume=false starts anew)")
    os.environ[FOLDER] = str(folder)
    return run(config, resolved, folder, overrides, stage)


def check_machine(config: Config) -> None:
    """UserError for devices, a sharded teacher or a logger that cannot be used on this machine."""
    devices = device_count(config.trainer.accelerator, config.trainer.devices)
    if config.trainer.shard_teacher and devices * config.trainer.num_nodes == 1:
        raise UserError(
            f"trainer.shard_teacher=true: a teacher is shared out over several GPUs or processes, and trainer.devices="
            f"{config.trainer.devices} is one here; for example trainer.devices=2"
        )
    base.check(config)


def run(
    config: Config, resolved: dict[str, Any], folder: Path, overrides: list[str], stage: Stage | None = None
) -> int:
    """Prepare what is missing, train, evaluate, and write the run folder; on every rank. Returns the exit code."""
    quiet_libraries()
    if failures.is_child_rank():
        failures.end_with_parent()
    prepared = prepare(config, resolved, folder, overrides, stage or stage_of(config, notify))
    main = is_first_process()
    record = RunRecord(prepared, main)
    built = callbacks.build(prepared, record)
    record.open(built.columns)
    trainer = trainer_of(prepared, built.in_order())
    record.logger = trainer.logger
    # close the logger last: it may outlast the timeout for a failed rank
    with (
        base.closing(trainer.logger),
        failures.recorded_failure(folder, prepared.identity, trainer.strategy.launcher, prepared.world, main),
    ):
        train(prepared, trainer)
        finish(prepared, built, trainer)
    return 0


def trainer_of(prepared: PreparedRun, ordered: list[pl.Callback]) -> pl.Trainer:
    """Lightning's trainer for the run, with these callbacks."""
    config, trainer = prepared.config, prepared.config.trainer
    ddp = "ddp_find_unused_parameters_true" if prepared.module.has_idle_parameters else "ddp"
    return pl.Trainer(
        accelerator=trainer.accelerator if trainer.accelerator != "auto" or torch.cuda.is_available() else "cpu",
        devices=prepared.devices,
        num_nodes=trainer.num_nodes,
        strategy=ddp if prepared.world > 1 else "auto",
        precision=prepared.stage.inputs.precision,  # pyright: ignore[reportArgumentType]
        max_steps=prepared.total_steps,
        max_epochs=1,
        accumulate_grad_batches=trainer.accumulate,
        callbacks=ordered,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=prepared.folder,
        **{**PLAIN_TRAINER, "logger": base.logger_of(config, prepared.folder, prepared.resolved)},
    )


def train(prepared: PreparedRun, trainer: pl.Trainer) -> None:
    """Train the module, from its checkpoint if there is one. `Stopped` or KeyboardInterrupt where a signal ended it."""
    with signals.defer_signals():
        trainer.fit(prepared.module, datamodule=prepared.data, ckpt_path=prepared.checkpoint, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    prepared.module.to(trainer.strategy.root_device)  # Lightning has moved it to the CPU, but not the teachers


def finish(prepared: PreparedRun, built: RunCallbacks, trainer: pl.Trainer) -> None:
    """Evaluate (collective); on rank 0 write student/, result.json and figures/, and print the summary."""
    stage, module, data, folder = prepared.stage, prepared.module, prepared.data, prepared.folder
    metrics = {
        "student": built.evaluation.last or over_splits(module.evaluate, data.heldout_splits(final=True)),
        **(stage.teachers_on_heldout(module, prepared.teachers, data) if prepared.teachers else {}),
        **prepared.baselines,
    }
    totals = prepared.ledger.totals()
    probes = [seconds for seconds in distributed.gather_objects(built.cost.probe_seconds) if seconds]
    if distributed.rank() != 0:
        return
    with user_errors("writing the student", folder), native_errors():
        module.student.model.save_pretrained(folder / "student")
        stage.inputs.tokenizer.save_pretrained(folder / "student")
    result = result_of(stage, module, metrics, totals, probes, prepared.world, prepared.overrides)
    result["events"] = dict(built.guard.counts)
    result["checkpoints"] = built.checkpoint.cost(totals["seconds"])
    atomic_write_text(folder / "student" / "README.md", card(result))
    atomic_write_json(folder / "result.json", result)
    run_figures.draw(folder)
    base.complete(prepared.config, trainer.logger, folder, result)
    print(table(result, folder, beside_random(result, folder)), flush=True)
