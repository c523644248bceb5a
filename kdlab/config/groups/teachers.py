"""Configuration groups of teachers: models and their training, the answer cache, adoption, weighing of terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from kdlab.config.validators import PRECISIONS, one_of, only_targets, plain
from kdlab.errors import UserError
from kdlab.ranges import (
    BelowOne,
    Count,
    Epochs,
    InnerShare,
    Layers,
    LearningRate,
    Positive,
    Range,
    Rows,
    Steps,
    Temperature,
    Weight,
    Whole,
)

ASSISTANT = "assistant"  # name of a distilled assistant in the ledger and in tables
EXECUTIONS = ("packed", "bucketed", "padded")
FIXED = {"_target_": "kdlab.methods.selection.policies.Fixed"}


@dataclass
class PrepareConfig:
    """Training of a masked-LM head for a teacher without one, once for all runs."""

    max_steps: Steps = 0
    "Optimizer steps"
    batch_size: Rows = 16
    "Rows of a step"
    max_length: Count = 64
    "Tokens of a row at most"
    mask_probability: InnerShare = 0.15
    "Share of the tokens that is masked"
    lr: LearningRate = 5e-4
    "Peak learning rate"
    warmup: BelowOne = 0.1
    "Share of the steps with linear warm-up"
    dropout: BelowOne = 0.0
    "Dropout probability"
    freeze: list[str] = field(default_factory=list)
    "Parts of parameter names; a parameter whose name contains one of them is not trained"
    precision: str = "32-true"
    "32-true, bf16-mixed, 16-mixed, or auto: bf16-mixed where the device multiplies bfloat16 natively, else 32-true"
    seed: Whole = 0
    "Seed of this training, independent of the run's seed"

    def check(self) -> None:
        """UserError for an unknown precision."""
        one_of("teachers.prepare.precision", self.precision, PRECISIONS)


@dataclass
class RecipeConfig:
    """Training of a teacher on a task; it ends at max_epochs or max_steps, whichever comes first."""

    max_epochs: Epochs | None = 3
    "Passes over the training rows at most; null: no limit (Dynamic KD, DeKD: 3)"
    max_steps: Steps | None = None
    "Optimizer steps at most; null: no limit"
    batch_size: Rows = 32
    "Rows of a step (Dynamic KD, DeKD: 32)"
    lr: LearningRate = 2e-5
    "Peak learning rate (Dynamic KD, DeKD: 2e-5; KSM: 5e-5)"
    warmup: BelowOne = 0.1
    "Share of the steps with linear warm-up (Dynamic KD: 0.1)"
    weight_decay: Weight = 0.01
    "AdamW's weight decay"
    dropout: BelowOne | None = None
    "Dropout probability; null: the model's own"
    precision: str = "32-true"
    "32-true, bf16-mixed, 16-mixed, or auto: bf16-mixed where the device multiplies bfloat16 natively, else 32-true"
    seed: Whole = 0
    "Seed of this training, independent of the run's seed"

    def check_training(self, where: str) -> None:
        """UserError for an unknown precision and a training without end; `where` is the dotted name of the group."""
        one_of(f"{where}.precision", self.precision, PRECISIONS)
        if self.max_epochs is None and self.max_steps is None:
            raise UserError(f"{where}: give max_epochs or max_steps; with both, training ends at the first")


@dataclass
class FinetuneConfig(RecipeConfig):
    """Fine-tuning of a teacher that is no classifier of the task yet, once for all runs."""

    freeze: list[str] = field(default_factory=list)
    "Parts of parameter names; a parameter whose name contains one of them is not trained"

    def check(self) -> None:
        """UserError for a value out of range."""
        self.check_training("teachers.finetune")


@dataclass
class OtherTeacherConfig:
    """A further teacher: some layers of the main one, or another model with the same vocabulary."""

    name: str | None = None
    "Hub name of the model; null: the main teacher"
    path: str | None = None
    "Model folder, used instead of name"
    revision: str | None = None
    "Revision (commit, tag or branch) on the Hub; null: the default branch"
    layers: Annotated[Any, Layers | None] = None
    "Layers of the model that this teacher has: a number, a share such as 0.5, or a list from 0; null: all"
    pick: str = "first"
    "Layers that a number takes: even (evenly spaced) or first"

    def check(self, where: str) -> None:
        """UserError for a value out of range, or a copy of the main teacher; `where` is the dotted name."""
        one_of(f"{where}.pick", self.pick, ("even", "first"))
        if self.name is None and self.path is None and self.layers is None:
            raise UserError(
                f"{where} is the main teacher again: give layers= (of the main teacher), or name= or path= (another model)"
            )
        if self.layers == []:
            raise UserError(f"{where}.layers=[]: a number of layers, or a list of them as [0,1,2]")


@dataclass
class TeachersConfig:
    """The teachers of a run: models, how they are trained where they must be, and the cache of their answers."""

    name: str | None = None
    "Hub name of the main teacher, or the bundled all-MiniLM-L6-v2"
    path: str | None = None
    "Model folder of the main teacher, used instead of name; a classifier of the task is used as it is"
    revision: str | None = None
    "Revision (commit, tag or branch) of the main teacher on the Hub; null: the default branch"
    cache: str = "off"
    "Cache of the teachers' answers: off, memory (this process) or disk (artifacts/answers, shared by all runs)"
    cache_vocabulary: str = "full"
    "Logits of a masked position that the cache keeps: full, topk (biased) or sampled (unbiased; Anshumann et al. 2025)"
    cache_k: Count = 50
    "Tokens of the vocabulary that topk and sampled keep at a position"
    cache_fill: str = "together"
    "Forward of missing rows: together, or alone (bits of an answer depend on no other row; slower)"
    cache_limit: Positive = 20.0
    "Largest size of the answers of a run in GB, estimated before models are loaded"
    cache_over: str = "refuse"
    "Above the limit: refuse the run, or continue without a cache"
    cache_trouble: str = "rebuild"
    "Damaged cache or full disk: rebuild the damaged part, continue without a cache, or refuse (stop the run)"
    exec: str = "packed"
    "Execution of a batch where teachers, their heads and assistants are trained: packed, bucketed or padded"
    part_tokens: Annotated[Any, Literal["auto"] | Count | None] = "auto"
    "Tokens at once in these trainings: larger batches are taken in parts, in less memory; auto: 1024 on a CPU; null: all"
    sanity: bool = True
    "true: refuse a teacher that scores no better than the majority class on the dev set"
    split: Annotated[int, Range(2)] | None = None
    "Number of specialists, each fine-tuned on a part of the classes; null: one teacher of all classes"
    others: dict[str, OtherTeacherConfig] = field(default_factory=dict)
    "Further teachers by name: +teachers.others.small.layers=4"
    prepare: PrepareConfig | None = None
    "Training of a masked-LM head for a teacher without one; null: the teacher has one"
    finetune: FinetuneConfig | None = None
    "Fine-tuning of a teacher that is no classifier of the task yet; null: the teacher is one"

    def check(self) -> None:
        """UserError for a value out of range, and for specialists beside further teachers."""
        self._check_cache()
        one_of("teachers.exec", self.exec, EXECUTIONS)
        for name, other in self.others.items():
            if not plain(name) or name == ASSISTANT:
                raise UserError(
                    f"teachers.others: {name!r} cannot be a teacher's name; use letters, digits, _ and -; "
                    f"{ASSISTANT!r} is the name of adopt.assistant"
                )
            other.check(f"teachers.others.{name}")
        if self.split is not None and self.others:
            raise UserError(
                f"teachers.split={self.split} makes specialists of one teacher; it does not go with "
                f"teachers.others ({', '.join(self.others)})"
            )

    def take_recipe(self, saved: Mapping[str, Any]) -> None:
        """Prepare teachers as the run with these settings does (`kdlab.config.saved.with_recipe_of`)."""
        self.exec, self.part_tokens = str(saved["exec"]), saved["part_tokens"]
        if self.prepare is not None:
            self.prepare.precision = str(saved["prepare"]["precision"])

    def _check_cache(self) -> None:
        one_of("teachers.cache", self.cache, ("off", "memory", "disk"))
        one_of("teachers.cache_vocabulary", self.cache_vocabulary, ("full", "topk", "sampled"))
        one_of("teachers.cache_fill", self.cache_fill, ("together", "alone"))
        one_of("teachers.cache_over", self.cache_over, ("refuse", "without"))
        one_of("teachers.cache_trouble", self.cache_trouble, ("rebuild", "without", "refuse"))
        if self.cache == "off" and self.cache_vocabulary != "full":
            raise UserError(
                f"teachers.cache_vocabulary={self.cache_vocabulary}: only a cache uses it, and teachers.cache=off: "
                "teachers.cache=disk or memory"
            )


@dataclass
class AssistantConfig(RecipeConfig):
    """An assistant: between teacher and student in depth, distilled from the teacher first (DeKD section 3.3)."""

    layers: Annotated[Any, Layers | None] = None
    "Teacher layers that initialise it: a number, a share or a list; null: 9 from 12 to 6, 6 from 12 to 3, else halfway"
    pick: str = "even"
    "Layers that a number takes: even (evenly spaced) or first"
    path: str | None = None
    "Model folder of the initial assistant, used instead of layers"
    temperature: Temperature = 1.0
    "Temperature of the soft loss (DeKD section 4.3: 5)"
    label_weight: BelowOne = 0.5
    "Weight of the labels; the teacher's answer has the rest"

    def check(self) -> None:
        """UserError for a value out of range."""
        where = "adopt.assistant"
        one_of(f"{where}.pick", self.pick, ("even", "first"))
        if self.layers == []:
            raise UserError(f"{where}.layers=[]: a number of the teacher's layers, a list as [0,2,4,5], or null")
        self.check_training(where)


@dataclass
class AdoptConfig:
    """Teacher adoption: the teachers whose answers each row learns from, and their weights."""

    name: str = "single"
    "Name of the choice in result.json, tables and figures"
    arms: dict[str, Any] = field(default_factory=dict)
    "Adoption rules by name (_target_ in kdlab.methods.adoption); the policy picks one of them. Empty: one teacher"
    policy: Any = field(default_factory=lambda: dict(FIXED))
    "Policy that picks an arm (_target_ in kdlab.methods.selection.policies) without rewards: Fixed, Schedule, RandMix"
    assistant: AssistantConfig | None = None
    "Assistant that is distilled from the main teacher first; null: none"
    mc_dropout: Annotated[int, Range(0, usual=1000)] = 0
    "Forwards with dropout behind a teacher's uncertainty, each a query (MUKI: 16); 0: the entropy of its one answer"

    def check(self) -> None:
        """UserError for arms that name no code, and for a value out of range."""
        only_targets("adopt.arms", self.arms)


@dataclass
class WeighConfig:
    """Weighing of knowledge: factors of the terms' fixed weights, for each step or row."""

    name: str = "fixed"
    "Name of the choice in tables and figures"
    arms: dict[str, Any] = field(default_factory=dict)
    "Weighing rules by name (_target_ in kdlab.methods: weighing, KSM); the policy picks one. Empty: factors of 1"
    policy: Any = field(default_factory=lambda: dict(FIXED))
    "Policy that picks an arm (_target_ in kdlab.methods.selection.policies) without rewards: Fixed, Schedule, RandMix"
    path: str | None = None
    "Folder of a trained knowledge selection module (an artifact), also of another task; null: train one"
    episodes: Annotated[int, Range(0, usual=1000)] = 0
    "KSM: trainings of a new student in which the module learns (not printed; 2 for QQP in KSM Fig. 5)"
    phase: Count = 32
    "KSM: optimizer steps between two rewards (KSM Table 5: 32, 64, 96 or 128)"
    reward: str = "loss"
    "KSM: fall of the student's loss, or rise of its accuracy or f1, over a phase (KSM: loss)"
    reward_data: str = "heldout"
    "KSM: rows of the reward: heldout (of the training rows) or dev (the paper's; tables mark such scores)"
    reward_rows: Rows = 256
    "KSM: training rows held out for the reward"

    def check(self) -> None:
        """UserError for arms that name no code, and for a value out of range."""
        only_targets("weigh.arms", self.arms)
        one_of("weigh.reward", self.reward, ("loss", "accuracy", "f1"))
        one_of("weigh.reward_data", self.reward_data, ("heldout", "dev"))
