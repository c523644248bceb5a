"""Specifications of the teachers that a configuration describes, before any of them is made or loaded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdlab.config.groups.teachers import ASSISTANT, AssistantConfig, OtherTeacherConfig
from kdlab.errors import UserError, nearest
from kdlab.models import flops, loading
from kdlab.models.bundled import PACKAGES
from kdlab.models.families import WrongFamily, is_decoder
from kdlab.models.gguf import GGUF_MODELS
from kdlab.models.student import pick_layers
from kdlab.storage.artifacts import ArtifactStore, key_of
from kdlab.storage.files import sha256_of

# Published depths of an assistant by the depths of (teacher, student): given in DeKD section 4.3, not computed
ASSISTANT_LAYERS = {(12, 6): 9, (12, 3): 6}


@dataclass(frozen=True)
class ModelSource:
    """The location of a model's files: a local folder or a Hub name, with its Hub revision, and the model's config."""

    place: str | Path
    revision: str | None
    config: Any

    def sha256(self) -> str:
        """The identity of the weights (see `weights_of`)."""
        return weights_of(self.place, self.revision)


@dataclass(frozen=True)
class TeacherSpec:
    """One teacher: `name` in the ledger, `title` in tables of scores, `source` of its initial weights.

    `layers`: indices of the source's layers that it keeps (None: all); `classes`: indices of the task's classes that it
    predicts (None: all); `assistant`: settings of its distillation (None: it is fine-tuned, or used unchanged).
    """

    name: str
    title: str
    source: ModelSource
    layers: tuple[int, ...] | None = None
    classes: tuple[int, ...] | None = None
    assistant: AssistantConfig | None = None

    @property
    def config(self) -> Any:
        """The source's config, with the number of layers of this teacher."""
        if self.layers is None:
            return self.source.config
        config = copy.deepcopy(self.source.config)
        config.num_hidden_layers = len(self.layers)
        return config

    @property
    def depth(self) -> int:
        """The number of layers."""
        return self.config.num_hidden_layers

    def cost(self, outputs: int | None, length: int) -> int:
        """FLOPs of a forward over one row of `length` tokens; `outputs`: the number of all classes (or V)."""
        predicted = outputs if self.classes is None else len(self.classes)
        return flops.forward(flops.shape_of(self.config, predicted), 1, length)


def weights_of(place: str | Path, revision: str | None = None) -> str:
    """Identity of the weights at `place`: their SHA-256 (of several files, a hash of these), or "name@revision" for a Hub
    name."""
    weights = Path(place) / "model.safetensors"
    if weights.is_file():
        return sha256_of(weights)
    parts = [file for file in sorted(Path(place).glob("*")) if file.suffix in (".safetensors", ".bin")]
    return key_of({file.name: sha256_of(file) for file in parts}) if parts else f"{place}@{revision}"


def place_of(name: str | None, path: str | None, where: str, store: ArtifactStore | None = None) -> str | Path:
    """Location of a teacher's files: the folder `path`, the folder of a package that contains `name`, or the Hub name.

    A package's GGUF file is converted into `store`, once. UserError for a folder without a model; `where`: the
    configuration key in its message. A package's weights are verified.
    """
    if path is not None:
        folder = Path(path)
        if not (folder / "config.json").is_file():
            raise UserError(f"{where}.path={path}: a model folder with a config.json was expected")
        return folder
    if name in GGUF_MODELS:
        if store is None:
            raise UserError(f"{where}.name={name}: only the main teacher can be the model of that package")
        return GGUF_MODELS[name].folder(store)
    return PACKAGES[name].path() if name in PACKAGES else str(name)


def source_of(
    name: str | None,
    path: str | None,
    revision: str | None,
    where: str,
    store: ArtifactStore | None = None,
    causal: bool = False,
) -> ModelSource:
    """Locate a teacher (`place_of`), a decoder (`causal`) or an encoder, and read its config; UserError if there is none,
    with the names that need no Hub."""
    place = place_of(name, path, where, store)
    loading.check_safetensors(place, revision, f"{where}.name")
    try:
        return ModelSource(place, revision, loading.load_config(place, revision, causal))
    except WrongFamily:
        raise
    except UserError as error:
        raise UserError(
            f"no teacher: {error}; without the Hub, {nearest(str(name), [*PACKAGES, *GGUF_MODELS])}"
        ) from error


