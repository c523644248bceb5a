"""Which teachers a run has, as the configuration says, before any of them is made or loaded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdlab.config.teacher_groups import ASSISTANT, AssistantConfig, OtherTeacherConfig
from kdlab.errors import UserError, nearest
from kdlab.models import flops, loading
from kdlab.models.bundled import PACKAGES
from kdlab.models.student import pick_layers
from kdlab.storage.artifacts import key_of
from kdlab.storage.files import sha256_of


@dataclass(frozen=True)
class ModelSource:
    """Where a model's files are: a local folder or a Hub name, its Hub revision, and its config."""

    place: str | Path
    revision: str | None
    config: Any

    def sha256(self) -> str:
        """What names the weights: their sha256, or the Hub's name and revision."""
        return weights_of(self.place, self.revision)


@dataclass(frozen=True)
class TeacherSpec:
    """One teacher. `name`: in the ledger; `title`: in tables of scores.

    `layers`: which of the source's layers it has (None: all); `classes`: which of the task's classes it knows (None:
    all); `assistant`: how it is distilled (None: it is fine-tuned, or taken as it is).
    """

    name: str
    title: str
    source: ModelSource
    layers: tuple[int, ...] | None = None
    classes: tuple[int, ...] | None = None
    assistant: AssistantConfig | None = None

    @property
    def config(self) -> Any:
        """The source's config, with as many layers as this one has."""
        if self.layers is None:
            return self.source.config
        config = copy.deepcopy(self.source.config)
        config.num_hidden_layers = len(self.layers)
        return config

    @property
    def depth(self) -> int:
        return self.config.num_hidden_layers

    def cost(self, outputs: int | None, length: int) -> int:
        """FLOPs of a forward over one row of `length` tokens."""
        known = outputs if self.classes is None else len(self.classes)
        return flops.forward(flops.shape_of(self.config, known), 1, length)


def weights_of(place: str | Path, revision: str | None = None) -> str:
    """What names the weights at a place: their sha256 (of several files, a hash of these), or for a Hub name the name and
    revision."""
    weights = Path(place) / "model.safetensors"
    if weights.is_file():
        return sha256_of(weights)
    parts = [file for file in sorted(Path(place).glob("*")) if file.suffix in (".safetensors", ".bin")]
    return key_of({file.name: sha256_of(file) for file in parts}) if parts else f"{place}@{revision}"


def place_of(name: str | None, path: str | None, where: str) -> str | Path:
    """Where a teacher's files are: a folder `path`, the folder of a package that carries `name`, or the Hub name itself.

    UserError where the folder holds no model; a package's weights are checked.
    """
    if path is not None:
        folder = Path(path)
        if not (folder / "config.json").is_file():
            raise UserError(f"{where}.path={path}: a model folder with a config.json was expected")
        return folder
    return PACKAGES[name].path() if name in PACKAGES else str(name)


def source_of(name: str | None, path: str | None, revision: str | None, where: str) -> ModelSource:
    """A teacher's source, its config read; UserError where there is none, with the names that need no Hub."""
    place = place_of(name, path, where)
    try:
        return ModelSource(place, revision, loading.load_config(place, revision))
    except UserError as error:
        raise UserError(f"no teacher: {error}; without the Hub, {nearest(str(name), PACKAGES)}") from error


def other(name: str, given: OtherTeacherConfig, main: ModelSource) -> TeacherSpec:
    """The teacher that teachers.others.`name` describes."""
    where = f"teachers.others.{name}"
    source = main
    if given.path is not None or given.name is not None:
        source = source_of(given.name, given.path, given.revision, where)
    layers = None
    if given.layers is not None:
        depth = source.config.num_hidden_layers
        layers = tuple(pick_layers(given.layers, depth, given.pick, f"{where}.layers"))
    return TeacherSpec(name, f"teacher {name}", source, layers)


def assistant(given: AssistantConfig, main: ModelSource, student_depth: int) -> TeacherSpec:
    """The assistant that adopt.assistant describes; UserError unless its depth is between those of student and teacher.

    Without a number of layers it is halfway between them (DeKD Fig. 3: 9 layers serve 6 of 12 best).
    """
    depth = main.config.num_hidden_layers
    if given.path is not None:
        source = ModelSource(given.path, None, loading.load_config(given.path))
        made = TeacherSpec(ASSISTANT, ASSISTANT, source, None, None, given)
    else:
        number = given.layers if given.layers is not None else max(1, (depth + student_depth) // 2)
        layers = tuple(pick_layers(number, depth, given.pick, "adopt.assistant.layers"))
        made = TeacherSpec(ASSISTANT, ASSISTANT, main, layers, None, given)
    if not student_depth < made.depth < depth:
        raise UserError(
            f"adopt.assistant: an assistant of {made.depth} layers; it needs more than the student's {student_depth} and "
            f"fewer than the teacher's {depth} (adopt.assistant.layers=)"
        )
    return made


def specialists(count: int, main: ModelSource, classes: Sequence[str] | None) -> list[TeacherSpec]:
    """`count` teachers for the task's `classes`, dealt out in order and evenly; UserError with less than two each."""
    if classes is None:
        raise UserError(f"teachers.split={count}: specialists know a part of the classes, and this task is regression")
    if len(classes) < 2 * count:
        raise UserError(
            f"teachers.split={count}: a specialist needs two classes or more, and this task has {len(classes)} "
            f"({', '.join(classes)}): at most teachers.split={len(classes) // 2}"
            if len(classes) >= 4
            else f"teachers.split={count}: a specialist needs two classes or more, and this task has {len(classes)}"
        )
    parts = np.array_split(np.arange(len(classes)), count)
    return [
        TeacherSpec(f"specialist-{i}", f"teacher specialist-{i}", main, classes=tuple(part.tolist()))
        for i, part in enumerate(parts, 1)
    ]


def ordered(members: Sequence[TeacherSpec], outputs: int | None, length: int) -> list[TeacherSpec]:
    """From small to large by the FLOPs of a forward; equals, and so specialists, in the order given."""
    if any(member.classes for member in members):
        return list(members)
    return sorted(members, key=lambda member: member.cost(outputs, length))


def check_names(members: Sequence[TeacherSpec]) -> None:
    """UserError where two teachers have one name."""
    names = [member.name for member in members]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two teachers are called {twice}: rename the one in teachers.others")


def check_vocabulary(member: TeacherSpec, tokens: dict[str, int], max_length: int) -> None:
    """UserError unless a teacher that comes from elsewhere reads the main teacher's tokens, and rows of that length."""
    theirs = loading.load_tokenizer(member.source.place, member.source.revision).get_vocab()
    if theirs != tokens:
        raise UserError(
            f"the teacher {member.name} has another tokenizer than the main teacher ({len(theirs)} and {len(tokens)} "
            "tokens, not the same): all teachers of a run need the same vocabulary"
        )
    longest = getattr(member.source.config, "max_position_embeddings", None)
    if longest and max_length > longest:
        raise UserError(f"data.max_length={max_length}: the teacher {member.name} reads at most {longest} tokens")
