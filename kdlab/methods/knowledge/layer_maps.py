"""Layer maps: pairs (student layer, teacher layer) for a student of M and a teacher of N layers.

Layers are numbered from 1. 0 stands for the embeddings, which are always paired, so no map lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from kdlab.errors import UserError, nearest
from kdlab.ranges import Count

Pairs = list[tuple[int, int]]
Layer = TypeVar("Layer")
LayerMap = Literal["uniform", "skip", "last"] | Sequence[Count]  # a name in MAPS, or teacher layers from 1


def uniform(student: int, teacher: int) -> Pairs:
    """g(m) = m N / M for every student layer m, rounded half up where M does not divide N: 6 of 12 is 2, 4, ..., 12.

    TinyBERT (Jiao et al. 2020), whose 4 layers of 12 are 3, 6, 9, 12.
    """
    return [(m, (2 * m * teacher + student) // (2 * student)) for m in range(1, student + 1)]


def skip(student: int, teacher: int) -> Pairs:
    """PKD-Skip: `uniform` without the last student layer, 6 of 12 is 2, 4, 6, 8, 10.

    BERT-PKD (Sun et al. 2019): the last layer learns from the logits. The only layer of a student of one layer is
    paired with the teacher's last.
    """
    return uniform(student, teacher)[:-1] or [(student, teacher)]


def last(student: int, teacher: int) -> Pairs:
    """PKD-Last: the M - 1 teacher layers before the last for the student's first M - 1, 6 of 12 is 7, 8, 9, 10, 11.

    BERT-PKD (Sun et al. 2019). For a student of one layer as in `skip`.
    """
    return [(m, teacher - student + m) for m in range(1, student)] or [(student, teacher)]


def explicit(layers: Sequence[int], student: int, teacher: int) -> Pairs:
    """Pairs of student layers 1, 2, ... with the listed teacher layers; a list shorter than M leaves out the last
    ones."""
    if not isinstance(layers, Sequence):
        raise UserError(
            f"layers={layers}: a list of teacher layers such as [2,4,6], or one of {', '.join(sorted(MAPS))}"
        )
    layers = list(layers)
    if not 1 <= len(layers) <= student:
        raise UserError(
            f"layers={layers}: one teacher layer for each student layer that takes part, 1 to {student} of them"
        )
    if any(isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= teacher for n in layers):
        raise UserError(f"layers={layers}: the teacher's layers are numbered 1 to {teacher}")
    return list(enumerate(layers, start=1))


MAPS = {"uniform": uniform, "skip": skip, "last": last}


def layer_pairs(layers: LayerMap, student: int, teacher: int) -> Pairs:
    """[(student layer, teacher layer), ...] of a map in MAPS or of an explicit list, for depths M and N.

    UserError for an unknown name, a list that does not fit, and named maps to a shallower teacher.
    """
    if not isinstance(layers, str):
        return explicit(layers, student, teacher)
    if layers not in MAPS:
        raise UserError(f"layers={layers}: no such layer map; {nearest(layers, MAPS)} (or a list of teacher layers)")
    if student > teacher:
        raise UserError(
            f"layers={layers}: the student has {student} layers and the teacher {teacher}; a map needs a teacher at "
            "least as deep, or give a list of teacher layers"
        )
    return MAPS[layers](student, teacher)


def paired_layers(
    layers: LayerMap, student: Sequence[Layer] | None, teacher: Sequence[Layer] | None, above: int = 0
) -> list[tuple[Layer, Layer]]:
    """Pairs (student's, teacher's) of the layers that a map joins; `above` 1 if the embeddings come first, else 0."""
    assert student is not None and teacher is not None
    pairs = layer_pairs(layers, len(student) - above, len(teacher) - above)
    return [(student[m - 1 + above], teacher[n - 1 + above]) for m, n in pairs]
