"""Configuration groups: typed fields, one documentation line each, and every check that needs only their values.

The string below a field is its documentation: `kdlab run --explain KEY` and `docs/configuration.md` print it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from kdlab.config.validators import PRECISIONS, one_of, sampled
from kdlab.data.tasks.registry import TASKS, plain_name
from kdlab.errors import UserError, nearest
from kdlab.ranges import (
    BelowOne,
    Count,
    Epochs,
    Epsilon,
    InnerShare,
    Layers,
    LearningRate,
    Positive,
    Probability,
    Processes,
    Range,
    Rows,
    Share,
    Steps,
    Temperature,
    Weight,
    Whole,
    Width,
)

_REWARDS = "kdlab.methods.selection.rewards"
REWARDS: dict[str, dict[str, Any]] = {  # names that select.reward takes
    "loss_decay": {"_target_": f"{_REWARDS}.LossDecay"},
    "trend": {"_target_": f"{_REWARDS}.Trend"},
    "per_flop": {"_target_": f"{_REWARDS}.FallPerCost", "per": "flops"},
    "per_query": {"_target_": f"{_REWARDS}.FallPerCost", "per": "queries"},
    "probe": {"_target_": f"{_REWARDS}.Probe"},
}
REWARD_NAMES = tuple(REWARDS)
PROBE = REWARDS["probe"]["_target_"]
AUTO = "auto"  # select.look, select.interval, select.evaluation_rows: derived from the models and the training
TEACHER = "teacher"  # of select.reference


@dataclass
class ScaleConfig:
    """Size of the default models, data and training."""

    name: str = "demo"
    "demo (a laptop), own (your data, one GPU) or paper (the published settings); picks NAME_demo, ... in other groups"
    says: str = ""
    "Text that a run prints about its scale"


@dataclass
class LoRAConfig:
    """Low-rank adapters that train in place of the student's own weights (Hu et al. 2022; the extra lora)."""

    rank: Annotated[int, Range(1, usual=4096)] | None = None
    "Rank of the adapters (Hu et al. 2022: 1 to 64); null: no adapters, the student's own weights train"
    alpha: Positive | None = None
    "Adapters are multiplied by alpha / rank; null: 2 rank"
    targets: Annotated[Any, Literal["all"] | list[str]] = "all"
    "Linear layers with adapters, by the ends of their names, such as [q_proj,v_proj]; all: those of every layer"
    dropout: BelowOne = 0.0
    "Dropout probability of the adapters' inputs"

    def check(self) -> None:
        """UserError for settings of adapters that are not there."""
        for name, default in (("alpha", None), ("targets", "all"), ("dropout", 0.0)):
            if self.rank is None and (value := getattr(self, name)) != default:
                raise UserError(f"student.lora.{name}={value}: without student.lora.rank there are no adapters")
        if self.targets == []:
            raise UserError("student.lora.targets=[]: names of linear layers, such as [q_proj,v_proj], or all")


