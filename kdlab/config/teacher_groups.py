"""What a configuration may say of teachers: which there are, how they are made, who is heeded, how terms are weighed."""

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

ASSISTANT = "assistant"  # what a distilled assistant is called, in the ledger and in tables
FIXED = {"_target_": "kdlab.methods.selection.policies.Fixed"}


@dataclass
class PrepareConfig:
    max_steps: int = 0
    batch_size: int = 16
    max_length: int = 64
    mask_probability: float = 0.15
    lr: float = 5e-4
    warmup: float = 0.1
    dropout: float = 0.0
    freeze: list[str] = field(default_factory=list)
    seed: int = 0

    def check(self) -> None:
        for name in ("max_steps", "batch_size", "max_length"):
            at_least(f"teachers.prepare.{name}", getattr(self, name), 1)
        positive("teachers.prepare.lr", self.lr)
        share("teachers.prepare.mask_probability", self.mask_probability, below_one=True)
        below_one("teachers.prepare.dropout", self.dropout)
        below_one("teachers.prepare.warmup", self.warmup)


@dataclass
class RecipeConfig:
    """How a teacher is trained; of max_epochs and max_steps, what is reached first ends it."""

    max_epochs: int | None = 3
    max_steps: int | None = None
    batch_size: int = 32
    lr: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    dropout: float | None = None
    precision: str = "32-true"
    seed: int = 0

    def check_training(self, where: str) -> None:
        one_of(f"{where}.precision", self.precision, PRECISIONS)
        if self.max_epochs is None and self.max_steps is None:
            raise UserError(f"{where}: give max_epochs or max_steps; of both, what is reached first ends it")
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
    freeze: list[str] = field(default_factory=list)

    def check(self) -> None:
        self.check_training("teachers.finetune")


@dataclass
class OtherTeacherConfig:
    name: str | None = None
    path: str | None = None
    revision: str | None = None
    layers: Any = None
    pick: str = "first"

    def check(self, where: str) -> None:
        one_of(f"{where}.pick", self.pick, ("even", "first"))
        if self.name is None and self.path is None and self.layers is None:
            raise UserError(
                f"{where} is the main teacher again: give layers= (of the main teacher), or name= or path= (another model)"
            )
        if self.layers is not None and not number_or_list(self.layers):
            raise UserError(f"{where}.layers={self.layers}: a number of layers, or a list of them as [0,1,2]")


@dataclass
class TeachersConfig:
    name: str | None = None
    path: str | None = None
    revision: str | None = None
    cache: str = "off"
    cache_vocabulary: str = "full"
    cache_k: int = 50
    cache_fill: str = "together"
    cache_limit: float = 20.0
    cache_over: str = "refuse"
    cache_trouble: str = "rebuild"
    sanity: bool = True
    split: int | None = None
    others: dict[str, OtherTeacherConfig] = field(default_factory=dict)
    prepare: PrepareConfig | None = None
    finetune: FinetuneConfig | None = None

    def check(self) -> None:
        self._check_cache()
        for name, other in self.others.items():
            if not plain(name) or name == ASSISTANT:
                raise UserError(
                    f"teachers.others: {name!r} cannot be a teacher's name; letters, digits, _ and - make one, and "
                    f"{ASSISTANT!r} is what adopt.assistant makes"
                )
            other.check(f"teachers.others.{name}")
        if self.split is not None:
            at_least("teachers.split", self.split, 2)
            if self.others:
                raise UserError(
                    f"teachers.split={self.split} makes specialists out of one teacher; it does not go with "
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
                f"teachers.cache_vocabulary={self.cache_vocabulary} says what a cache keeps, and there is none: "
                "teachers.cache=disk or memory"
            )


@dataclass
class AssistantConfig(RecipeConfig):
    layers: Any = None
    pick: str = "even"
    path: str | None = None
    temperature: float = 1.0
    label_weight: float = 0.5

    def check(self) -> None:
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
    name: str = "single"
    arms: dict[str, Any] = field(default_factory=dict)
    policy: Any = field(default_factory=lambda: dict(FIXED))
    assistant: AssistantConfig | None = None

    def check(self) -> None:
        only_targets("adopt.arms", self.arms)


@dataclass
class WeighConfig:
    name: str = "fixed"
    arms: dict[str, Any] = field(default_factory=dict)
    policy: Any = field(default_factory=lambda: dict(FIXED))
    path: str | None = None
    episodes: int = 0
    phase: int = 32
    reward: str = "loss"
    reward_data: str = "heldout"
    reward_rows: int = 256

    def check(self) -> None:
        only_targets("weigh.arms", self.arms)
        one_of("weigh.reward", self.reward, ("loss", "accuracy", "f1"))
        one_of("weigh.reward_data", self.reward_data, ("heldout", "dev"))
        at_least("weigh.episodes", self.episodes, 0)
        for name in ("phase", "reward_rows"):
            at_least(f"weigh.{name}", getattr(self, name), 1)
