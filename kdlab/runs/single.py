"""One run, from a checked configuration to a finished run folder."""

from __future__ import annotations

import os
import uuid
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import LambdaCallback

from kdlab.callbacks.adopt import Adopt
from kdlab.callbacks.checkpoint import CheckpointCallback
from kdlab.callbacks.cost import CostCallback
from kdlab.callbacks.decision import ArmSelector
from kdlab.callbacks.decision_log import DecisionLog
from kdlab.callbacks.evaluate import EvaluationCallback
from kdlab.callbacks.nonfinite import COLUMNS as EVENTS
from kdlab.callbacks.nonfinite import NonFiniteGuard
from kdlab.callbacks.observer import LossObserver
from kdlab.callbacks.progress import ProgressCallback
from kdlab.callbacks.select import Select
from kdlab.callbacks.selection_trace import COLUMNS, SelectionTrace
from kdlab.callbacks.weigh import Weigh
from kdlab.config.schema import Config
from kdlab.errors import UserError
from kdlab.modules.checkpoint_io import AtomicCheckpointIO
from kdlab.modules.evaluation import over_splits
from kdlab.modules.lightning_options import PLAIN_TRAINER
from kdlab.modules.row_pool import chosen
from kdlab.plotting import run_figures
from kdlab.runs import folders, rank_supervision
from kdlab.runs.failures import told
from kdlab.runs.loggers import base
from kdlab.runs.loggers.base import logger_of
from kdlab.runs.loggers.content import loggable
from kdlab.runs.process import FOLDER
from kdlab.runs.result import result_of
from kdlab.runs.summary import beside_random, card, table
from kdlab.runtime import distributed, signals
from kdlab.runtime.ledger import Ledger
from kdlab.stages import cache_plan, components, ksm_training
from kdlab.stages.base import Stage
from kdlab.stages.registry import stage_of
from kdlab.storage import checkpoints
from kdlab.storage.files import atomic_write_json, atomic_write_text, native_errors, plain_errors
from kdlab.storage.tables import Table
from kdlab.sweeps import suite


def start(config: Config, resolved: dict[str, Any], folder: Path, chosen: bool, overrides: list[str]) -> int:
    """Choose the run folder, check the inputs, and run. UserError before anything is loaded or written."""
    devices = _devices(config.trainer.accelerator, config.trainer.devices)
    if config.trainer.shard_teacher and devices * config.trainer.num_nodes == 1:
        raise UserError(
            f"trainer.shard_teacher=true: a teacher is shared out over several GPUs or processes, and trainer.devices="
            f"{config.trainer.devices} is one here: trainer.devices=2, say"
        )
    base.check(config)
    if config.suite is not None:
        return suite.start(config, resolved, folder, chosen, overrides)
    folder, going_on = (
        folders.choose(resolved, folder, chosen, False, config.resume) if not config.overwrite else (folder, False)
    )
    bench = stage_of(config, say)
    bench.check()
    if config.overwrite:  # only now: what is replaced must not be lost to a mistake in the new command
        folder, going_on = folders.choose(resolved, folder, chosen, True, config.resume)
    say(config.scale.says)
    if going_on:
        say(f"going on with the unfinished run in {folder} (resume=false starts anew)")
    os.environ[FOLDER] = str(folder)
    return run(config, resolved, folder, overrides, bench)


def say(line: str) -> None:
    """A line for the user, from rank 0 alone."""
    if os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


