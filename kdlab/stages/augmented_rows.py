"""A task's training rows with the augmented ones, as data.augment asks for them, once for all runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdlab.config.groups import AugmentConfig
from kdlab.data.augmentation import tinybert
from kdlab.data.augmentation.word_vectors import read_word_table
from kdlab.data.tasks import dataset
from kdlab.errors import UserError
from kdlab.models import loading
from kdlab.storage.files import sha256_of
from kdlab.teachers.specs import weights_of

if TYPE_CHECKING:
    from kdlab.stages.finetuning import FinetuneStage


def check(stage: FinetuneStage) -> None:
    """UserError where rows cannot be augmented, or nobody could label them."""
    given = _given(stage)
    source(stage)
    if given.table is not None and not Path(given.table).is_file():
        raise UserError(f"data.augment.table={given.table}: there is no such file of word vectors (GloVe)")
    if not stage.asks_teacher:
        raise UserError(
            f"data.augment: augmented rows are labelled by a teacher, and knowledge={stage.config.knowledge.name} asks none"
        )


def folder(stage: FinetuneStage) -> Path:
    """The tokenised rows, the augmented ones among those of train."""
    given, place = _given(stage), source(stage)
    revision = None if given.model else stage.config.teachers.revision
    max_length = stage.config.data.max_length
    made_by = {
        "masked_lm": weights_of(place, stage.config.teachers.revision),
        "tokenizer": stage.task_parts["tokenizer"],
        "table": given.table and sha256_of(Path(given.table)),
    }
    settings = {name: getattr(given, name) for name in ("copies", "replace", "candidates", "seed")}

    def build(out: Path) -> None:
        rows = tinybert.augmented(
            stage.rows,
            loading.load_masked_lm(place, revision).eval(),
            stage.tokenizer,
            tinybert.AugmentationRecipe(max_length=max_length, batch_size=given.batch_size, **settings),
            read_word_table(given.table) if given.table else None,
            stage.store,
            made_by,
        )
        dataset.prepare(rows, stage.tokenizer, out, max_length=max_length)

    parts = {**stage.task_parts, "augment": {**made_by, **settings}}
    found = stage.store.get("task", parts, build, "augmented rows")
    stage.say(dataset.read_notes(found)[-1])
    return found


def source(stage: FinetuneStage) -> str | Path:
    """The masked-LM model that proposes words; UserError where there is none, or it has other tokens."""
    given = _given(stage)
    if given.model is None:
        if not loading.has_head(stage.teacher_source, stage.teacher_config):
            raise UserError(
                f"data.augment: the teacher {stage.teacher_name} has no masked-LM head to propose words; "
                "data.augment.model= names a folder that has, such as the student of +exp=adads_pretrain"
            )
        return stage.teacher_source
    if loading.load_tokenizer(given.model).get_vocab() != stage.tokenizer.get_vocab():
        raise UserError(
            f"data.augment.model={given.model}: its tokens are not those of the teacher {stage.teacher_name}"
        )
    if not loading.has_head(given.model, loading.load_config(given.model)):
        raise UserError(f"data.augment.model={given.model}: it has no masked-LM head to propose words")
    return given.model


def _given(stage: FinetuneStage) -> AugmentConfig:
    given = stage.config.data.augment
    assert given is not None
    return given