@dataclass
class StudentConfig:
    """The student's architecture and its initial weights."""

    layers: Annotated[Any, Literal["all"] | Layers | None] = None
    "Teacher layers that initialise the student: a number, a share such as 0.5, a list such as [0,2,4] (from 0), or all"
    start: str = "backbone"
    "finetune: model that gives its layers: backbone (before fine-tuning, with a new head) or teacher (with its own)"
    pick: str = "even"
    "Layers that a number takes: even (evenly spaced) or first (Dynamic KD, KSM: the first L)"
    path: str | None = None
    "Model folder or Hub name of the initial student, used instead of layers; its vocabulary must be the teacher's"
    revision: str | None = None
    "Revision (commit, tag or branch) of the initial student on the Hub; null: the default branch"
    hidden: Width | None = None
    "Hidden size of a narrower student of random weights, with a number of layers; null: the teacher's"
    dropout: BelowOne | None = None
    "Dropout probability of the student; null: the teacher's"
    freeze: list[str] = field(default_factory=list)
    "Parts of names; parameters whose name contains one are not trained (DistilBERT: position_embeddings)"
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    "Low-rank adapters that train in place of the student's own weights"
    gradient_checkpointing: bool = False
    "true: layers keep their inputs alone and run anew in the backward: less memory, a forward more"

    def check(self) -> None:
        """UserError for a value out of range, or a hidden size that contradicts the other fields."""
        one_of("student.pick", self.pick, ("even", "first"))
        one_of("student.start", self.start, ("backbone", "teacher"))
        if self.start == "teacher" and (self.path is not None or self.hidden is not None):
            other = f"student.path={self.path}" if self.path is not None else f"student.hidden={self.hidden}"
            raise UserError(
                f"student.start=teacher {other}: a student of another model or width cannot take the teacher's layers and "
                "head; student.start=backbone, or student.layers= with student.path=null and student.hidden=null"
            )
        layers = self.layers
        if self.revision is not None and self.path is None:
            raise UserError(f"student.revision={self.revision}: that of student.path, a Hub name, which is null")
        if self.path is None and layers in (None, []):
            raise UserError(
                f"student.layers={layers}: a number of layers, a share of the teacher's as 0.5, a list as [0,2,4], or all"
            )
        if self.hidden is not None and (self.path is not None or type(layers) is not int):
            raise UserError(
                f"student.hidden={self.hidden}: a narrower student starts from random weights, so student.layers= "
                "is a number of layers and student.path is null"
            )
        if self.hidden is not None and self.lora.rank is not None:
            raise UserError(
                f"student.hidden={self.hidden} student.lora.rank={self.lora.rank}: adapters change weights that know something, "
                "and a narrower student starts from random ones; student.lora.rank=null"
            )


