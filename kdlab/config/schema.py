"""The whole configuration, typed, and every check that needs neither models nor data.

The string below a field is its documentation, as in `kdlab.config.groups`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, reduce
from typing import Any, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdlab.config import short_names, spellings, targets
from kdlab.config.field_types import group_in, single_values
from kdlab.config.groups.budget import BudgetConfig
from kdlab.config.groups.data import DataConfig
from kdlab.config.groups.knowledge import KnowledgeConfig
from kdlab.config.groups.select import PROBE, SelectConfig
from kdlab.config.groups.student import StudentConfig
from kdlab.config.groups.teachers import (
    EXECUTIONS,
    AdoptConfig,
    TeachersConfig,
    WeighConfig,
)
from kdlab.config.groups.training import LoggerConfig, OptimizerConfig, ScaleConfig, SuiteConfig, TrainerConfig
from kdlab.config.validators import one_of
from kdlab.errors import UserError
from kdlab.ranges import Whole, check


@dataclass
class Config:
    """The whole configuration, typed: `conf/run.yaml` and its groups, after every override."""

    name: str = "distill"
    "First folder below outputs/; an experiment sets its own name"
    seed: Whole = 1
    "Seed of every random choice of the run"
    artifacts: str = "artifacts"
    "Folder of teachers, prepared data and other things that runs share"
    overwrite: bool = False
    "true: replace the run that the chosen folder holds, finished or not"
    resume: bool = True
    "Resume an unfinished run of the same configuration; false: start a new one"
    no_kd_baseline: bool = False
    "finetune: also train the student on labels alone, once for all runs, and print its score beside"
    figures: bool = True
    "Draw the run's figures at its end; false saves the 2 to 3 seconds that this takes"
    keep: str = "all"
    "Files after success: all; best (no checkpoints; of a sweep the best students); none (no student either)"
    predictions: Whole = 100_000
    "finetune: rows at most in each of predictions/dev.csv and test.csv; 0 writes no predictions"
    confirm: list[str] = field(default_factory=list)
    "Keys whose unusually large value is meant, such as [trainer.max_steps]; it is refused otherwise"
    exec: str = "packed"
    "Execution of a batch: packed (texts share rows, no padding), bucketed (by similar length) or padded"
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    "Size of the default models, data and training"
    data: DataConfig = field(default_factory=DataConfig)
    "Rows to learn from"
    teachers: TeachersConfig = field(default_factory=TeachersConfig)
    "Teachers, their training and their cache"
    student: StudentConfig = field(default_factory=StudentConfig)
    "Architecture and initial weights of the student"
    select: SelectConfig = field(default_factory=SelectConfig)
    "Data selection: which rows query the teacher?"
    adopt: AdoptConfig = field(default_factory=AdoptConfig)
    "Teacher adoption: which teacher speaks to each row?"
    weigh: WeighConfig = field(default_factory=WeighConfig)
    "Weighing: how much does each term of knowledge count?"
    knowledge: KnowledgeConfig = field(default_factory=KnowledgeConfig)
    "Terms of the loss and their fixed weights: which knowledge counts?"
    optim: OptimizerConfig = field(default_factory=OptimizerConfig)
    "Optimizer and learning rate schedule"
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    "Length of the training, devices, evaluation, checkpoints"
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    "Costs that end the training, for which its schedule is planned"
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    "Logging besides the CSV files"
    suite: SuiteConfig | None = None
    "Tasks and seeds to fine-tune one model on, a run each (+exp=glue); null: one run"

    def check(self) -> None:
        """UserError for a contradiction between groups."""
        self._selection()
        if self.trainer.max_steps is None and self.trainer.max_epochs is None and not self.budget.given:
            raise UserError(
                "trainer.max_steps and trainer.max_epochs are both null, and there is no budget: give one of them; training "
                "ends at the first"
            )
        one_of("exec", self.exec, EXECUTIONS)
        one_of("keep", self.keep, ("all", "best", "none"))
        if not self.name or any(part in ("", ".", "..") for part in self.name.split("/")):
            raise UserError(f"name={self.name!r}: the name of a folder below outputs/")
        if self.trainer.trace_every is not None and (self.data.stage != "finetune" or self.select.ratio == 1):
            raise UserError(
                f"trainer.trace_every={self.trainer.trace_every}: a trace has the rows of a task that selection keeps; "
                f"this run has stage {self.data.stage} and select.ratio={self.select.ratio:g}"
            )
        self._rewards()
        if not self.teachers.name and not self.teachers.path:
            raise UserError("no teacher: give teachers.name= (a Hub name) or teachers.path= (a folder)")
        if self.trainer.shard_teacher and self.weigh.episodes and self.weigh.path is None:
            raise UserError(
                f"trainer.shard_teacher=true weigh.episodes={self.weigh.episodes}: a module that weighs knowledge is trained by "
                "one process with the whole teacher; train it with trainer.shard_teacher=false, then give weigh.path="
            )
        if self.trainer.shard_teacher and self.adopt.mc_dropout:
            raise UserError(
                f"trainer.shard_teacher=true adopt.mc_dropout={self.adopt.mc_dropout}: forwards with dropout need a whole "
                "teacher on each device; adopt.mc_dropout=0"
            )
        if self.teachers.split is not None:
            if self.student.start == "teacher":
                raise UserError(
                    f"teachers.split={self.teachers.split} student.start=teacher: each specialist's classifier knows a part "
                    "of the classes, and the student predicts all; student.start=backbone"
                )
            if self.data.stage != "finetune":
                raise UserError(
                    f"teachers.split={self.teachers.split}: specialists know a part of a task's classes, and plain text "
                    "has none: it goes with the fine-tuning stage"
                )
            if self.adopt.assistant is not None:
                raise UserError(
                    f"teachers.split={self.teachers.split}: an assistant is distilled from one teacher of all classes, not "
                    "from specialists: adopt.assistant=null, or teachers.split=null"
                )

    def _selection(self) -> None:
        """UserError for a selection of what the data have not; sets the batch size of a pool."""
        if self.select.pool != "batch":
            self._pool(self.select.pool)
        if self.select.unit != "row" and self.data.stage == "finetune":
            raise UserError(
                f"select.unit={self.select.unit}: a row of a task has one prediction, so there are no positions to choose; "
                "select.unit=row"
            )
        if self.select.balance != "none" and self.data.stage != "finetune":
            raise UserError(
                f"select.balance={self.select.balance}: classes are those of a task's rows, and a row of text has none; "
                "select.balance=none"
            )
        if self.select.balance == "label" and self.data.augment is not None:
            raise UserError(
                "select.balance=label: augmented rows (data.augment) have no labels; select.balance=predicted"
            )

    def _rewards(self) -> None:
        """UserError for observations and probes that the rest of the run rules out."""
        select, trains_ksm = self.select, self.weigh.episodes > 0 and self.weigh.path is None
        if select.observe == "held_out" and select.ratio < 1 and trains_ksm and self.weigh.reward_data == "heldout":
            raise UserError(
                "select.observe=held_out weigh.reward_data=heldout: both hold training rows out; weigh.reward_data=dev, or "
                "weigh.path= of a trained module"
            )
        is_reward = isinstance(select.reward, dict) and select.reward.get("_target_") == PROBE
        probes = "probe_every" if select.probe_every is not None else "reward" if is_reward else None
        if probes is None:
            return
        what = f"select.{probes}={select.probe_every or 'probe'}"
        if select.ratio == 1:
            raise UserError(f"{what}: select.ratio=1 keeps every row, so there are no arms to compare")
        if len(select.arms) < 2:
            raise UserError(
                f"{what}: a probe compares arms, and select={select.name} has {len(select.arms)}; e.g. adads"
            )
        wanted = select.reward.get("compare", "all") if is_reward else "all"
        if isinstance(wanted, int) and wanted > len(select.arms):
            raise UserError(f"select.reward.compare={wanted}: select={select.name} has {len(select.arms)} arms, or all")
        if self.trainer.precision == "16-mixed":
            raise UserError(
                f"{what}: probes need trainer.precision=32-true or bf16-mixed, whose gradients need no scaling"
            )
        if self.trainer.shard_teacher:
            raise UserError(f"{what}: probes need a whole teacher on each device: trainer.shard_teacher=false")
        if trains_ksm:
            raise UserError(f"{what}: the module that weighs knowledge is learning; weigh.path= of a trained one")

    def _pool(self, rows: int) -> None:
        """Set the batch size to the pool's `rows` and the ratio to the share of them that fills a batch."""
        if self.select.name == "all":
            raise UserError(f"select.pool={rows}: select=all keeps every row; a pool is for strategies that choose")
        if rows < self.data.batch_size:
            raise UserError(
                f"select.pool={rows}: at least data.batch_size={self.data.batch_size}, the number of rows to keep"
            )
        self.select.ratio, self.data.batch_size = self.data.batch_size / rows, rows


