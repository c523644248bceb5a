"""One run, from a checked configuration to a finished run folder."""

from __future__ import annotations

import os
import platform
import subprocess
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml

from kdlab import checkpoints, figures, folders, ranks, suite
from kdlab.bench import QUIET, Bench
from kdlab.build import bench_of
from kdlab.callbacks import Account, Keep, Progress, Watch, training_seconds
from kdlab.checkpoint_io import AtomicCheckpointIO
from kdlab.config import Config
from kdlab.distill import Distiller
from kdlab.errors import UserError
from kdlab.files import atomic_write_json, atomic_write_text
from kdlab.ledger import Ledger, speedup
from kdlab.pool import chosen
from kdlab.scoring import over_splits
from kdlab.select import Observer, Select
from kdlab.summary import beside_random, card, table
from kdlab.tables import Table
from kdlab.trace import COLUMNS, Trace

DISTILLATION = ("scoring", "observation", "teacher_forward", "student_forward", "student_backward")


def start(config: Config, resolved: dict[str, Any], folder: Path, chosen: bool, overrides: list[str]) -> int:
    """Choose the run folder, check the inputs, and run. UserError before anything is loaded or written."""
    _devices(config.trainer.accelerator, config.trainer.devices)
    if config.suite is not None:
        return suite.start(config, resolved, folder, chosen, overrides)
    folder, going_on = (
        folders.choose(resolved, folder, chosen, False, config.resume) if not config.overwrite else (folder, False)
    )
    bench = bench_of(config, say)
    bench.check()
    if config.overwrite:  # only now: what is replaced must not be lost to a mistake in the new command
        folder, going_on = folders.choose(resolved, folder, chosen, True, config.resume)
    say(config.scale.says)
    if going_on:
        say(f"going on with the unfinished run in {folder} (resume=false starts anew)")
    os.environ["KDLAB_RUN_FOLDER"] = str(folder)
    return run(config, resolved, folder, overrides, bench)


def say(line: str) -> None:
    """A line for the user, from rank 0 alone."""
    if os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