@dataclass
class SelectConfig:
    """Data selection: the rows of a batch that query the teacher."""

    name: str = "all"
    "Name of the choice in result.json, tables and figures"
    ratio: Share = 1.0
    "Share of each batch that is kept and queries the teacher (AdaDS: 0.1)"
    ratios: Annotated[Any, Literal["auto"] | list[Share] | None] = None
    "Ratios to choose among, so that select.ratio is their mean; auto: half, once and three times it; null: ratio alone"
    unit: str = "row"
    "Units chosen: row, position (of text: the share ratio of the predicted tokens) or both (rows, then positions)"
    positions: Share = 0.2
    "unit=both: share of the positions of the kept rows that are kept (SE-KD: 0.2)"
    per_row: bool = True
    "unit=position or both: true keeps that share of each row's positions, false of the batch's"
    pool: Annotated[Any, Literal["batch"] | Rows] = "batch"
    "batch: select from the rows of a batch; N: score N rows and keep data.batch_size of them, which sets the ratio"
    look: Annotated[Any, Literal["auto"] | Share] = 1.0
    "Share of each batch that is scored, drawn at random; the rows kept are among these. auto: by the teacher's cost"
    scope: str = "global"
    "global: keep the best rows of the batches of all ranks together; local: of each rank's batch"
    scoring: str = "fresh"
    "Scores: fresh (a forward of the student), stale (of the row's last visit) or early_exit (of the first layers)"
    refresh: Count = 2
    "scoring=stale: epochs after which a row is scored again"
    exit_layer: Count | None = None
    "scoring=early_exit: number of student layers that compute the score; null: half of them"
    votes: Annotated[Any, Literal["exits"] | Annotated[int, Range(1, usual=100)]] = "exits"
    "Committee of strategies that need one: exits (of the student's layers), or a number of forwards with dropout"
    explore: Probability = 0.0
    "Share of the kept rows that are random ones of all the others, whatever the strategy"
    balance: str = "none"
    "Classes that keep equally many rows: none, predicted (by the student) or label"
    temperature: Temperature | None = None
    "Sample rows with weight exp(r / temperature), r the normalised rank of the score from 0 to 1; null: the best rows"
    importance: bool = False
    "true: weigh sampled rows so that the loss is an unbiased estimate of the whole batch's mean"
    warmup: BelowOne = 0.0
    "Share of the training in which random rows are kept first; the policy and its rewards begin after it"
    interval: Annotated[Any, Literal["auto"] | Count] = "auto"
    "Optimizer steps between two observations of an adaptive policy (not printed in AdaDS); auto: about 8 % of the rows"
    observe: str = "task"
    "Observed loss: task (labels, masked words), kd (teacher's answers too), held_out (rows not trained on), or scored"
    evaluation_rows: Annotated[Any, Literal["auto"] | Rows] = "auto"
    "Training rows of an observation, drawn once (M of AdaDS Eq. 11, not printed); auto: 256, fewer in short trainings"
    reference: str = TEACHER
    "Model whose loss select=reducible subtracts: teacher (its cached answers), or a trained model's folder or run folder"
    arms: dict[str, Any] = field(default_factory=dict)
    "Selection strategies by name (_target_ in kdlab.methods.selection.strategies); the policy picks one of them"
    policy: Any = None
    "Policy that picks an arm (_target_ in kdlab.methods.selection.policies), such as Fixed, Schedule, Online, UCB"
    reward: Any = None
    "Reward that an adaptive policy learns from: trend, per_flop, per_query, probe, loss_decay, a _target_, or null"
    credit_decay: BelowOne = 0.0
    "Effect of an arm on the loss left one optimizer step later (AdamW's momentum: 0.9); 0: credit the arm in force"
    credit_delay: Whole = 0
    "Observations between an arm and the reward that it is credited; 0: the arm in force before the observation"
    probe_every: Count | None = None
    "Optimizer steps between paired probes, which try every arm from the same weights (probe.csv); null: none"
    probe_steps: Annotated[int, Range(1, usual=1000)] = 10
    "Optimizer steps that a probe gives each arm"

    def check(self) -> None:
        """UserError for a value out of range; sets ratio and look of select=all to 1."""
        if self.name == "all":
            self.ratio = self.look = 1.0  # an experiment's ratio is for its own strategy
            self.unit = "row"
        one_of("select.unit", self.unit, ("row", "position", "both"))
        if self.unit != "row":
            self._check_positions()
        if isinstance(self.ratios, list) and len({*self.ratios}) < 2:
            raise UserError(f"select.ratios={self.ratios}: two different ratios or more, auto, or null")
        one_of("select.scope", self.scope, ("global", "local"))
        one_of("select.observe", self.observe, ("task", "kd", "held_out", "scored"))
        if isinstance(self.reward, str):
            one_of("select.reward", self.reward, REWARD_NAMES)
            self.reward = dict(REWARDS[self.reward])
        one_of("select.scoring", self.scoring, ("fresh", "stale", "early_exit"))
        one_of("select.balance", self.balance, ("none", "predicted", "label"))
        sampled(self.importance, self.temperature, self.balance)
        if self.scoring == "stale" and self.scope == "local":
            raise UserError(
                "select.scoring=stale select.scope=local: a row may be scored on another rank at its next visit, and "
                "only global selection shares the scores; select.scope=global"
            )

    def _check_positions(self) -> None:
        """UserError for settings that positions do not have: they are scored from the training forward, all of them."""
        where = f"select.unit={self.unit}"
        if self.scoring != "fresh":
            raise UserError(
                f"{where} select.scoring={self.scoring}: positions are scored from the training forward itself, at no cost "
                "but the head's; select.scoring=fresh"
            )
        if self.unit == "position" and self.look == AUTO:
            self.look = 1.0
        if self.unit == "position" and self.look != 1:
            raise UserError(
                f"{where} select.look={self.look:g}: the forward that scores positions is the training's own, so none is "
                "saved; select.look=1"
            )
        if self.unit == "position" and self.pool != "batch":
            raise UserError(
                f"{where} select.pool={self.pool}: a pool is of rows; select.ratio is the share of positions"
            )
        if self.unit == "both" and 1 in (self.ratio, self.positions) and self.pool == "batch":
            rest = "position" if self.ratio == 1 else "row"
            raise UserError(
                f"{where} select.{'ratio' if self.ratio == 1 else 'positions'}=1 keeps all of them: select.unit={rest} "
                f"select.ratio={self.positions if self.ratio == 1 else self.ratio:g}"
            )

    def position_share(self, most: bool = False) -> float:
        """The share of the positions of the rows kept that is kept, on average or at most; 1 where all are."""
        if self.unit == "row" or self.ratio == 1:
            return 1.0
        if self.unit == "both":
            return self.positions
        return self.ratio_choices()[-1] if most else self.ratio

    def chosen(self) -> str:
        """The share that is selected, in words: "10% of the rows"."""
        if self.unit == "row" or self.ratio == 1:
            return f"{self.ratio:.0%} of the rows"
        if self.unit == "position":
            return f"{self.ratio:.0%} of the positions of all rows"
        return f"{self.ratio:.0%} of the rows, and {self.positions:.0%} of their positions,"

    def ratio_choices(self) -> tuple[float, ...]:
        """The ratios that a policy chooses among, ascending; `ratio` alone where it chooses none."""
        if self.ratios is None:
            return (self.ratio,)
        given = (self.ratio / 2, self.ratio, min(1.0, 3 * self.ratio)) if self.ratios == AUTO else self.ratios
        return tuple(sorted({float(ratio) for ratio in given}))


