"""What the groups of a configuration may hold, typed, with every check that needs nothing but its values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from kdlab.config.validators import PRECISIONS, at_least, below_one, one_of, positive, share
from kdlab.data.tasks.registry import TASKS, find, plain_name
from kdlab.errors import UserError, nearest


@dataclass
class ScaleConfig:
    name: str = "demo"
    says: str = ""


@dataclass
class AugmentConfig:
    copies: int = 20
    replace: float = 0.4
    candidates: int = 15
    model: str | None = None
    table: str | None = None
    batch_size: int = 64
    seed: int = 0

    def check(self) -> None:
        for name in ("copies", "candidates", "batch_size"):
            at_least(f"data.augment.{name}", getattr(self, name), 1)
        share("data.augment.replace", self.replace)


@dataclass
class DataConfig:
    stage: str = "pretrain"
    source: Any = None
    path: str | None = None
    max_length: int = 128
    batch_size: int = 32
    order: str = "random"
    workers: int = 0
    heldout_rows: int | None = 256
    # of text
    document: str = "file"
    text_column: str = "text"
    group: int = 1
    min_length: int = 12
    masking: str = "uniform"
    mask_probability: float = 0.15
    heldout: float = 0.05
    split_seed: int = 0
    # of labelled rows
    task: str | None = None
    columns: list[str] | None = None
    label_column: str | None = None
    regression: bool | None = None
    train_rows: int | None = None
    augment: AugmentConfig | None = None

    def check(self) -> None:
        one_of("data.stage", self.stage, ("pretrain", "finetune"))
        if self.task is not None and self.stage == "pretrain":
            raise UserError(
                f"data.task={self.task}: pre-training reads plain text and has no task; data.path= names the text, "
                "+exp=adads_finetune learns a task"
            )
        if self.task is not None:
            find(self.task)
        one_of("data.order", self.order, ("random", "length"))
        one_of("data.document", self.document, ("file", "block", "line"))
        one_of("data.masking", self.masking, ("uniform", "rare"))
        for name in ("group", "batch_size"):
            at_least(f"data.{name}", getattr(self, name), 1)
        for name in ("heldout_rows", "train_rows"):
            if getattr(self, name) is not None:
                at_least(f"data.{name}", getattr(self, name), 1)
        at_least("data.workers", self.workers, 0)
        at_least("data.min_length", self.min_length, 3)
        at_least("data.max_length", self.max_length, self.min_length if self.stage == "pretrain" else 3)
        share("data.mask_probability", self.mask_probability, below_one=True)
        share("data.heldout", self.heldout, below_one=True)
        if self.columns is not None and not 1 <= len(self.columns) <= 2:
            raise UserError(f"data.columns={self.columns}: one text column, or two for pairs")


@dataclass
class StudentConfig:
    layers: Any = None
    pick: str = "even"
    path: str | None = None
    hidden: int | None = None
    dropout: float | None = None
    freeze: list[str] = field(default_factory=list)

    def check(self) -> None:
        if self.dropout is not None:
            below_one("student.dropout", self.dropout)
        one_of("student.pick", self.pick, ("even", "first"))
        layers = self.layers
        numbers = isinstance(layers, list) and layers and all(type(x) is int and x >= 0 for x in layers)
        if self.path is None and not numbers and not (type(layers) is int and layers >= 1) and layers != "all":
            raise UserError(f"student.layers={layers}: a number of layers, a list of the teacher's as [0,2,4], or all")
        if self.hidden is not None:
            at_least("student.hidden", self.hidden, 1)
            if self.path is not None or type(layers) is not int:
                raise UserError(
                    f"student.hidden={self.hidden}: a narrower student starts anew, so student.layers= is a number of "
                    "layers and student.path is null"
                )


@dataclass
class SelectConfig:
    name: str = "all"
    ratio: float = 1.0
    pool: Any = "batch"
    scope: str = "global"
    scoring: str = "fresh"
    refresh: int = 2
    exit_layer: int | None = None
    interval: int = 10
    observe: str = "task"
    evaluation_rows: int = 256
    arms: dict[str, Any] = field(default_factory=dict)
    policy: Any = None
    reward: Any = None

    def check(self) -> None:
        share("select.ratio", self.ratio)
        if self.pool != "batch" and not (type(self.pool) is int and self.pool >= 1):
            raise UserError(f"select.pool={self.pool}: batch, or the number of rows to choose a full batch from")
        if self.name == "all":
            self.ratio = 1.0  # whatever ratio an experiment sets for its own strategy
        one_of("select.scope", self.scope, ("global", "local"))
        one_of("select.observe", self.observe, ("task", "kd"))
        one_of("select.scoring", self.scoring, ("fresh", "stale", "early_exit"))
        if self.scoring == "stale" and self.scope == "local":
            raise UserError(
                "select.scoring=stale select.scope=local: the next rank that meets a row must know its score, which "
                "global selection tells it; select.scope=global"
            )
        at_least("select.refresh", self.refresh, 1)
        if self.exit_layer is not None:
            at_least("select.exit_layer", self.exit_layer, 1)
        at_least("select.interval", self.interval, 1)
        at_least("select.evaluation_rows", self.evaluation_rows, 1)


@dataclass
class TermConfig:
    weight: float = 1.0
    at: str = "all"
    since: float = 0.0
    until: float = 1.0
    term: Any = None


@dataclass
class KnowledgeConfig:
    name: str = "distilbert"
    reduce: str = "tokens"
    ce_on: str = "masked"
    labels_on: str = "selected"
    phases: list[float] = field(default_factory=list)
    terms: dict[str, TermConfig] = field(default_factory=dict)

    def check(self) -> None:
        one_of("knowledge.reduce", self.reduce, ("tokens", "rows"))
        one_of("knowledge.ce_on", self.ce_on, ("masked", "all"))
        one_of("knowledge.labels_on", self.labels_on, ("selected", "all"))
        if not any(term.weight > 0 for term in self.terms.values()):
            raise UserError("knowledge.terms: no term has a positive weight, so there is nothing to learn")
        for name, term in self.terms.items():
            if not math.isfinite(term.weight) or term.weight < 0:
                raise UserError(f"knowledge.terms.{name}.weight={term.weight}: a number of 0 or more")
            one_of(f"knowledge.terms.{name}.at", term.at, ("masked", "labelled", "all", "tokens"))
            if not 0 <= term.since < term.until <= 1:
                raise UserError(
                    f"knowledge.terms.{name}: it counts from since={term.since} until={term.until}, shares of the "
                    "training with 0 <= since < until <= 1"
                )
        for phase in self.phases:
            if not 0 < phase < 1:
                raise UserError(f"knowledge.phases={self.phases}: shares of the training above 0 and below 1")
        reached = 0.0
        for term in sorted((t for t in self.terms.values() if t.weight > 0), key=lambda t: t.since):
            if term.since > reached:
                break
            reached = max(reached, term.until)
        if reached < 1:
            raise UserError(f"knowledge.terms: no term counts after {reached:g} of the training, until the next begins")


@dataclass
class OptimizerConfig:
    lr: float = 5e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: float = 0.1
    clip: float = 1.0

    def check(self) -> None:
        for name in ("lr", "eps", "clip"):
            positive(f"optim.{name}", getattr(self, name))
        below_one("optim.warmup", self.warmup)
        if self.weight_decay < 0 or len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise UserError(
                f"optim: weight_decay={self.weight_decay} must not be negative, betas={self.betas} two numbers in [0, 1)"
            )


@dataclass
class TrainerConfig:
    max_steps: int | None = None
    max_epochs: int | None = None
    accelerator: str = "auto"
    devices: Any = 1
    num_nodes: int = 1
    precision: str = "32-true"
    accumulate: int = 1
    threads: int | None = None
    checkpoint_every: Any = "auto"
    evaluate_every: int = 50
    probes: int = 8
    trace_every: int | None = None
    trace_rows: int = 512
    on_nonfinite: str = "stop"
    nonfinite_limit: int = 10
    shard_teacher: bool = False

    def check(self) -> None:
        if self.max_steps is None and self.max_epochs is None:
            raise UserError(
                "trainer.max_steps and trainer.max_epochs are both null: give one; of both, what is reached first ends it"
            )
        for name in ("max_steps", "max_epochs", "threads", "trace_every"):
            if getattr(self, name) is not None:
                at_least(f"trainer.{name}", getattr(self, name), 1)
        for name in ("num_nodes", "accumulate", "evaluate_every", "trace_rows"):
            at_least(f"trainer.{name}", getattr(self, name), 1)
        if self.checkpoint_every != "auto" and not (type(self.checkpoint_every) is int and self.checkpoint_every >= 1):
            raise UserError(
                f"trainer.checkpoint_every={self.checkpoint_every}: a number of optimizer steps from 1 on, or auto (once "
                "a minute where that is little of the run's time)"
            )
        at_least("trainer.probes", self.probes, 0)
        at_least("trainer.nonfinite_limit", self.nonfinite_limit, 0)
        one_of("trainer.on_nonfinite", self.on_nonfinite, ("stop", "skip"))
        one_of("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))
        one_of("trainer.precision", self.precision, PRECISIONS)
        if self.devices != "auto" and not (type(self.devices) is int and self.devices >= 1):
            raise UserError(f"trainer.devices={self.devices}: a number of processes or GPUs, or auto")
        if self.shard_teacher and self.devices == 1 and self.num_nodes == 1:
            raise UserError(
                "trainer.shard_teacher=true: a teacher is shared out over several processes, and trainer.devices=1: give 2 or "
                "more, or trainer.shard_teacher=false"
            )


@dataclass
class LoggerConfig:
    name: str = "csv"
    mode: str = "offline"
    project: str = "kdlab"
    entity: str | None = None
    group: str | None = None

    def check(self) -> None:
        one_of("logger.mode", self.mode, ("offline", "online", "disabled"))


@dataclass
class SuiteConfig:
    tasks: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [1])
    teacher: bool = True

    def check(self) -> None:
        for name in self.tasks:
            if not isinstance(name, str):
                raise UserError(f"suite.tasks={self.tasks}: names of tasks")
            if plain_name(name) not in TASKS:
                raise UserError(f"suite.tasks: no task is called {name!r}; {nearest(plain_name(name), TASKS)}")
        for key, values in (("tasks", [plain_name(name) for name in self.tasks]), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise UserError(f"suite.{key}={getattr(self, key)}: at least one, and each once")
        at_least("suite.seeds", min(self.seeds), 0)