def other(name: str, settings: OtherTeacherConfig, main: ModelSource) -> TeacherSpec:
    """The teacher that teachers.others.`name` describes; `main`: the main teacher's source, its default."""
    where = f"teachers.others.{name}"
    source = main
    if settings.path is not None or settings.name is not None:
        causal = is_decoder(main.config)
        source = source_of(settings.name, settings.path, settings.revision, where, causal=causal)
    layers = None
    if settings.layers is not None:
        depth = source.config.num_hidden_layers
        layers = tuple(pick_layers(settings.layers, depth, settings.pick, f"{where}.layers"))
    return TeacherSpec(name, f"teacher {name}", source, layers)


def assistant_layers(teacher: int, student: int) -> int:
    """The default depth of an assistant: the published one, else halfway between the depths, rounded down (ours)."""
    return ASSISTANT_LAYERS.get((teacher, student), max(1, (teacher + student) // 2))


def assistant(settings: AssistantConfig, main: ModelSource, student_depth: int) -> TeacherSpec:
    """The assistant that adopt.assistant describes; UserError unless its depth is between those of student and teacher."""
    depth = main.config.num_hidden_layers
    if settings.path is not None:
        source = ModelSource(settings.path, None, loading.load_config(settings.path, causal=is_decoder(main.config)))
        spec = TeacherSpec(ASSISTANT, ASSISTANT, source, None, None, settings)
    else:
        number = settings.layers if settings.layers is not None else assistant_layers(depth, student_depth)
        layers = tuple(pick_layers(number, depth, settings.pick, "adopt.assistant.layers"))
        spec = TeacherSpec(ASSISTANT, ASSISTANT, main, layers, None, settings)
    if not student_depth < spec.depth < depth:
        raise UserError(
            f"adopt.assistant: an assistant of {spec.depth} layers; it needs more than the student's {student_depth} and "
            f"fewer than the teacher's {depth} (adopt.assistant.layers=)"
        )
    return spec


def specialists(count: int, main: ModelSource, classes: Sequence[str] | None) -> list[TeacherSpec]:
    """`count` teachers that divide the task's `classes` evenly, in order; UserError for fewer than two classes each."""
    if classes is None:
        raise UserError(
            f"teachers.split={count}: each specialist predicts some of the classes, and this task is regression"
        )
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
    """Sort teachers by the FLOPs of a forward, ascending and stable; specialists keep their order."""
    if any(member.classes for member in members):
        return list(members)
    return sorted(members, key=lambda member: member.cost(outputs, length))


def check_names(members: Sequence[TeacherSpec]) -> None:
    """UserError if two teachers have the same name."""
    names = [member.name for member in members]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two teachers are called {twice}: rename the one in teachers.others")


def check_vocabulary(member: TeacherSpec, tokens: dict[str, int], max_length: int) -> None:
    """UserError unless a teacher of another source has the vocabulary `tokens` and reads rows of `max_length` tokens."""
    masks = not is_decoder(member.source.config)
    tokenizer = loading.load_tokenizer(member.source.place, member.source.revision, masks)
    vocabulary = tokenizer.get_vocab()
    if vocabulary != tokens:
        raise UserError(
            f"the teacher {member.name} has another tokenizer than the main teacher ({len(vocabulary)} and {len(tokens)} "
            "tokens, not the same): all teachers of a run need the same vocabulary"
        )
    loading.check_embeddings(tokenizer, member.source.config, f"the teacher {member.name}")
    longest = getattr(member.source.config, "max_position_embeddings", None)
    if longest and max_length > longest:
        raise UserError(f"data.max_length={max_length}: the teacher {member.name} reads at most {longest} tokens")
