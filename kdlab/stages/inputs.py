"""Inputs of a run, read from its configuration before there is any teacher or student: rows, tokenizer, model sources."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from torch import Tensor

from kdlab.config.groups.select import AUTO
from kdlab.config.schema import Config
from kdlab.config.targets import original_targets
from kdlab.data.names import data_name
from kdlab.errors import UserError
from kdlab.methods.knowledge.base import queries_teacher
from kdlab.models import loading
from kdlab.models.execution import execution_on
from kdlab.models.head import Head
from kdlab.models.student import pick_layers
from kdlab.modules.evaluation import Scorer
from kdlab.modules.objective import WeightedTerm
from kdlab.runtime.caveats import Caveats
from kdlab.runtime.devices import first_device, precision_of
from kdlab.stages import components
from kdlab.stages.dry_run import ModelShape
from kdlab.stages.preparation import Preparation, Saving
from kdlab.storage.artifacts import ArtifactStore, training_of
from kdlab.teachers import specs
from kdlab.teachers.cache.memory_store import MemoryStore
from kdlab.teachers.specs import ModelSource

PART_TOKENS = 1024  # products of matrices of as many rows fill a core
HELD_OUT = 256  # training rows held out for observations where their number is derived, at most a fifth of all
SHARED = (
    "source",
    "rows",
    "shape",
    "tokenizer",
    "main_source",
    "_usual_length",
)  # cached properties that equal configurations share


class Inputs:
    """Rows, tokenizer and model sources of one run; each is read or made at its first use, from the configuration.

    `TaskInputs` and `TextInputs` define what raises NotImplementedError here, and the class attributes: `head`, that of
    the models; `fixed_inputs`, True if a row is the same input in every epoch. `config`: the checked
    configuration; `notify` prints a line for the user; `store`: the artifact store; `prerequisites`: trains what the run
    needs first and keeps its cost; `caveats`: those of the run; `memory_stores`: teacher caches held in memory, by key.
    """

    head: Head
    fixed_inputs: bool

    def __init__(self, config: Config, notify: Callable[[str], None]) -> None:
        self.config = config
        self.notify = notify
        self.store = ArtifactStore(Path(config.artifacts), notify, original_targets)
        self.prerequisites = Preparation(self.store, self.about)
        self.caveats = Caveats()
        self.memory_stores: dict[str, MemoryStore] = {}

    def share(self, other: Inputs) -> None:
        """Take the rows, tokenizer and sources that `other` has read already; its data and teachers must be the same."""
        self.__dict__.update({name: other.__dict__[name] for name in SHARED if name in other.__dict__})

    def about(self, config: Any = None) -> dict[str, Any]:
        """Names of a trained artifact's model, by its `config` (None: the main teacher's), data and metric, for lists."""
        data = self.config.data
        other = None if config is None or config is self.main_source.config else str(config.name_or_path)
        return {
            "model": self.teacher_name if other is None else other,
            "data": data.task or data.path or self.data_name,
            "metric": data.metric,
        }

    # ---- rows

    @cached_property
    def source(self) -> Any:
        """The source of the rows, not read yet. UserError if the configuration names none."""
        raise NotImplementedError

    @property
    def inference(self) -> str:
        """A note on the kind of task that was inferred, where another one is as likely; "" elsewhere."""
        return ""

    def file_rows(self, split: str) -> np.ndarray:
        """The index in its data file, from 0 and without the header, of each row of a labelled split."""
        raise NotImplementedError

    def named_teachers(self) -> Iterable[str]:
        """The teachers that `data.teacher_column` names, as they are written, some of them several times; nothing is written.

        UserError for rows without columns, or of several documents.
        """
        raise UserError(
            f"data.teacher_column={self.config.data.teacher_column}: a teacher is named by rows of your own (data.path=) that are "
            "labelled, or have a prompt or messages, each in a row of its own (data.pack=false)"
        )

    def row_teachers(self) -> Iterable[str]:
        """The teacher that `data.teacher_column` names for each training row, as it is written."""
        raise NotImplementedError

    def check_rows(self) -> None:
        """UserError for rows that contradict the configuration; a source of text checks itself (`source.check`)."""

    def data_module(
        self, batches: int | None, epochs: int | None, seed: int | None = None, batch_size: int | None = None
    ) -> Any:
        """The rows the student trains on, for a number of micro-batches or of epochs.

        `seed` and `batch_size`: None for those of the configuration.
        """
        raise NotImplementedError

    def hold_out(self, data: Any) -> Any:
        """`data` with rows held out of training for the observations of `select.observe=held_out`, if that is chosen.

        UserError for more rows than a fifth of those there are."""
        select = self.config.select
        if select.ratio < 1 and select.observe == "held_out":
            given = None if select.evaluation_rows == AUTO else int(select.evaluation_rows)
            known = len(data.scorable_rows())
            if given is not None and given > known // 5:
                raise UserError(
                    f"select.observe=held_out select.evaluation_rows={given}: of {known:,} training rows at most a fifth, "
                    f"{known // 5:,}, can be held out"
                )
            data.set_aside(given or HELD_OUT)
        return data

    @property
    def rows_parts(self) -> dict[str, Any]:
        """The key parts of the training rows, whatever their order, for artifacts made from them."""
        raise NotImplementedError

    @property
    def score(self) -> Scorer:
        """The evaluation of a model on held-out rows."""
        raise NotImplementedError

    @property
    def data_name(self) -> str:
        """The name of the data set, for titles."""
        data = self.config.data
        return data_name(data.task, data.path, data.source)

    def facts(self) -> dict[str, Any]:
        """The entry `data` of result.json."""
        raise NotImplementedError

    @property
    def example(self) -> tuple[int, Tensor]:
        """Number of outputs of a prediction (2 stands for any vocabulary), and one label (1,)."""
        raise NotImplementedError

    @property
    def regression(self) -> bool:
        """True if a prediction is a number, False if it is a class."""
        return self.example[1].is_floating_point()

    @property
    def max_length(self) -> int:
        """Tokens of a row at most."""
        return int(self.config.data.max_length)

    # ---- knowledge

    def terms(self) -> dict[str, WeightedTerm]:
        """The knowledge terms with a weight above 0, newly instantiated; on text, whose head comes trained and shares
        its weights with the embeddings, without those that train the head alone."""
        terms = components.terms(self.config.knowledge, self.config.trainer.on_nonfinite == "skip")
        return {name: w for name, w in terms.items() if self.head.per_row or not w.head_only}

    @cached_property
    def queries_teacher(self) -> bool:
        """True if a knowledge term reads a teacher's answer."""
        return any(queries_teacher(weighted.term) for weighted in self.terms().values())

    # ---- models

    def saving(self, out: Path) -> Saving:
        """The checkpoints of the training that makes the artifact which is built in `out`."""
        every = self.config.trainer.checkpoint_every
        return Saving(training_of(out), None if every == "auto" else int(every), self.notify)

    @property
    def precision(self) -> str:
        """The run's Lightning precision, with "auto" resolved."""
        return precision_of(self.config.trainer.precision, self.config.trainer.accelerator)

    @property
    def execution(self) -> str:
        """The models' execution mode: `exec`, and "varlen" for packed batches in half precision on a GPU that has it."""
        return self._execution(self.config.exec, self.precision)

    def prepared_execution(self, precision: str) -> str:
        """The execution mode in which teachers, heads and assistants are trained in a `precision`: `teachers.exec`, as
        `execution`."""
        return self._execution(self.config.teachers.exec, precision)

    def part_tokens(self, precision: str) -> int | None:
        """Tokens at once where teachers, heads and assistants are trained in a `precision`: `teachers.part_tokens` (None: whole
        batches)."""
        given = self.config.teachers.part_tokens
        if precision == "16-mixed":
            return None  # the scale of its gradients belongs to one backward
        if given != "auto":
            return given
        return PART_TOKENS if first_device(self.config.trainer.accelerator).type == "cpu" else None

    def _execution(self, name: str, precision: str) -> str:
        return execution_on(first_device(self.config.trainer.accelerator), name, precision)

    @cached_property
    def tokenizer(self) -> transformers.PreTrainedTokenizerFast:
        """The tokenizer of the main teacher, and so of the student."""
        return loading.load_tokenizer(self.main_source.place, self.config.teachers.revision, masks=not self.head.causal)

    @property
    def teacher_name(self) -> str:
        """The main teacher's name: `teachers.name`, or the name of its folder."""
        teachers = self.config.teachers
        return teachers.name if teachers.path is None and teachers.name else Path(str(teachers.path)).name

    @cached_property
    def main_source(self) -> ModelSource:
        """The main teacher's files (`place`) and config, before it is fine-tuned or prepared."""
        teachers = self.config.teachers
        return specs.source_of(
            teachers.name, teachers.path, teachers.revision, "teachers", self.store, self.head.causal
        )

    @property
    def student_shape(self) -> ModelShape:
        """Layers, heads and width of the student, before it exists."""
        student, config = self.config.student, self.main_source.config
        if student.path is not None:
            return ModelShape.of(loading.load_config(student.path, student.revision, self.head.causal))
        if student.hidden is not None:
            return ModelShape.of(config, student.layers, student.hidden)
        return ModelShape.of(config, len(pick_layers(student.layers, config.num_hidden_layers, student.pick)))

    def load(
        self, source: str | Path, revision: str | None = None, seed: int | None = None
    ) -> transformers.PreTrainedModel:
        """Load a model with this stage's head from a folder or Hub name; `seed` draws a new head (None: the run's)."""
        raise NotImplementedError


def vocabulary_hash(tokenizer: Any) -> str:
    """Sha256 of a fast tokenizer's whole serialisation."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
