"""Configuration groups of teachers: models and their training, the answer cache, adoption, weighing of terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kdlab.config.validators import (
    PRECISIONS,
    at_least,
    below_one,
    number_or_list,
    one_of,
    only_targets,
    plain,
    positive,
    share,
)
from kdlab.errors import UserError

ASSISTANT = "assistant"  # name of a distilled assistant in the ledger and in tables
FIXED = {"_target_": "kdlab.methods.selection.policies.Fixed"}


@dataclass
class PrepareConfig:
    """Training of a masked-LM head for a teacher without one, once for all runs."""

    max_steps: int = 0
    "Optimizer steps, at least 1"
    batch_size: int = 16
    "Rows of a step, at least 1"
    max_length: int = 64
    "Tokens of a row at most, at least 1"
    mask_probability: float = 0.15
    "Share of the tokens that is masked, in (0, 1)"
    lr: float = 5e-4
    "Peak learning rate, above 0"
    warmup: float = 0.1
    "Share of the steps with linear warm-up, in [0, 1)"
    dropout: float = 0.0
    "Dropout probability, in [0, 1)"
    freeze: list[str] = field(default_factory=list)
    "Parts of parameter names; a parameter whose name contains one of them is not trained"
    seed: int = 0
    "Seed of this training, independent of the run's seed"

    def check(self) -> None:
        """UserError for a value out of range."""
        for name in ("max_steps", "batch_size", "max_length"):
            at_least(f"teachers.prepare.{name}", getattr(self, name), 1)
        positive("teachers.prepare.lr", self.lr)
        share("teachers.prepare.mask_probability", self.mask_probability, below_one=True)
        below_one("teachers.prepare.dropout", self.dropout)
        below_one("teachers.prepare.warmup", self.warmup)


@dataclass
class RecipeConfig:
    """Training of a teacher on a task; it ends at max_epochs or max_steps, whichever comes first."""

    max_epochs: int | None = 3
    "Passes over the training rows at most, at least 1; null: no limit (Dynamic KD, DeKD: 3)"
    max_steps: int | None = None
    "Optimizer steps at most, at least 1; null: no limit"
    batch_size: int = 32
    "Rows of a step, at least 1 (Dynamic KD, DeKD: 32)"
    lr: float = 2e-5
    "Peak learning rate, above 0 (Dynamic KD, DeKD: 2e-5; KSM: 5e-5)"
    warmup: float = 0.1
    "Share of the steps with linear warm-up, in [0, 1) (Dynamic KD: 0.1)"
    weight_decay: float = 0.01
    "AdamW's weight decay, at least 0"
    dropout: float | None = None
    "Dropout probability, in [0, 1); null: the model's own"
    precision: str = "32-true"
    "32-true, bf16-mixed, 16-mixed, or auto: bf16-mixed where the device multiplies bfloat16 natively, else 32-true"
    seed: int = 0
    "Seed of this training, independent of the run's seed"

    def check_training(self, where: str) -> None:
        """UserError for a value out of range; `where` is the dotted name of the group."""
        one_of(f"{where}.precision", self.precision, PRECISIONS)
        if self.max_epochs is None and self.max_steps is None:
            raise UserError(f"{where}: give max_epochs or max_steps; with both, training ends at the first")
        for name in ("max_epochs", "max_steps", "batch_size"):
            if getattr(self, name) is not None:
                at_least(f"{where}.{name}", getattr(self, name), 1)
        positive(f"{where}.lr", self.lr)
        below_one(f"{where}.warmup", self.warmup)
        if self.dropout is not None:
            below_one(f"{where}.dropout", self.dropout)
        if self.weight_decay < 0:
            raise UserError(f"{where}.weight_decay={self.weight_decay}: not below 0")


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
    layers: Any = None
    "Layers of the model that this teacher has: a number or a list from 0; null: all"
    pick: str = "first"
    "Layers that a number takes: even (evenly spaced) or first"

    def check(self, where: str) -> None:
        """UserError for a value out of range, or a copy of the main teacher; `where` is the dotted name."""
        one_of(f"{where}.pick", self.pick, ("even", "first"))
        if self.name is None and self.path is None and self.layers is None:
            raise UserError(
                f"{where} is the main teacher again: give layers= (of the main teacher), or name= or path= (another model)"
            )
        if self.layers is not None and not number_or_list(self.layers):
            raise UserError(f"{where}.layers={self.layers}: a number of layers, or a list of them as [0,1,2]")


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
    cache_k: int = 50
    "Tokens of the vocabulary that topk and sampled keep at a position, at least 1"
    cache_fill: str = "together"
    "Forward of missing rows: together, or alone (bits of an answer depend on no other row; slower)"
    cache_limit: float = 20.0
    "Largest size of the answers of a run in GB, above 0, estimated before models are loaded"
    cache_over: str = "refuse"
    "Above the limit: refuse the run, or continue without a cache"
    cache_trouble: str = "rebuild"
    "Damaged cache or full disk: rebuild the damaged part, continue without a cache, or refuse (stop the run)"
    sanity: bool = True
    "true: refuse a teacher that scores no better than the majority class on the dev set"
    split: int | None = None
    "Number of specialists, at least 2, each fine-tuned on a part of the classes; null: one teacher of all classes"
    others: dict[str, OtherTeacherConfig] = field(default_factory=dict)
    "Further teachers by name: +teachers.others.small.layers=4"
    prepare: PrepareConfig | None = None
    "Training of a masked-LM head for a teacher without one; null: the teacher has one"
    finetune: FinetuneConfig | None = None
    "Fine-tuning of a teacher that is no classifier of the task yet; null: the teacher is one"

    def check(self) -> None:
        """UserError for a value out of range, and for specialists beside further teachers."""
        self._check_cache()
        for name, other in self.others.items():
            if not plain(name) or name == ASSISTANT:
                raise UserError(
                    f"teachers.others: {name!r} cannot be a teacher's name; use letters, digits, _ and -; "
                    f"{ASSISTANT!r} is the name of adopt.assistant"
                )
            other.check(f"teachers.others.{name}")
        if self.split is not None:
            at_least("teachers.split", self.split, 2)
            if self.others:
                raise UserError(
                    f"teachers.split={self.split} makes specialists of one teacher; it does not go with "
                    f"teachers.others ({', '.join(self.others)})"
                )

    def _check_cache(self) -> None:
        one_of("teachers.cache", self.cache, ("off", "memory", "disk"))
        one_of("teachers.cache_vocabulary", self.cache_vocabulary, ("full", "topk", "sampled"))
        one_of("teachers.cache_fill", self.cache_fill, ("together", "alone"))
        one_of("teachers.cache_over", self.cache_over, ("refuse", "without"))
        one_of("teachers.cache_trouble", self.cache_trouble, ("rebuild", "without", "refuse"))
        at_least("teachers.cache_k", self.cache_k, 1)
        positive("teachers.cache_limit", self.cache_limit)
        if self.cache == "off" and self.cache_vocabulary != "full":
            raise UserError(
                f"teachers.cache_vocabulary={self.cache_vocabulary}: only a cache uses it, and teachers.cache=off: "
                "teachers.cache=disk or memory"
            )


@dataclass
class AssistantConfig(RecipeConfig):
    """An assistant: between teacher and student in depth, distilled from the teacher first (DeKD section 3.3)."""

    layers: Any = None
    "Teacher layers that initialise it: a number or a list from 0; null: 9 from 12 to 6, 6 from 12 to 3, else halfway"
    pick: str = "even"
    "Layers that a number takes: even (evenly spaced) or first"
    path: str | None = None
    "Model folder of the initial assistant, used instead of layers"
    temperature: float = 1.0
    "Temperature of the soft loss, above 0 (DeKD section 4.3: 5)"
    label_weight: float = 0.5
    "Weight of the labels in [0, 1); the teacher's answer has the rest"

    def check(self) -> None:
        """UserError for a value out of range."""
        where = "adopt.assistant"
        one_of(f"{where}.pick", self.pick, ("even", "first"))
        if self.layers is not None and not number_or_list(self.layers):
            raise UserError(
                f"{where}.layers={self.layers}: a number of the teacher's layers, a list as [0,2,4,5], or null"
            )
        self.check_training(where)
        positive(f"{where}.temperature", self.temperature)
        below_one(f"{where}.label_weight", self.label_weight)


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
    mc_dropout: int = 0
    "Forwards with dropout behind a teacher's uncertainty, each a query (MUKI: 16); 0: the entropy of its one answer"

    def check(self) -> None:
        """UserError for arms that name no code, and for a value out of range."""
        only_targets("adopt.arms", self.arms)
        at_least("adopt.mc_dropout", self.mc_dropout, 0)


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
    episodes: int = 0
    "KSM: trainings of a new student in which the module learns, at least 0 (not printed; 2 for QQP in KSM Fig. 5)"
    phase: int = 32
    "KSM: optimizer steps between two rewards, at least 1 (KSM Table 5: 32, 64, 96 or 128)"
    reward: str = "loss"
    "KSM: fall of the student's loss, or rise of its accuracy or f1, over a phase (KSM: loss)"
    reward_data: str = "heldout"
    "KSM: rows of the reward: heldout (of the training rows) or dev (the paper's; tables mark such scores)"
    reward_rows: int = 256
    "KSM: training rows held out for the reward, at least 1"

    def check(self) -> None:
        """UserError for arms that name no code, and for a value out of range."""
        only_targets("weigh.arms", self.arms)
        one_of("weigh.reward", self.reward, ("loss", "accuracy", "f1"))
        one_of("weigh.reward_data", self.reward_data, ("heldout", "dev"))
        at_least("weigh.episodes", self.episodes, 0)
        for name in ("phase", "reward_rows"):
            at_least(f"weigh.{name}", getattr(self, name), 1)
