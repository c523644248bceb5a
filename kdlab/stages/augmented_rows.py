"""A task's training rows with augmented copies (`data.augment`, TinyBERT), made once and kept in the artifact store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlab.config.groups.data import AugmentConfig
from kdlab.data.augmentation import tinybert
from kdlab.data.augmentation.word_vectors import read_word_table
from kdlab.data.tasks import dataset
from kdlab.data.tasks.rows import TaskData
from kdlab.errors import UserError
from kdlab.models import head_keys, loading, safe_loading
from kdlab.storage.artifacts import ArtifactStore
from kdlab.storage.files import sha256_of
from kdlab.teachers.specs import ModelSource, weights_of


@dataclass(frozen=True)
class AugmentedRows:
    """The augmentation of one task's training rows.

    `config`: data.augment; `max_length`: tokens of a row; `main`, `teacher_name`: the main teacher, whose masked-LM head
    proposes words unless the configuration names a model; `tokenizer`: of teacher and student; `store`: keeps the rows;
    `task_parts`: key parts of the rows without augmented ones.
    """

    config: AugmentConfig
    max_length: int
    main: ModelSource
    teacher_name: str
    tokenizer: Any
    store: ArtifactStore
    task_parts: Mapping[str, Any]

    def check(self) -> None:
        """UserError if no model can propose words, or the table of word vectors is missing."""
        self.word_model()
        if self.config.table is not None and not Path(self.config.table).is_file():
            raise UserError(f"data.augment.table={self.config.table}: there is no such file of word vectors (GloVe)")

    def folder(self, read_rows: Callable[[], TaskData]) -> Path:
        """The folder of the tokenised rows, augmented ones among those of train; `read_rows` gives the original rows."""
        config, place = self.config, self.word_model()
        revision = None if config.model else self.main.revision
        made_by = {
            "masked_lm": weights_of(place, self.main.revision),
            "tokenizer": self.task_parts["tokenizer"],
            "table": config.table and sha256_of(Path(config.table)),
        }
        settings = {name: getattr(config, name) for name in ("copies", "replace", "candidates", "seed")}

        def build(out: Path) -> None:
            rows = tinybert.augmented(
                read_rows(),
                loading.load_masked_lm(place, revision).eval(),
                self.tokenizer,
                tinybert.AugmentationRecipe(max_length=self.max_length, batch_size=config.batch_size, **settings),
                read_word_table(config.table) if config.table else None,
                self.store,
                made_by,
            )
            dataset.prepare(rows, self.tokenizer, out, max_length=self.max_length)

        parts = {**self.task_parts, "augment": {**made_by, **settings}, "columns": "origin"}
        return self.store.get("task", parts, build, "augmented rows")

    def word_model(self) -> str | Path:
        """Folder or Hub name of the masked-LM model that proposes words; UserError if there is none for these tokens."""
        model = self.config.model
        if model is None:
            if not head_keys.has_head(self.main.place, self.main.config):
                raise UserError(
                    f"data.augment: the teacher {self.teacher_name} has no masked-LM head to propose words; "
                    "data.augment.model= names a folder that has, such as the student of +exp=adads_pretrain"
                )
            return self.main.place
        if safe_loading.is_missing(model):
            raise UserError(
                f"data.augment.model={model}: there is no such folder; the student of a pre-training is one: "
                "python -m kdlab.run +exp=adads_pretrain hydra.run.dir=outputs/words"
            )
        if loading.load_tokenizer(model).get_vocab() != self.tokenizer.get_vocab():
            raise UserError(f"data.augment.model={model}: its tokens are not those of the teacher {self.teacher_name}")
        if not head_keys.has_head(model, loading.load_config(model)):
            raise UserError(f"data.augment.model={model}: it has no masked-LM head to propose words")
        return model
