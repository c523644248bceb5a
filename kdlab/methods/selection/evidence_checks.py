"""Checks of what a loop of one's own gives to a selection: the step, and the evidence of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.types import IGNORE, Evidence

_DIMENSIONS = {  # of the fields of Evidence
    "logits": (2, 3), "features": (2,), "labels": (1, 2), "mask": (2,), "rows": (1,), "votes": (3, 4),
    "teacher": (2, 3), "reference_loss": (1,),
}  # fmt: skip
MOST_ROWS = 2**34  # of a data set: a history has an entry for each id up to the largest


def check_step(step: int) -> None:
    """UserError unless `step` is a whole number from 0 on."""
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise UserError(f"step={step!r}: the number of optimizer steps done so far, a whole number from 0 on")


def labelled(labels: Tensor) -> bool:
    """True if some row, or position, has a label."""
    return bool((~labels.isnan() if labels.is_floating_point() else labels != IGNORE).any())


def row_count(given: Evidence, origin: str) -> int:
    """The number of rows of some evidence. UserError for tensors of other lengths or dimensions."""
    found: dict[str, int] = {}
    for name, dimensions in _DIMENSIONS.items():
        value = getattr(given, name)
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise UserError(f"{origin}: {name} is {type(value).__name__}; a tensor is expected")
        if value.ndim not in dimensions:
            raise UserError(
                f"{origin}: {name} has shape {tuple(value.shape)}; see kdlab.Evidence for what it stands for"
            )
        found[name] = len(value) if name != "votes" else value.shape[1]
    if not found or 0 in found.values():
        raise UserError(f"{origin}: no rows; give logits, features or labels of a batch")
    if len(set(found.values())) > 1:
        raise UserError(f"{origin}: rows differ in number: {', '.join(f'{n} {name}' for name, n in found.items())}")
    return next(iter(found.values()))


def check_labels(given: Evidence, origin: str) -> None:
    """UserError unless the labels are classes of the logits, one a row or a position (IGNORE: unknown)."""
    labels, logits = given.labels, given.logits
    if labels is None or logits is None or logits.shape[-1] < 2:
        return
    if labels.is_floating_point() or labels.is_complex():
        raise UserError(
            f"{origin}: labels of the type {str(labels.dtype).removeprefix('torch.')}, and logits of {logits.shape[-1]} "
            "classes; class numbers are expected, int64"
        )
    if labels.shape != logits.shape[:-1]:
        raise UserError(f"{origin}: labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}")
    if int(labels.max()) >= logits.shape[-1]:
        raise UserError(f"{origin}: the label {int(labels.max())}, and logits of {logits.shape[-1]} classes, from 0 on")


def check_ids(rows: Tensor, origin: str) -> None:
    """UserError unless the ids of rows are whole numbers from 0 on."""
    if rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool:
        kind = str(rows.dtype).removeprefix("torch.")
        raise UserError(f"{origin}: rows of the type {kind}; ids of rows are expected, int64 from 0 on")
    if int(rows.min()) < 0 or int(rows.max()) >= MOST_ROWS:
        found = int(rows.min()) if int(rows.min()) < 0 else int(rows.max())
        raise UserError(f"{origin}: the row id {found}; ids count the rows of the data set, from 0 to {MOST_ROWS:,}")


def evidence_device(given: Evidence) -> torch.device:
    """The device of some evidence."""
    return next(
        value.device
        for name in ("logits", "features", "labels", "votes", "teacher", "reference_loss")
        if (value := getattr(given, name)) is not None
    )