@dataclass
class TermConfig:
    """A term of the loss: one kind of knowledge with its weight."""

    weight: Weight = 1.0
    "Weight of the term in the loss; 0 leaves the term out"
    at: str = "all"
    "Units: labelled or masked (labelled rows, masked positions), all (rows, tokens) or tokens (rows by length)"
    since: BelowOne = 0.0
    "Share of the training at which the term begins to count"
    until: Share = 1.0
    "Share of the training at which the term ceases to count, above since"
    teacher: str = "adopted"
    "Teacher that the term reads: adopted (those that adoption gives a row) or largest (for every row; DeKD's layers)"
    trains: str = "all"
    "Parameters that a term on logits trains: all, or head (a task's classifier, without gradient into the layers below)"
    term: Any = None
    "Function or class of the term (_target_ in kdlab.methods.knowledge) and its arguments, such as temperature"


@dataclass
class KnowledgeConfig:
    """The loss: terms of knowledge and their weights."""

    name: str = "distilbert"
    "Name of the choice in result.json, tables and figures"
    reduce: str = "tokens"
    "Mean of the loss: tokens (over the positions of all rows, DistilBERT script) or rows (over rows of row means)"
    ce_on: str = "masked"
    "Positions of the soft loss on text: masked, or all real tokens (DistilBERT script)"
    labels_on: str = "selected"
    "Rows whose labels are learned: selected, or all rows of the batch (Dynamic KD's public code)"
    phases: list[InnerShare] = field(default_factory=list)
    "Shares of the training at which the learning rate schedule restarts (TinyBERT: 20 of 23 epochs)"
    phase_lrs: list[LearningRate] = field(default_factory=list)
    "Peak learning rates, one for each phase (one more than phases); empty: optim.lr (TinyBERT: 5e-5, 2e-5)"
    terms: dict[str, TermConfig] = field(default_factory=dict)
    "Terms of the loss by name; knowledge.terms.NAME.weight=0 leaves one out"

    def check(self) -> None:
        """UserError for a value out of range, and where no term counts in a part of the training."""
        one_of("knowledge.reduce", self.reduce, ("tokens", "rows"))
        one_of("knowledge.ce_on", self.ce_on, ("masked", "all"))
        one_of("knowledge.labels_on", self.labels_on, ("selected", "all"))
        if not any(term.weight > 0 for term in self.terms.values()):
            raise UserError("knowledge.terms: no term has a positive weight, so there is nothing to learn")
        for name, term in self.terms.items():
            one_of(f"knowledge.terms.{name}.at", term.at, ("masked", "labelled", "all", "tokens"))
            one_of(f"knowledge.terms.{name}.teacher", term.teacher, ("adopted", "largest"))
            one_of(f"knowledge.terms.{name}.trains", term.trains, ("all", "head"))
            if not term.since < term.until:
                raise UserError(
                    f"knowledge.terms.{name}: it counts from since={term.since} until={term.until}, shares of the "
                    "training with 0 <= since < until <= 1"
                )
        if self.phase_lrs and len(self.phase_lrs) != len(self.phases) + 1:
            raise UserError(
                f"knowledge.phase_lrs={self.phase_lrs}: knowledge.phases={self.phases} make {len(self.phases) + 1} phases, "
                "so as many learning rates, or none"
            )
        covered = 0.0
        for term in sorted((t for t in self.terms.values() if t.weight > 0), key=lambda t: t.since):
            if term.since > covered:
                break
            covered = max(covered, term.until)
        if covered < 1:
            raise UserError(f"knowledge.terms: no term counts after {covered:g} of the training, until the next begins")


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
