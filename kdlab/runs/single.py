"""One run, from a checked configuration to a finished run folder: prepare, callbacks, train, measure, finish, show."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from kdlab.config.saved import RUN_FOLDER, with_recipe_of
from kdlab.config.schema import Config
from kdlab.errors import UserError
from kdlab.modules.checkpoint_io import AtomicCheckpointIO
from kdlab.modules.lightning_options import PLAIN_TRAINER, with_short_steps, without_idle_hooks
from kdlab.modules.sharded_strategy import ShardedStudentStrategy
from kdlab.plotting import run_figures
from kdlab.runs import budget, callbacks, failures, finished, folders, keeping
from kdlab.runs.callbacks import RunCallbacks, collapse_watch
from kdlab.runs.closing import collapse, costs, held_out, learning, predictions
from kdlab.runs.closing.beside_random import beside_random
from kdlab.runs.closing.held_out import HeldOut
from kdlab.runs.closing.model_card import card
from kdlab.runs.closing.result import result_of
from kdlab.runs.closing.scores import is_saving
from kdlab.runs.closing.size import sizes
from kdlab.runs.closing.summary import table
from kdlab.runs.decoding import samples
from kdlab.runs.forecast import child, outcome, text
from kdlab.runs.forecast.forecast import forecast as forecast_of
from kdlab.runs.loggers import base
from kdlab.runs.prepare import PreparedRun, device_count, prepare, quiet_libraries
from kdlab.runs.process import FOLDER, STARTER, is_first_process, notify
from kdlab.runs.record import RunRecord
from kdlab.runtime import distributed, signals
from kdlab.runtime.signals import Stopped
from kdlab.stages.base import Stage
from kdlab.stages.registry import stage_of
from kdlab.stages.validation import check
from kdlab.storage.files import atomic_write_json, atomic_write_text, flush_tree, native_errors, user_errors


def start(
    config: Config,
    resolved: dict[str, Any],
    folder: Path,
    chosen: bool,
    overrides: list[str],
    present: Callable[[dict[str, Any], Path], None] | None = None,
    forecast: dict[str, Any] | None = None,
) -> int:
    """Check the machine and the inputs, choose the run folder, and run; on rank 0. Returns the exit code.

    `folder` is the configuration's, `chosen` whether the user named it; `resolved` is `config` in plain containers;
    `present`: as in `run`; `forecast`: of its cost, kept in the run folder unless the run is resumed with one. UserError before anything is loaded or written.
    """
    check_machine(config)
    given = (resolved, folder, chosen, config.overwrite, config.resume)
    finish_removals(folder, chosen)
    place, resumes = folders.choose(*given)
    _check_own_code(place, resumes, chosen)
    if resumes:
        resolved = with_recipe_of(place, resolved)
        config.teachers.take_recipe(resolved["teachers"])
        given = (resolved, *given[1:])
    keeping.check_models(config)
    stage = stage_of(config, notify)
    check(stage)
    budget.check(stage, device_count(config.trainer.accelerator, config.trainer.devices) * config.trainer.num_nodes)
    with folders.claimed(*given, notify) as (folder, resumes):
        _check_own_code(folder, resumes, chosen)
        notify(config.scale.says)
        if resumes:
            notify(f"resuming the unfinished run in {folder} (resume=false starts anew)")
        if forecast is not None and not (resumes and (folder / outcome.FILE).is_file()):
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write_json(folder / outcome.FILE, forecast)
        os.environ |= {FOLDER: str(folder), STARTER: str(os.getpid())}
        return run(config, resolved, folder, overrides, stage, present)


def finish_removals(folder: Path, chosen: bool) -> None:
    """Remove what a kill has left of removed parts (`keeping.finish`) in a run folder, or beside one that was not `chosen`."""
    runs = [folder] if chosen else sorted(folder.parent.iterdir()) if folder.parent.is_dir() else []
    for run in runs:
        if removed := keeping.finish(run):
            notify(f"removed what an interruption had left in {run}: {' and '.join(map(str, removed))}")


def plan_only(config: Config, resolved: dict[str, Any], folder: Path, chosen: bool, planned: bool = False) -> int:
    """Check all that `start` checks, print the plan of the run, and write nothing. Returns the exit code 0.

    `planned`: also forecast the cost, by a few steps that are timed.
    """
    check_machine(config)
    place, resumes = folders.choose(resolved, folder, chosen, config.overwrite, config.resume, notify)
    _check_own_code(place, resumes, chosen)
    keeping.check_models(config)
    stage = stage_of(config, notify)
    check(stage)
    trainer, select = config.trainer, config.select
    world = device_count(trainer.accelerator, trainer.devices) * trainer.num_nodes
    budget.check(stage, world)
    allowed = {f"budget.{kind}": amount for kind, amount in budget.asked(config.budget).items()}
    limits = {"steps": trainer.max_steps, "epochs": trainer.max_epochs}
    parts = [f"{count:,} {unit}" for unit, count in limits.items() if count is not None]
    length = " or ".join([*parts, *(f"{key}={amount:g}" for key, amount in allowed.items())])
    for line in (
        config.scale.says,
        f"data: {stage.inputs.data_name}; batches of {config.data.batch_size}, at most {length}",
        f"select={select.name}: {select.chosen()} query the teacher"
        if stage.inputs.queries_teacher
        else f"knowledge={config.knowledge.name}: no teacher",
        f"would {'resume' if resumes else 'write'} {place}",
        *([] if planned else ["--dry-run: the command is valid; nothing was trained or written"]),
    ):
        notify(line)
    if planned:
        found = forecast_of(stage, world)
        for line in text.lines(found):
            notify(line)
        child.hand_over(found)
    return 0


def _check_own_code(folder: Path, resumes: bool, chosen: bool) -> None:
    """UserError for a run that is to be resumed with other code of the user's own than it was begun with."""
    anew = "overwrite=true begins anew in this folder" if chosen else "resume=false begins anew"
    if resumes:
        folders.check_own_code(folder, f"it goes on with that file put back; {anew}")