def checked(composed: Any) -> Config:
    """Typed configuration; UserError for an unknown key, a wrong type, a value out of range, a foreign target."""
    return built(typed(vetted(composed)))


def vetted(composed: Any) -> dict[str, Any]:
    """Configuration in plain containers, resolved; UserError for unknown keys, missing values, foreign targets."""
    with _one_line():
        _known_keys(OmegaConf.to_container(composed, resolve=False), Config, "")
        missing = OmegaConf.missing_keys(composed)
        if missing:
            raise UserError(f"{sorted(missing)[0]} has no value: set it, e.g. {sorted(missing)[0]}=...")
        plain = OmegaConf.to_container(composed, resolve=True)  # once: the checked values are those that are used
        targets.check(plain)
    assert isinstance(plain, dict)
    for key, value in single_values(plain, Config):
        *groups, name = key.split(".")
        reduce(lambda node, group: node[group], groups, plain)[name] = value
    return {str(key): value for key, value in plain.items()}


def typed(plain: dict[str, Any]) -> DictConfig:
    """`vetted` configuration with the types of the schemas; UserError for a value of another type."""
    with _one_line():
        found = OmegaConf.merge(_schema(), plain)
    assert isinstance(found, DictConfig)
    return found


def built(found: DictConfig) -> Config:
    """Dataclasses of a `typed` configuration; UserError for a value out of range, and for contradictions."""
    with _one_line():
        config = OmegaConf.to_object(found)
    assert isinstance(config, Config)
    check_ranges(config)
    _check(config)
    return config


