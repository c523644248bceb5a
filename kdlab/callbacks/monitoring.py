"""Callbacks that watch a run: what it costs, how good the student is, where it can go on, how far it is."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from kdlab.callbacks.decision import ArmSelector
from kdlab.callbacks.nonfinite import NonFiniteGuard
from kdlab.errors import UserError
from kdlab.modules.checkpoint_schedule import PART, TIMES, CheckpointSchedule
from kdlab.modules.distiller import Distiller
from kdlab.modules.evaluation import over_splits
from kdlab.runtime import distributed
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.progress import ProgressBar
from kdlab.runtime.signals import Stopped
from kdlab.storage import checkpoints
from kdlab.storage.tables import Table
from kdlab.types import Batch


class CostCallback(pl.Callback):
    """Keeps the ledger: seconds of the parts the distiller cannot time itself, and what all-data training would cost.

    At `probes` steps, evenly spread over `total_steps`, the whole batch is put through the plain distillation step as
    well (forward, teacher, backward; no update) and timed, so that the comparison in wall-clock is measured in the
    same run, on the same machine, under the same load. Must come before `Select`.
    """

    def __init__(self, ledger: Ledger, total_steps: int, probes: int) -> None:
        self.ledger = ledger
        self.probe_steps = {round((i + 0.5) * total_steps / probes) for i in range(probes)} if probes else set()
        self.probe_seconds: list[float] = []
        self._open: dict[str, contextlib.ExitStack] = {}

    def _start(self, part: str) -> None:
        self._open[part] = contextlib.ExitStack()
        self._open[part].enter_context(self.ledger.time(part))

    def _stop(self, part: str) -> None:
        if part in self._open:
            self._open.pop(part).close()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start("loop")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Distiller)
        pl_module.hearing.begins(batch_idx)
        student, teacher = pl_module.cost(batch)
        self.ledger.all_data(3 * student + teacher, int(batch.real.sum()))
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if first and trainer.global_step in self.probe_steps and pl_module.needs_teacher:
            with self.ledger.time("probe"):
                self.probe_seconds.append(self._probe(trainer, pl_module, batch))

    def _probe(self, trainer: pl.Trainer, module: Distiller, batch: Batch) -> float:
        started = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            loss = module.loss(batch, alone=True)
        # not backward(): under DDP its hooks would start to reduce
        grads = torch.autograd.grad(loss, [p for p in module.parameters() if p.requires_grad], allow_unused=True)
        if loss.is_cuda:
            torch.cuda.synchronize()
        del grads
        return (time.perf_counter() - started) * trainer.accumulate_grad_batches

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        self._start("student_backward")

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop("student_backward")

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self._start("optimizer")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._stop("optimizer")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop("loop")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        for part in list(self._open)[::-1]:
            self._stop(part)

    def state_dict(self) -> dict[str, Any]:
        return {"ledger": self.ledger.state_dict(), "probe_seconds": list(self.probe_seconds)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ledger.load_state_dict(state_dict["ledger"])
        self.probe_seconds = list(state_dict["probe_seconds"])


class EvaluationCallback(pl.Callback):
    """Evaluates the student on held-out rows every `every` steps, before the step, and writes a row of metrics.csv.

    `heldout` gives the splits (`final`: all of their rows, after the last step). Columns: step, epoch, train_loss and
    train_<term> (of the step before, over all ranks), heldout_<score> of each score, teacher_queries
    (of several teachers also queries_<name> of each), flops (of training, so far), seconds (of training), lr.
    """

    def __init__(
        self,
        every: int,
        total_steps: int,
        heldout: Callable[[bool], dict[str, Iterator[Batch]]],
        module: Distiller,
        write: Callable[[dict[str, Any]], None],
        ledger: Ledger,
    ) -> None:
        self.every, self.total_steps = every, total_steps
        self.heldout = heldout
        self.terms, self.scores = list(module.terms), list(module.score.names)
        self.write = write
        self.ledger = ledger
        self.last: dict[str, float] = {}
        names = [teacher.name for teacher in module.teachers]
        self.asked = {f"queries_{name}": name for name in names} if len(names) > 1 else {}

    def columns(self) -> list[str]:
        """The columns of metrics.csv for these terms and scores."""
        each = [name for name in self.scores if name != "score"]
        scores = [
            f"heldout_{name}_{split}" if split else f"heldout_{name}" for split in self.heldout(False) for name in each
        ]
        scores += ["heldout_score"] if "score" in self.scores else []
        trained = ["train_loss", *(f"train_{term}" for term in self.terms)]
        return ["step", "epoch", *trained, *scores, "teacher_queries", *self.asked, "flops", "seconds", "lr"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if first and trainer.global_step % self.every == 0:
            self._look(trainer, pl_module, batch.epoch)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(trainer, pl_module, None)

    def _look(self, trainer: pl.Trainer, module: pl.LightningModule, epoch: int | None) -> None:
        assert isinstance(module, Distiller)
        with self.ledger.time("evaluation"):
            self.last = over_splits(module.measure, self.heldout(epoch is None))
        if bad := [name for name, value in self.last.items() if name.startswith("loss") and not math.isfinite(value)]:
            raise UserError(
                f"the student's {bad[0]} on held-out rows is {self.last[bad[0]]} after step {trainer.global_step}: the "
                "training has diverged; try a smaller learning rate"
            )
        report = module.mean_report()
        totals = self.ledger.totals()
        per_teacher = totals["teacher_queries"]["per_teacher"]
        self.write(
            {
                "step": trainer.global_step,
                "epoch": epoch,
                **{f"train_{name}": value for name, value in report.items()},
                **{f"heldout_{name}": value for name, value in self.last.items()},
                "teacher_queries": totals["teacher_queries"]["total"],
                **{column: per_teacher.get(name, {}).get("total", 0) for column, name in self.asked.items()},
                "flops": totals["flops"]["total"],
                "seconds": training_seconds(totals["seconds"]),
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
            }
        )


NOT_TRAINING = ("evaluation", "probe", PART)


def training_seconds(seconds: dict[str, float]) -> float:
    """Wall-clock of the training itself: without evaluations, checkpoints and the all-data probes."""
    return seconds.get("total", 0.0) - sum(seconds.get(part, 0.0) for part in NOT_TRAINING)


class CheckpointCallback(pl.Callback):
    """Saves a checkpoint into `folder` every `every` optimizer steps, or, where that is None, when one is due by the first
    rank's `CheckpointSchedule`; after the step and before any evaluation.

    The tables are flushed to the disk first (`before` is called before that): a checkpoint counts on the rows written
    before it. Where `guard` has heard of a signal, on any rank, it saves at once and raises `Stopped`. Ranks other than
    the first hear through `guard` that one is due, two steps later.
    """

    FAR = 600.0  # seconds: checkpoints that lie further apart than a user might think are told of

    def __init__(
        self,
        folder: Path,
        every: int | None,
        total_steps: int,
        ledger: Ledger,
        guard: NonFiniteGuard,
        tables: Iterable[Table] = (),
        before: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder, self.every, self.total_steps, self.ledger = folder, every, total_steps, ledger
        self.guard, self.tables, self.before, self.say = guard, tables, before, say
        self.cadence = CheckpointSchedule(ledger)
        self._told = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.cadence.begin(pl_module.parameters())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Distiller)
        step, signum = trainer.global_step, self.guard.signum
        if (batch_idx + 1) % trainer.accumulate_grad_batches or step >= self.total_steps:
            return
        if not (self._due(pl_module, step) or signum):
            return
        before = self.ledger.so_far(PART)
        with self.ledger.time(PART):
            self.before()
            self.guard.read()
            self.guard.check_weights(step)
            for table in self.tables:
                table.sync()
            trainer.save_checkpoint(self.folder / checkpoints.name_of(step))
        self.guard.wants_save = pl_module.health.wants_save = False  # after the guard has read of the wish
        self.cadence.wrote(self.ledger.so_far(PART) - before)
        if signum:
            raise Stopped(signum, step)
        if self.every is None and not self._told and TIMES * self.cadence.expected > self.FAR:
            self._told = True
            apart = TIMES * self.cadence.expected / 60
            self.say(
                f"a checkpoint takes {self.cadence.expected:.0f} s here, so one is written every {apart:.0f} minutes; "
                "trainer.checkpoint_every= sets a number of steps"
            )

    def _due(self, module: Distiller, step: int) -> bool:
        if self.every is not None:
            return step % self.every == 0
        wanted = distributed.rank() == 0 and self.cadence.due()
        if distributed.world() == 1:
            return wanted
        module.health.wants_save = wanted
        return self.guard.wants_save

    def took(self, seconds: dict[str, float]) -> dict[str, float]:
        """How many were written, and which share of a run's `seconds` (as of `Ledger.totals`) that took. One that a run
        has gone on from is in neither: the ledger in it was written before it was."""
        spent = seconds.get(PART, 0.0)
        share = spent / seconds["total"] if spent else 0.0
        return {"written": self.cadence.written, "seconds": spent, "share": share}

    def state_dict(self) -> dict[str, Any]:
        return self.cadence.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.cadence.load_state_dict(state_dict)


class ProgressCallback(pl.Callback):
    """Tells how far the training is (`kdlab.runtime.progress`), with its loss, current arm, last reward and teacher queries."""

    def __init__(self, total_steps: int, ledger: Ledger, chooser: ArmSelector | None, what: str = "training") -> None:
        self.total_steps, self.ledger, self.chooser, self.what = total_steps, ledger, chooser, what
        self._told: ProgressBar | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._told = ProgressBar(self.what, self.total_steps, "steps", trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._told is not None:
            self._told.to(trainer.global_step, lambda: self._more(pl_module))

    def _more(self, module: pl.LightningModule) -> str:
        assert isinstance(module, Distiller)
        shown: dict[str, Any] = {}
        if "loss" in module.report:
            shown["loss"] = f"{float(module.report['loss']):.3f}"
        if self.chooser is not None and self.chooser.arm is not None:
            shown["arm"] = self.chooser.arm
            if self.chooser.last_reward is not None:
                shown["reward"] = f"{self.chooser.last_reward:+.4f}"
        if module.needs_teacher:
            shown["queries"] = self.ledger.queries()
        return "  ".join(f"{name} {value}" for name, value in shown.items())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._told is not None:
            self._told.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._told is not None:
            self._told.close()