def check_machine(config: Config) -> None:
    """UserError for devices, a sharded model or a logger that cannot be used on this machine."""
    trainer = config.trainer
    alone = device_count(trainer.accelerator, trainer.devices) * trainer.num_nodes == 1
    for who, given in (("teacher", trainer.shard_teacher), ("student", trainer.shard_student)):
        if given and alone:
            raise UserError(
                f"trainer.shard_{who}=true: a {who} is shared out over several GPUs or processes, and trainer.devices="
                f"{trainer.devices} is one here; for example trainer.devices=2"
            )
    base.check(config)


def run(
    config: Config,
    resolved: dict[str, Any],
    folder: Path,
    overrides: list[str],
    stage: Stage | None = None,
    present: Callable[[dict[str, Any], Path], None] | None = None,
) -> int:
    """Prepare what is missing, train, evaluate, and write the run folder; on every rank. Returns the exit code.

    `present` receives the content of result.json and the folder at the end (None: `show`)."""
    quiet_libraries()
    prepared = prepare(config, resolved, folder, overrides, stage or stage_of(config, notify))
    main = is_first_process()
    record = RunRecord(prepared, main)
    built = callbacks.build(prepared, record)
    record.open(built.columns)
    trainer = trainer_of(prepared, built.in_order())
    record.logger = trainer.logger
    result = None
    # close the logger last: it may outlast the timeout for a failed rank
    with (
        base.closing(trainer.logger),
        failures.recorded_failure(folder, prepared.identity, trainer.strategy.launcher, prepared.world, main) as ranks,
    ):
        train(prepared, trainer)
        measured = measure(prepared, built)
        ranks.dismiss()
        if main:
            result = finish(prepared, built, trainer, measured)
    if result is not None:
        remove_unkept(config.keep, folder, result)
        (present or show)(result, folder)
    return 0


def trainer_of(prepared: PreparedRun, ordered: list[pl.Callback]) -> pl.Trainer:
    """Lightning's trainer for the run, with these callbacks."""
    config, trainer = prepared.config, prepared.config.trainer
    strategy: Any = "auto"
    if trainer.shard_student:
        strategy = ShardedStudentStrategy()
    elif prepared.world > 1:
        strategy = "ddp_find_unused_parameters_true" if prepared.module.has_idle_parameters else "ddp"
    made = pl.Trainer(
        accelerator=trainer.accelerator if trainer.accelerator != "auto" or torch.cuda.is_available() else "cpu",
        devices=prepared.devices,
        num_nodes=trainer.num_nodes,
        strategy=strategy,
        precision=prepared.stage.inputs.precision,  # pyright: ignore[reportArgumentType]
        max_steps=prepared.total_steps,
        max_epochs=1,
        accumulate_grad_batches=trainer.accumulate,
        callbacks=without_idle_hooks(ordered),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=prepared.folder,
        **{**PLAIN_TRAINER, "logger": base.logger_of(config, prepared.folder, prepared.resolved)},
    )
    return with_short_steps(made)