def run(
    config: Config, resolved: dict[str, Any], folder: Path, overrides: list[str], bench: Stage | None = None
) -> int:
    """Prepare what is missing, train, evaluate, and write the run folder; on every rank of the run."""
    _quiet_libraries()
    if rank_supervision.is_started_by_first():
        rank_supervision.follow_parent()
    bench = bench or stage_of(config, say)
    given = config.trainer
    devices = _devices(given.accelerator, given.devices)
    world = devices * given.num_nodes
    share = os.environ.get("OMP_NUM_THREADS", "")  # a sweep gives each of its jobs one
    torch.set_num_threads(
        given.threads or (int(share) if share.isdigit() else 0) or max(1, (os.cpu_count() or 1) // devices)
    )

    batches = given.max_steps * given.accumulate if given.max_steps else None
    data = bench.data_module(batches, given.max_epochs)
    batches = data.sampler(0, world).batches
    total_steps = -(-batches // given.accumulate)
    if config.select.ratio * config.data.batch_size * (world if config.select.scope == "global" else 1) < 1:
        say(f"select.ratio={config.select.ratio} of a batch is less than one row: one row of each batch is kept")
    ledger = Ledger(len(data.train), bench.fixed_inputs)
    remembered = cache_plan.plan(bench, data, batches, world)
    teachers = bench.teachers(ledger)
    baselines = bench.baselines(batches, world)
    weighing, learnt = ksm_training.weighing(bench, batches, world, partial(cache_plan.attach, bench, remembered))
    module = bench.distiller(bench.student(*teachers), teachers, ledger, total_steps)

    folder.mkdir(parents=True, exist_ok=True)
    main_rank = os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("RANK", "0") == "0"
    goes_on = config.resume and not config.overwrite and folders.same_run(folder, resolved)
    identity = (folders.identity(folder) if goes_on else None) or uuid.uuid4().hex
    about = {"name": config.name, "seed": config.seed, "run": identity}
    cache_plan.attach(bench, remembered, teachers, ledger, len(data.train), identity)
    newest = checkpoints.newest(folder / "checkpoints", say) if goes_on else None
    step = checkpoints.step_of(newest) if newest else 0
    tables: dict[str, Table] = {}

    def write(name: str, row: dict[str, Any]) -> None:
        if name == "events" and main_rank and name not in tables:  # most runs have none
            tables[name] = Table(folder / "events.csv", EVENTS)
        if name in tables:
            tables[name].write(row)
        if trainer.logger is not None and name not in ("selected", "events"):  # lists of row ids
            trainer.logger.log_metrics(loggable(name, row), step=row["step"])

    skip = given.on_nonfinite == "skip"
    adopt = weigh = select = None
    adoption = bench.adoption() if teachers else None
    if adoption is not None:
        adopt = Adopt(ArmSelector("adopt", adoption.arms, adoption.policy, total_steps, config.seed))
    if weighing is not None:
        weigh = Weigh(ArmSelector("weigh", weighing.arms, weighing.policy, total_steps, config.seed))
    decisions = DecisionLog(lambda row: write("knowledge", row), adopt, weigh)
    decided = decisions.columns(module)
    selection = bench.selection()
    if config.select.ratio < 1:
        kd = config.select.observe == "kd"
        chooser = ArmSelector(
            "policy",
            selection.arms,
            selection.policy,
            total_steps,
            config.seed,
            selection.reward,
            LossObserver(module, lambda: data.observed_batches(config.select.evaluation_rows), kd),
            config.select.interval,
            lambda row: write("selector", row),
            skip,
        )
        looks = components.looks(config.select, module.shape.layers, len(data.train))
        select = Select(chooser, config.select.ratio, config.select.scope, **looks)
    watch = EvaluationCallback(
        given.evaluate_every, total_steps, data.heldout_splits, module, lambda row: write("metrics", row), ledger
    )
    trace = None
    if given.trace_every is not None:
        trace = SelectionTrace(
            given.trace_every,
            lambda: data.observed_batches(given.trace_rows),
            chosen(None, selection.arms, False),
            config.select.ratio,
            total_steps,
            config.seed,
            lambda row: write("selected", row),
        )
    if main_rank:
        atomic_write_text(folder / "config.yaml", yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
        about["artifacts"] = list(bench.store.used)
        atomic_write_json(folder / "result.json", {"status": "running", **about})
        columns = {
            "metrics": watch.columns(),
            "selector": select.chooser.columns() if select else ["step", "arm", "teacher_queries"],
        }
        if (folder / "events.csv").exists():
            columns["events"] = list(EVENTS)
        if trace is not None:
            columns["selected"] = list(COLUMNS)
        if len(decided) > 1:
            columns["knowledge"] = decided
        if learnt is not None:
            atomic_write_text(folder / ksm_training.LOG, learnt.read_text(encoding="utf-8"))
        for name, names in columns.items():
            tables[name] = Table(folder / f"{name}.csv", names)
            tables[name].rewind(step)
    account = CostCallback(ledger, total_steps, given.probes)
    guard = NonFiniteGuard(not skip, given.nonfinite_limit, say, lambda row: write("events", row))
    every = None if given.checkpoint_every == "auto" else given.checkpoint_every
    keep = CheckpointCallback(
        folder / "checkpoints", every, total_steps, ledger, guard, tables.values(), decisions.flush, say
    )
    given_order = (guard, watch, trace, account, select, adopt, weigh, decisions if len(decided) > 1 else None, keep)
    callbacks: list[pl.Callback] = [one for one in given_order if one is not None]
    callbacks.append(LambdaCallback(on_train_start=lambda *_: bench.meet(teachers)))
    if main_rank:
        callbacks.append(ProgressCallback(total_steps, ledger, select.chooser if select else None))
    trainer = pl.Trainer(
        accelerator=given.accelerator if given.accelerator != "auto" or torch.cuda.is_available() else "cpu",
        devices=devices,
        num_nodes=given.num_nodes,
        strategy=("ddp_find_unused_parameters_true" if module.phased else "ddp") if world > 1 else "auto",
        precision=bench.precision,  # pyright: ignore[reportArgumentType]
        max_steps=total_steps,
        max_epochs=1,
        accumulate_grad_batches=given.accumulate,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        **{**PLAIN_TRAINER, "logger": logger_of(config, folder, resolved)},
    )
    # the logger is closed last: it may take longer than a rank that has failed is waited for
    with base.closing(trainer.logger), told(folder, about, trainer.strategy.launcher, world, main_rank):
        with signals.patient():
            trainer.fit(module, datamodule=data, ckpt_path=newest, weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt
        module.to(trainer.strategy.root_device)  # Lightning has moved it to the CPU, and the teacher not
        metrics = {
            "student": watch.last or over_splits(module.measure, data.heldout_splits(final=True)),
            **(bench.teachers_on_heldout(module, teachers, data) if teachers else {}),
            **baselines,
        }
        totals = ledger.totals()
        probes = [p for p in distributed.gather_objects(account.probe_seconds) if p]
        if distributed.rank() != 0:
            return 0
        with plain_errors("writing the student", folder), native_errors():
            module.student.model.save_pretrained(folder / "student")
            bench.tokenizer.save_pretrained(folder / "student")
        result = result_of(bench, module, metrics, totals, probes, world, overrides)
        result["events"], result["checkpoints"] = dict(guard.counts), keep.took(totals["seconds"])
        atomic_write_text(folder / "student" / "README.md", card(result))
        atomic_write_json(folder / "result.json", result)
        run_figures.draw(folder)
        base.complete(config, trainer.logger, folder, result)
        print(table(result, folder, beside_random(result, folder)), flush=True)
        return 0


def _devices(accelerator: str, devices: int | str) -> int:
    gpus = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    if devices == "auto":
        return max(1, gpus)
    if accelerator in ("gpu", "cuda") and gpus == 0:
        raise UserError(f"trainer.accelerator={accelerator}: no GPU found; trainer.accelerator=cpu runs without")
    if gpus and int(devices) > gpus:
        raise UserError(f"trainer.devices={devices}: this machine has {gpus} GPUs")
    return int(devices)


def _quiet_libraries() -> None:
    """Leave out what libraries say about things that kdlab handles or that a user cannot change."""
    import logging

    import transformers

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for text in (
        ".*does not have many workers.*",
        ".*dataloader is not resumable.*",
        ".*in eval mode at the start.*",
        ".*LeafSpec.*",
        ".*tensorboardX.*",
    ):
        warnings.filterwarnings("ignore", message=text)
