"""From a checked configuration to objects: what both stages need, and the only place that instantiates targets.

`TextBench` (pretraining.py) and `TaskBench` (finetuning.py) add what differs between the stages.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import transformers
from hydra.utils import instantiate
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor

from kdlab import attention, models
from kdlab.artifacts import Store
from kdlab.callbacks import Progress
from kdlab.config import Config
from kdlab.distill import Distiller, Optim, Weighted
from kdlab.embedded import PACKAGES
from kdlab.errors import UserError, nearest
from kdlab.files import sha256_of
from kdlab.ledger import Ledger
from kdlab.models import Encoder
from kdlab.scoring import Scorer
from kdlab.strategies import needs_of
from kdlab.teacher import Teacher
from kdlab.terms import asks_teacher, wants
from kdlab.types import Outputs


@dataclass
class Selection:
    """The instantiated parts of the select group."""

    arms: dict[str, Any]
    policy: Any
    reward: Any


class Bench:
    """Everything a run needs, made when it is first asked for, from plain values of the configuration.

    A stage gives: `source` and `check_data` (inputs), `data_module`, `score`, `teacher`, `head` (the auto class of its
    models), `load` (a student's starting model), `facts` (of the data, for result.json), `baselines`, `teacher_folder` (where the teacher is); `fixed_inputs`
    says whether a row is the same input in every epoch.
    """

    head: Any
    score: Scorer
    fixed_inputs: bool
    source: Any
    teacher_folder: str | Path

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        self.config = config
        self.say = say
        self.store = Store(Path(config.artifacts), say)

    @property
    def precision(self) -> str:
        """The run's numbers, "auto" decided."""
        return precision_of(self.config.trainer.precision, self.config.trainer.accelerator)

    def check_data(self) -> None:
        """UserError for rows that contradict the configuration; text has been checked by its source."""

    def data_module(self, batches: int | None, epochs: int | None) -> Any:
        """The rows a run trains on, for a number of micro-batches or of passes."""
        raise NotImplementedError

    def teacher(self, ledger: Ledger | None) -> Teacher | None:
        """The frozen teacher, counted by `ledger`; None where no term asks one."""
        raise NotImplementedError

    def teacher_on_heldout(self, module: Distiller, teacher: Teacher, data: Any) -> dict[str, float]:
        """The teacher's scores on the held-out rows (collective)."""
        raise NotImplementedError

    def load(self, source: str | Path, revision: str | None = None) -> transformers.PreTrainedModel:
        """A model with this stage's head, to start a student from."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        raise NotImplementedError

    def baselines(self, batches: int, world: int) -> dict[str, dict[str, float]]:
        """Scores to read the student's against, by name."""
        return {}

    # ---- what can be checked before anything is loaded or written

    def check(self) -> None:
        """UserError for inputs that are missing, damaged or contradict each other. Reads little, writes nothing."""
        self.selection()
        self.terms()
        self.source.check()
        _ = self.tokenizer
        models.has_head(self.teacher_source, self.teacher_config, self.head)
        depth = self.teacher_config.num_hidden_layers
        given = self.config.student
        if given.path is None:
            if given.hidden is None:
                models.pick_layers(given.layers, depth, given.pick)
            else:
                models.check_width(self.teacher_config, given.hidden)
        else:
            theirs = models.load_tokenizer(given.path).get_vocab()
            if theirs != self.tokenizer.get_vocab():
                raise UserError(
                    f"the student in {given.path} and the teacher {self.teacher_name} have different tokenizers "
                    f"({len(theirs)} and {len(self.tokenizer.get_vocab())} tokens, not the same): distillation needs the same vocabulary"
                )
        longest = getattr(self.teacher_config, "max_position_embeddings", None)
        if longest and self.config.data.max_length > longest:
            raise UserError(
                f"data.max_length={self.config.data.max_length}: the teacher reads at most {longest} tokens"
            )
        self.check_data()
        self.rehearse()

    @property
    def answer(self) -> tuple[int, Tensor]:
        """How many outputs a prediction has (any number from two on where they are a vocabulary), and a label (1,)."""
        raise NotImplementedError

    def rehearse(self) -> None:
        """Let every knowledge term read something of the right shape, so that what cannot be compared is refused now."""
        config = self.teacher_config
        student, teacher = self._student_config(), (config.num_hidden_layers, config.num_attention_heads)
        terms = {name: w.term for name, w in self.terms().items()}
        if frozenset().union(*(wants(term) for term in terms.values())) & {"scores", "values"}:
            for one in {id(c): c for c in (config, student[2])}.values():
                with torch.device("meta"):
                    attention.prepare(self.head.from_config(copy.deepcopy(one)))
        shown = [self._shown(layers, heads) for layers, heads in (student[:2], teacher)]
        for term in terms.values():
            term(*shown)

    def _student_config(self) -> tuple[int, int, Any]:
        given, config = self.config.student, self.teacher_config
        if given.path is not None:
            config = models.load_config(given.path)
            return config.num_hidden_layers, config.num_attention_heads, config
        layers = (
            given.layers
            if given.hidden
            else len(models.pick_layers(given.layers, config.num_hidden_layers, given.pick))
        )
        return layers, config.num_attention_heads, config

    def _shown(self, layers: int, heads: int) -> Outputs:
        outputs, label = self.answer
        state = torch.ones(1, 2, 1)  # projections make widths equal
        return Outputs(
            logits=torch.zeros(1, outputs),
            labels=label,
            hidden=state,
            mask=torch.ones(1, 2, dtype=torch.long),
            states=(state,) * (layers + 1),
            scores=(torch.zeros(1, heads, 2, 2),) * layers,
            values=(torch.ones(1, heads, 2, 1),) * layers,
        )

    def selection(self) -> Selection:
        """Arms, policy and reward; UserError for arms that do not exist or a policy that cannot use them."""
        select = self.config.select
        if not select.arms:
            raise UserError("select.arms is empty: give it strategies, or choose select=random")
        arms = {name: made(target, f"select.arms.{name}") for name, target in select.arms.items()}
        for name, arm in arms.items():
            if not callable(arm):
                raise UserError(f"select.arms.{name} is not a strategy (a function of Evidence)")
            needs_of(arm)  # pyright: ignore[reportArgumentType]
        policy = made(select.policy, "select.policy", arms=list(arms))
        reward = made(select.reward, "select.reward") if select.reward is not None else None
        if hasattr(policy, "learn") and reward is None:
            raise UserError(
                f"select.reward is missing: {type(policy).__name__} learns from rewards, e.g. kdlab.rewards.LossDecay"
            )
        return Selection(arms, policy, reward)

    def terms(self) -> dict[str, Weighted]:
        """The knowledge terms with a weight above 0."""
        found = {}
        for name, t in self.config.knowledge.terms.items():
            if t.weight > 0:
                at = "labelled" if t.at == "masked" else t.at  # the same thing in the words of masked-LM
                found[name] = Weighted(made(t.term, f"knowledge.terms.{name}.term"), t.weight, at, t.since, t.until)
        return found

    @property
    def asks_teacher(self) -> bool:
        """Whether any knowledge term reads a teacher's answer."""
        return any(asks_teacher(w.term) for w in self.terms().values())

    # ---- teacher and student

    @cached_property
    def tokenizer(self) -> transformers.PreTrainedTokenizerFast:
        return models.load_tokenizer(self.teacher_source, self.config.teachers.revision)

    @property
    def teacher_name(self) -> str:
        teachers = self.config.teachers
        return teachers.name if teachers.path is None and teachers.name else Path(str(teachers.path)).name

    @cached_property
    def teacher_source(self) -> str | Path:
        """Where the teacher's files are: a local folder, or a Hub name. A package's weights are checked here."""
        teachers = self.config.teachers
        if teachers.path is not None:
            folder = Path(teachers.path)
            if not (folder / "config.json").is_file():
                raise UserError(f"teachers.path={teachers.path}: a model folder with a config.json was expected")
            return folder
        if teachers.name in PACKAGES:
            return PACKAGES[teachers.name].path()
        return str(teachers.name)

    @cached_property
    def teacher_config(self) -> Any:
        try:
            return models.load_config(self.teacher_source, self.config.teachers.revision)
        except UserError as error:
            known = nearest(str(self.teacher_name), PACKAGES)
            raise UserError(f"no teacher: {error}; without the Hub, {known}") from error

    def source_hash(self) -> str:
        """What names the weights at `teacher_source`: their sha256, or the Hub's name and revision."""
        weights = Path(self.teacher_source) / "model.safetensors"
        if weights.is_file():
            return sha256_of(weights)
        return f"{self.teacher_source}@{self.config.teachers.revision}"

    def student(self, teacher: Teacher | None = None) -> Encoder:
        """The student before training, with what the configuration freezes frozen."""
        given = self.config.student
        model = self.load(given.path) if given.path is not None else self._from_teacher(teacher)
        models.freeze(model, given.freeze)
        if given.dropout is not None:
            models.set_dropout(model, given.dropout)
        return Encoder(model.train())

    def _from_teacher(self, teacher: Teacher | None) -> transformers.PreTrainedModel:
        given = self.config.student
        backbone = self.backbone(teacher)
        if given.hidden is not None:
            return models.smaller(backbone, given.layers, given.hidden)
        layers = models.pick_layers(given.layers, self.teacher_config.num_hidden_layers, given.pick)
        return models.student_from(backbone, layers)

    def backbone(self, teacher: Teacher | None) -> transformers.PreTrainedModel:
        """The model whose layers a student takes."""
        raise NotImplementedError

    def optim(self) -> Optim:
        given = asdict(self.config.optim)
        scaled = self.precision == "16-mixed"
        restarts = tuple(self.config.knowledge.phases)
        return Optim(**{**given, "betas": tuple(given["betas"]), "fused": not scaled, "restarts": restarts})

    def fit(
        self,
        module: Distiller,
        data: Any,
        steps: int,
        what: str,
        *callbacks: pl.Callback,
        accumulate: int = 1,
        precision: str = "32-true",
    ) -> None:
        """Train something that a run needs first: one process, no checkpoints, whatever the run itself uses."""
        progress = Progress(steps, Ledger(len(data.train)), None, what)
        trainer = pl.Trainer(
            strategy=SingleDeviceStrategy(device=first_device(self.config.trainer.accelerator)),
            precision=precision,  # pyright: ignore[reportArgumentType]
            max_steps=steps,
            accumulate_grad_batches=accumulate,
            max_epochs=1,
            callbacks=[*callbacks, progress],
            **QUIET,
        )
        trainer.fit(module, train_dataloaders=data.train_dataloader())
        module.to(trainer.strategy.root_device)  # Lightning has moved it to the CPU; it is measured next


# Lightning without what kdlab does itself: order of the data, checkpoints, tables, evaluation.
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "use_distributed_sampler": False,
}


def made(target: Any, where: str, **more: Any) -> Any:
    """One target of the configuration; the UserError of a constructor goes through, other failures name the place."""
    try:
        return instantiate(target, _convert_="all", **more)
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{where}: {str(cause).splitlines()[0]}") from error


def vocabulary_hash(tokenizer: Any) -> str:
    """A hash of everything a fast tokenizer does (its whole serialisation)."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def precision_of(given: str, accelerator: str) -> str:
    """`given`, or for "auto" bf16-mixed where the device multiplies bfloat16 natively (about twice as fast), else 32-true."""
    if given != "auto":
        return given
    if accelerator != "cpu" and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public way to ask
        native = any(getattr(torch.cpu, name, bool)() for name in names)
    return "bf16-mixed" if native else "32-true"


def first_device(accelerator: str) -> torch.device:
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if gpu else torch.device("cpu")