@cache
def _schema() -> DictConfig:
    return OmegaConf.structured(Config)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except OmegaConfBaseException as error:
        raise UserError(first_line(error)) from error
    except RecursionError as error:
        raise UserError("the configuration is nested too deeply") from error


def first_line(error: Exception) -> str:
    """One line of an OmegaConf or Hydra error: the key and the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = [line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")]
    text = lines[0] if lines else type(error).__name__
    return f"{where[0]}: {text}" if where and where[0] else text


def _known_keys(node: Any, group: type, where: str) -> None:
    """UserError for keys that a group lacks; below `Any` every key is allowed (arguments of targets)."""
    if not isinstance(node, dict):
        return
    known = _groups_below(group)
    for key, value in node.items():
        path = f"{where}{key}"
        if key not in known:
            if spellings.key(path) != path:
                raise UserError(f"unknown key {path}: it is {spellings.key(path)} now; rename it where a file has it")
            raise UserError(
                f"unknown key {path}: {short_names.meant(path, [*keys_below(group, where), *keys_below(Config, '')])}"
            )
        inner, is_named = known[key]
        if inner is not None and not is_named:
            _known_keys(value, inner, f"{path}.")
        elif inner is not None and isinstance(value, dict):
            for name, one in value.items():
                _known_keys(one, inner, f"{path}.{name}.")


def keys_below(group: type, where: str) -> list[str]:
    """Dotted keys of a group, and of all groups below it whose keys a user does not name."""
    found = []
    for name, (inner, is_named) in _groups_below(group).items():
        found += [f"{where}{name}", *(keys_below(inner, f"{where}{name}.") if inner and not is_named else ())]
    return found


@cache
def _groups_below(group: type) -> dict[str, tuple[type | None, bool]]:
    """For each field of a group the dataclass of its value, or None, and whether the user names the keys of it."""
    return {name: (group_in(hint), get_origin(hint) is dict) for name, hint in get_type_hints(group).items()}


def check_ranges(config: Config) -> None:
    """UserError for a field whose value is not as its annotation declares (`kdlab.ranges`)."""
    _check_ranges(config, "", config.confirm)


def _check_ranges(group: Any, where: str, confirmed: Collection[str]) -> None:
    """UserError for a value that is not as the annotation of its field declares, in a group and those below it."""
    hints = get_type_hints(type(group), include_extras=True)
    for f in fields(group):
        name, value = f"{where}{f.name}", getattr(group, f.name)
        if is_dataclass(value):
            _check_ranges(value, f"{name}.", confirmed)
        elif isinstance(value, dict) and group_in(hints[f.name]) is not None:
            for key, one in value.items():
                _check_ranges(one, f"{name}.{key}.", confirmed)
        elif (
            hints[f.name] is not Any and get_origin(hints[f.name]) is not dict
        ):  # those name code, with ranges of its own
            check(name, value, hints[f.name], confirmed)


def _check(node: Any) -> None:
    for f in fields(node):
        if is_dataclass(getattr(node, f.name)):
            _check(getattr(node, f.name))
    if hasattr(node, "check"):
        node.check()
