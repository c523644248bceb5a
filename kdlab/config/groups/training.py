"""Configuration groups of a training: scale, optimizer, trainer, logger, and a suite of tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from kdlab.config.validators import PRECISIONS, one_of
from kdlab.data.tasks.registry import TASKS, plain_name
from kdlab.errors import UserError, nearest
from kdlab.ranges import (
    BelowOne,
    Count,
    Epochs,
    Epsilon,
    InnerShare,
    LearningRate,
    Positive,
    Processes,
    Range,
    Rows,
    Steps,
    Weight,
    Whole,
)


@dataclass
class ScaleConfig:
    """Size of the default models, data and training."""

    name: str = "demo"
    "demo (a laptop), own (your data, one GPU) or paper (the published settings); picks NAME_demo, ... in other groups"
    says: str = ""
    "Text that a run prints about its scale"


@dataclass
class OptimizerConfig:
    """AdamW with linear warm-up, then linear decay to zero."""

    lr: LearningRate = 5e-4
    "Peak learning rate (DistilBERT script: 5e-4; Dynamic KD Appendix D: 2e-5)"
    betas: list[BelowOne] = field(default_factory=lambda: [0.9, 0.999])
    "Decay rates of AdamW's moments, two numbers"
    eps: Epsilon = 1e-8
    "AdamW's epsilon (DistilBERT script: 1e-6)"
    weight_decay: Weight = 0.0
    "AdamW's weight decay of matrices; biases and normalisation weights have none"
    warmup: BelowOne = 0.1
    "Share of the steps with linear warm-up (Dynamic KD: 0.1; DistilBERT script: 0.05)"
    clip: Positive = 1.0
    "Largest norm of the gradient (DistilBERT script: 5)"

    def check(self) -> None:
        """UserError for another number of betas than two."""
        if len(self.betas) != 2:
            raise UserError(f"optim.betas={self.betas}: two numbers in [0, 1)")


@dataclass
class TrainerConfig:
    """Length of the training, devices, evaluation, checkpoints and faults."""

    max_steps: Steps | None = None
    "Optimizer steps at most; null: no limit. Training ends at the first of max_steps and max_epochs"
    max_epochs: Epochs | None = None
    "Passes over the training rows at most; null: no limit"
    accelerator: str = "auto"
    "Hardware: auto, cpu, gpu, cuda or mps"
    devices: Annotated[Any, Literal["auto"] | Processes] = 1
    "Processes (CPU) or GPUs on each node; auto: all GPUs"
    num_nodes: Processes = 1
    "Machines"
    precision: str = "32-true"
    "32-true, bf16-mixed, 16-mixed, or auto: bf16-mixed where the device multiplies bfloat16 natively, else 32-true"
    accumulate: Annotated[int, Range(1, usual=100_000)] = 1
    "Micro-batches in an optimizer step"
    threads: Processes | None = None
    "CPU threads of a process; null: the machine's cores divided by its processes"
    checkpoint_every: Annotated[Any, Literal["auto"] | Count] = "auto"
    "Optimizer steps between checkpoints; auto: one a minute, fewer if they take over 1/75 of the time"
    evaluate_every: Annotated[Any, Count | InnerShare] = 50
    "Optimizer steps between evaluations on held-out rows; or a share of the run, such as 0.05"
    log_every: Count = 10
    "Optimizer steps between lines of metrics.csv and of loggers: means over the steps since the last line"
    probes: Annotated[int, Range(0, usual=1000)] = 8
    "Steps on whole batches that are timed during training, for the wall-clock speed-up"
    measure_speed: bool = True
    "Time student and teachers on held-out texts after the training (about 2.5 s); false: leave milliseconds out"
    trace_every: Count | None = None
    "Optimizer steps between traces of the rows that each strategy would keep (selected.csv); null: no trace"
    trace_rows: Rows = 512
    "Training rows of a trace"
    on_nonfinite: str = "stop"
    "A step whose loss or gradient is NaN or infinite: stop the run, or skip the update"
    nonfinite_limit: Whole = 10
    "Steps that on_nonfinite=skip leaves out before it stops the run"
    shard_teacher: bool = False
    "true: divide the layers of frozen teachers among all ranks (FSDP2); needs several devices"
    shard_student: bool = False
    "true: divide the student, its gradients and the optimizer's state among all ranks (FSDP2); needs several devices"

    def check(self) -> None:
        """UserError for a value out of range, or a sharded model on one device."""
        one_of("trainer.on_nonfinite", self.on_nonfinite, ("stop", "skip"))
        one_of("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))
        one_of("trainer.precision", self.precision, PRECISIONS)
        for who, given in (("teacher", self.shard_teacher), ("student", self.shard_student)):
            if given and self.devices == 1 and self.num_nodes == 1:
                raise UserError(
                    f"trainer.shard_{who}=true: sharding divides a {who} among several processes, and "
                    f"trainer.devices=1: give 2 or more, or trainer.shard_{who}=false"
                )


@dataclass
class LoggerConfig:
    """Logging besides the CSV files that every run writes."""

    name: str = "csv"
    "csv (files of the run folder alone), tensorboard or wandb"
    mode: str = "offline"
    "wandb: offline, online (needs an account) or disabled"
    project: str = "kdlab"
    "wandb: project"
    entity: str | None = None
    "wandb: user or team; null: the account's default"
    group: str | None = None
    "wandb: group of runs; null: the sweep's name, else the experiment's"

    def check(self) -> None:
        """UserError for an unknown mode."""
        one_of("logger.mode", self.mode, ("offline", "online", "disabled"))


@dataclass
class SuiteConfig:
    """Tasks and seeds on which one model is fine-tuned, a run each."""

    tasks: list[str] = field(default_factory=list)
    "Official tasks, each once"
    seeds: list[Whole] = field(default_factory=lambda: [1])
    "Seeds of the student's runs, each once"
    teacher: bool = True
    "true: fine-tune the teacher on each task too, once, for comparison"

    def check(self) -> None:
        """UserError for an unknown task, and for tasks or seeds that are missing or repeated."""
        for name in self.tasks:
            if not isinstance(name, str):
                raise UserError(f"suite.tasks={self.tasks}: names of tasks")
            if plain_name(name) not in TASKS:
                raise UserError(f"suite.tasks: no task is called {name!r}; {nearest(plain_name(name), TASKS)}")
        for key, values in (("tasks", [plain_name(name) for name in self.tasks]), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise UserError(f"suite.{key}={getattr(self, key)}: at least one, and each once")