def run(
    config: Config, resolved: dict[str, Any], folder: Path, overrides: list[str], bench: Bench | None = None
) -> int:
    """Prepare what is missing, train, evaluate, and write the run folder; on every rank of the run."""
    _quiet_libraries()
    bench = bench or bench_of(config, say)
    given = config.trainer
    devices = _devices(given.accelerator, given.devices)
    world = devices * given.num_nodes
    torch.set_num_threads(given.threads or max(1, (os.cpu_count() or 1) // devices))

    batches = given.max_steps * given.accumulate if given.max_steps else None
    data = bench.data_module(batches, given.max_epochs)
    batches = data.sampler(0, world).batches
    total_steps = -(-batches // given.accumulate)
    if config.select.ratio * config.data.batch_size * (world if config.select.scope == "global" else 1) < 1:
        say(f"select.ratio={config.select.ratio} of a batch is less than one row: one row of each batch is kept")
    ledger = Ledger(len(data.train), bench.fixed_inputs)
    teacher = bench.teacher(ledger)
    baselines = bench.baselines(batches, world)
    student = bench.student(teacher)
    module = Distiller(
        student,
        bench.terms(),
        bench.optim(),
        total_steps,
        teacher,
        ledger,
        config.knowledge.reduce,
        config.seed,
        score=bench.score,
        labels_on=config.knowledge.labels_on,
    )

    folder.mkdir(parents=True, exist_ok=True)
    main_rank = os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("RANK", "0") == "0"
    goes_on = config.resume and not config.overwrite and folders.same_run(folder, resolved)
    newest = checkpoints.newest(folder / "checkpoints", say) if goes_on else None
    step = checkpoints.step_of(newest) if newest else 0
    tables: dict[str, Table] = {}

    def write(name: str, row: dict[str, Any]) -> None:
        if name in tables:
            tables[name].write(row)
        if trainer.logger is not None and name != "selected":  # lists of row ids
            trainer.logger.log_metrics(_loggable(name, row), step=row["step"])

    select = None
    selection = bench.selection()
    if config.select.ratio < 1:
        kd = config.select.observe == "kd"
        select = Select(
            selection.arms,
            selection.policy,
            config.select.ratio,
            total_steps,
            config.seed,
            selection.reward,
            Observer(module, lambda: data.observed_batches(config.select.evaluation_rows), kd),
            config.select.interval,
            config.select.scope,
            lambda row: write("selector", row),
        )
    watch = Watch(
        given.evaluate_every, total_steps, data.heldout_splits, module, lambda row: write("metrics", row), ledger
    )
    trace = None
    if given.trace_every is not None:
        trace = Trace(
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
        atomic_write_json(folder / "result.json", {"status": "running", "name": config.name, "seed": config.seed})
        columns = {
            "metrics": watch.columns(),
            "selector": select.columns() if select else ["step", "arm", "teacher_queries"],
        }
        if trace is not None:
            columns["selected"] = list(COLUMNS)
        for name, names in columns.items():
            tables[name] = Table(folder / f"{name}.csv", names)
            tables[name].rewind(step)
    account = Account(ledger, total_steps, given.probes)
    keep = Keep(folder / "checkpoints", given.checkpoint_every, total_steps, ledger, tables.values())
    callbacks: list[pl.Callback] = [watch, *([trace] if trace else []), account, *([select] if select else []), keep]
    if main_rank:
        callbacks.append(Progress(total_steps, ledger, select))
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
        enable_progress_bar=main_rank,
        default_root_dir=folder,
        **{**QUIET, "logger": _logger(config, folder, resolved)},
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=newest, weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt
    except UserError as error:
        if main_rank:
            failed = {"status": "failed", "error": str(error), "name": config.name, "seed": config.seed}
            atomic_write_json(folder / "result.json", failed)
        raise
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        if trainer.logger is not None and ranks.rank() == 0:
            trainer.logger.experiment.finish()  # pyright: ignore  # writes what W&B still holds back

    module.to(trainer.strategy.root_device)  # Lightning has moved it to the CPU, and the teacher not
    metrics = {
        "student": watch.last or over_splits(module.measure, data.heldout_splits(final=True)),
        **({"teacher": bench.teacher_on_heldout(module, teacher, data)} if teacher else {}),
        **baselines,
    }
    totals = ledger.totals()
    probes = [p for p in ranks.gather_objects(account.probe_seconds) if p]
    if ranks.rank() != 0:
        return 0
    student.model.save_pretrained(folder / "student")
    bench.tokenizer.save_pretrained(folder / "student")
    result = {
        "status": "finished",
        "name": config.name,
        "scale": config.scale.name,
        "steps": total_steps,
        "metrics": metrics,
        "ledger": _ledger(totals, probes, total_steps),
        "seed": config.seed,
        "select": {"name": config.select.name, "ratio": config.select.ratio},
        "stage": config.data.stage,
        "knowledge": config.knowledge.name,
        "data": bench.facts(),
        "teacher": {
            "name": bench.teacher_name,
            "sha256": models_hash(bench) if teacher else None,
            "layers": bench.teacher_config.num_hidden_layers,
        },
        "student": {"layers": config.student.layers, "parameters": sum(p.numel() for p in student.parameters())},
        "versions": _versions(),
        "git": _git(),
        "command": ["python", "-m", "kdlab.run", *overrides],
        "devices": {"world": world, "kind": str(module.device), "precision": bench.precision},
    }
    atomic_write_text(folder / "student" / "README.md", card(result))
    atomic_write_json(folder / "result.json", result)
    figures.draw(folder)
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


def _logger(config: Config, folder: Path, resolved: dict[str, Any]) -> Any:
    """A Lightning logger where one was asked for (the CSV tables are written anyway), else False."""
    if config.logger.name != "wandb":
        return False
    from pytorch_lightning.loggers import WandbLogger

    os.environ.setdefault("WANDB_SILENT", "true")
    given = config.logger
    logger = WandbLogger(
        project=given.project,
        entity=given.entity,
        group=given.group,
        name=f"{config.select.name}-r{config.select.ratio:g}-s{config.seed}",
        save_dir=folder,
        config=without_secrets(resolved),
        mode=given.mode,  # pyright: ignore[reportArgumentType]
    )
    if ranks.rank() == 0 and os.environ.get("LOCAL_RANK", "0") == "0":
        # what a query bought is the question, so queries are the x axis
        logger.experiment.define_metric("teacher_queries")
        for group in ("selector/*", "heldout/*", "train/*"):
            logger.experiment.define_metric(group, step_metric="teacher_queries")
    return logger


def without_secrets(node: Any) -> Any:
    """`node` without values whose key looks like a secret's."""
    if isinstance(node, dict):
        hidden = ("token_", "api_key", "apikey", "secret", "password", "credential")
        return {
            k: "(hidden)" if any(h in f"{k}_".lower() for h in hidden) and isinstance(v, str) else without_secrets(v)
            for k, v in node.items()
        }
    return [without_secrets(v) for v in node] if isinstance(node, list) else node


def _loggable(name: str, row: dict[str, Any]) -> dict[str, float]:
    """A table's row for a logger: numbers only, in groups; the arm as one 0/1 series each, whose mean is its share."""
    prefixed = {}
    for key, value in row.items():
        if isinstance(value, int | float) and key not in ("step", "teacher_queries"):
            group, _, rest = key.partition("_")
            prefixed[
                f"{group}/{rest}" if name == "metrics" and rest and group in ("train", "heldout") else f"{name}/{key}"
            ] = value
    if row.get("arm") is not None:
        arms = [key[2:] for key in row if key.startswith("q_")] or [row["arm"]]
        prefixed |= {f"selector/arm_{arm}": float(arm == row["arm"]) for arm in arms}
    return {**prefixed, "teacher_queries": row.get("teacher_queries", 0)}


def _ledger(totals: dict[str, Any], probes: list[list[float]], steps: int) -> dict[str, Any]:
    """The ledger of result.json: totals, the all-data comparison that the probes measured, and the speed-ups."""
    seconds = dict(totals["seconds"])
    training = training_seconds(seconds)
    all_data = None
    if probes:
        slowest = [max(at_once) for at_once in zip(*probes, strict=False)]
        around = training - sum(
            seconds.get(part, 0.0) for part in DISTILLATION
        )  # data, optimizer, loop: spent either way
        all_data = sorted(slowest)[len(slowest) // 2] * steps + around
    gains = speedup(totals, None)
    gains["wallclock"] = all_data / training if all_data and training else None
    return {**totals, "seconds": {**seconds, "training": training, "all_data": all_data}, "speedup": gains}


def models_hash(bench: Bench) -> str | None:
    """The sha256 of the teacher's weights where they are a local file."""
    from kdlab.files import sha256_of

    weights = Path(str(bench.teacher_folder)) / "model.safetensors"
    return sha256_of(weights) if weights.is_file() else None


def _versions() -> dict[str, str]:
    names = (
        "kdlab",
        "torch",
        "pytorch-lightning",
        "transformers",
        "tokenizers",
        "datasets",
        "numpy",
        "hydra-core",
        "omegaconf",
        "faiss-cpu",
        "faiss-gpu",
    )
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git() -> str | None:
    """The revision of the checkout kdlab runs from, marked where files differ from it; None outside a checkout."""
    top = Path(__file__).resolve().parent.parent
    if not (top / ".git").exists():
        return None
    command = ["git", "-C", str(top), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


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