def train(prepared: PreparedRun, trainer: pl.Trainer) -> None:
    """Train the module, from its checkpoint if there is one. `Stopped` or KeyboardInterrupt where a signal ended it."""
    with signals.defer_signals():
        trainer.fit(prepared.module, datamodule=prepared.data, ckpt_path=prepared.checkpoint, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    prepared.module.to(trainer.strategy.root_device)  # Lightning has moved it to the CPU, but not the teachers
    prepared.module.merge_adapters()  # the student that is evaluated is the one that is written


@dataclass
class Measured:
    """Measurements of all ranks at the end of a training. `held_out`: scores and answers of student, teachers and
    baselines; `totals`: of the ledger; `probes`: seconds of each all-data step, by rank; `unigram`: loss on text of the
    tokens' frequencies."""

    held_out: HeldOut
    totals: dict[str, Any]
    probes: list[list[float]]
    unigram: float | None


def measure(prepared: PreparedRun, built: RunCallbacks) -> Measured:
    """Evaluate the student, its teachers and baselines, and gather the costs; collective."""
    found = held_out.evaluate(prepared, built.evaluation)
    totals = prepared.ledger.totals()
    probes = [seconds for seconds in distributed.gather_objects(built.cost.probe_seconds) if seconds]
    return Measured(found, totals, probes, prepared.stage.unigram_loss(prepared.data))


def finish(prepared: PreparedRun, built: RunCallbacks, trainer: pl.Trainer, measured: Measured) -> dict[str, Any]:
    """Write student/, predictions/ and figures/, complete the logger, and write result.json last: with it the run is finished.

    A figure or a logger that fails is a warning in result.json. On rank 0; returns the content of result.json.
    """
    stage, module, folder, totals = prepared.stage, prepared.module, prepared.folder, measured.totals
    with user_errors("writing the student", folder), native_errors():
        module.student.model.save_pretrained(folder / "student")
        stage.inputs.tokenizer.save_pretrained(folder / "student")
    result = result_of(
        stage,
        module,
        measured.held_out,
        totals,
        measured.probes,
        prepared.world,
        prepared.overrides,
        trainer.global_step,
    )
    checkpoints = built.checkpoint.cost(totals["seconds"])
    result |= {"events": dict(built.guard.counts), "checkpoints": checkpoints, "warnings": []}
    result["observation"] = prepared.observations and prepared.observations.recorded()
    result |= collapse.entry(collapse_watch(prepared))
    for caveat in learning.caveats(result, measured.unigram, learning.first_loss(folder)):
        stage.inputs.caveats.add(caveat)
    if prepared.plan is not None:
        stopped_by = built.budget.stopped_by if built.budget is not None else None
        result["budget"] = budget.outcome(stage, prepared.plan, stopped_by, result)
    if (plan := outcome.beside_real(folder, result, module.device, prepared.config)) is not None:
        result["plan"] = plan
    result |= {
        name: prepared.identity[name] for name in (RUN_FOLDER, "caveats", folders.CODE) if name in prepared.identity
    }
    if is_saving(result) and costs.beyond_teacher(result):
        result["saved_with_preparation"] = costs.saved_with_preparation(result)
    with user_errors("writing the predictions", folder):
        predictions.write_all(prepared, measured.held_out)
    with finished.warning_of("size and speed", result["warnings"]):
        result["size"] = sizes(prepared, trainer)
    if stage.inputs.head.causal:
        with finished.warning_of("samples", result["warnings"]):
            samples.write(prepared)
    atomic_write_text(folder / "student" / "README.md", card(result))
    if prepared.config.figures:
        with finished.warning_of("figures", result["warnings"]):
            run_figures.draw(folder, result, notify)
    with finished.warning_of(f"logger={prepared.config.logger.name}", result["warnings"]):
        base.complete(prepared.config, trainer.logger, folder, result)
    with user_errors("writing the student", folder):
        flush_tree(folder / "student")
    if unkept := keeping.unkept(folder, prepared.config.keep):
        result[keeping.REMOVED] = unkept
    atomic_write_json(folder / "result.json", result)
    return result


def remove_unkept(keep: str, folder: Path, result: dict[str, Any]) -> None:
    """Remove the checkpoints and the student that `keep` does not keep, print what went, and list it in `result`.

    A failure is a warning in result.json.
    """
    with finished.warning_of(f"keep={keep}", found := []), suppress(Stopped, KeyboardInterrupt):
        if removed := keeping.tidy(folder, keep):
            result[keeping.REMOVED] = [one.part for one in removed]
            notify(f"keep={keep}: removed {' and '.join(map(str, removed))}")
    if found:
        finished.add_warnings(folder, found)


def show(result: dict[str, Any], folder: Path) -> None:
    """Print the closing table and the warnings of a finished run; whatever fails here is a warning in its result.json."""
    with finished.warning_of("the closing table", found := []), suppress(Stopped, KeyboardInterrupt):
        for warning in result["warnings"]:
            print(f"kdlab: warning: {warning}", file=sys.stderr, flush=True)
        print(table(result, folder, beside_random(result, folder)), flush=True)
    if found:
        finished.add_warnings(folder, found)
