"""The predictions of a run's student and teachers, a CSV file for each held-out split (predictions/dev.csv, test.csv)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from kdlab.data.tasks import metrics
from kdlab.modules.evaluation import Answers
from kdlab.runs.closing.held_out import HeldOut
from kdlab.runs.closing.scores import teaches
from kdlab.runs.prepare import PreparedRun
from kdlab.runs.process import notify
from kdlab.storage.escaping import spreadsheet_cell
from kdlab.storage.files import atomic_write_text
from kdlab.types import TaskShape

FOLDER = "predictions"  # in the run folder
MANY = 50  # classes; with more, only the probability of the predicted one is written


def table(
    numbers: Sequence[int] | np.ndarray,
    answers: Mapping[str, Answers],
    shapes: Mapping[str, TaskShape],
    limit: int | None = None,
) -> str:
    """CSV with a line for each of the first `limit` rows of a split: `row`, `label`, and of each name its prediction and
    probabilities.

    `numbers` (N,): the index of each row in its data file. `answers`: by name, those of the student first, who answers
    all rows; a specialist's cells are empty for rows of other classes. Columns: NAME the predicted class or number;
    NAME_p_CLASS the probability of each class, of more than `MANY` classes NAME_p that of the prediction. `shapes`: of
    the task by name, "student" for all others.
    """
    listed = next(iter(answers.values())).rows[:limit]
    answers = {who: _of(listed, found) for who, found in answers.items()}
    first, rows = next(iter(answers.values())), listed.tolist()
    shape = shapes["student"]
    columns: list[tuple[str, dict[int, object]]] = [
        ("row", {row: int(numbers[row]) for row in rows}),
        ("label", dict(zip(first.rows.tolist(), _named(first.labels, shape), strict=True))),
    ]
    for who, found in answers.items():
        columns += _columns(who.replace(" ", "_"), found, shapes.get(who, shape))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([spreadsheet_cell(name) for name, _ in columns])
    writer.writerows([spreadsheet_cell(values.get(row, "")) for _, values in columns] for row in rows)
    return stream.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")


def write_all(prepared: PreparedRun, found: HeldOut) -> None:
    """Write the files of a run's held-out splits, of student and teachers; none on text and with `predictions=0`."""
    stage, limit = prepared.stage, prepared.config.predictions
    for part, by_name in found.answers.items() if limit else ():
        for split in by_name["student"]:
            name = f"{part}_{split}" if split else part
            answers = {
                who: of[split] for who, of in by_name.items() if split in of and (who == "student" or teaches(who))
            }
            numbers = stage.inputs.file_rows(name)
            write(prepared.folder, name, table(numbers, answers, stage.shapes, limit))
            if len(numbers) > limit:
                notify(f"{FOLDER}/{name}.csv has the first {limit:,} of {len(numbers):,} rows (predictions={limit})")


def write(folder: Path, split: str, text: str) -> Path:
    """Write the table of a split into a run folder; returns the file."""
    (folder / FOLDER).mkdir(exist_ok=True)
    file = folder / FOLDER / f"{split}.csv"
    atomic_write_text(file, text)
    return file


def _of(rows: torch.Tensor, answers: Answers) -> Answers:
    """The answers to those of the `rows` (n,) that have one."""
    chosen = torch.isin(answers.rows, rows)
    return Answers(answers.rows[chosen], answers.logits[chosen], answers.labels[chosen])


def _columns(who: str, answers: Answers, shape: TaskShape) -> list[tuple[str, dict[int, object]]]:
    rows = answers.rows.tolist()
    predicted = metrics.predicted(answers.logits)
    columns = [(who, dict(zip(rows, _named(predicted, shape), strict=True)))]
    if shape.labels is None:
        return columns
    shares = answers.logits.double().softmax(1)
    if len(shape.labels) > MANY:
        shares, names = shares.gather(1, predicted[:, None]), [f"{who}_p"]
    else:
        names = [f"{who}_p_{label}" for label in shape.labels]
    for name, column in zip(names, shares.T.tolist(), strict=True):
        columns.append((name, {row: f"{share:.6g}" for row, share in zip(rows, column, strict=True)}))
    return columns


def _named(values: torch.Tensor, shape: TaskShape) -> list[object]:
    """Values as texts: numbers, or names of classes; empty for a hidden label."""
    if shape.labels is None:
        return ["" if math.isnan(value) else f"{value:.6g}" for value in values.tolist()]
    return [shape.labels[index] if index >= 0 else "" for index in values.tolist()]
