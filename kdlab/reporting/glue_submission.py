"""`python -m kdlab.evaluate RUN --glue-submission OUT.zip`: what the GLUE server takes, answered by a run's student.

The server wants one zip of eleven files, each with the header `index<TAB>prediction` and a line for every row of the
task's hidden test set, in its order, from 0 (gluebenchmark.com/faq): class names for MNLI, QNLI, RTE and the diagnostic
set AX, else the class number; for STS-B a number from 0 to 5.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdlab.config import quoting
from kdlab.config.schema import Config
from kdlab.data.tasks import dataset
from kdlab.data.tasks.metrics import predicted
from kdlab.data.tasks.registry import AX, GLUE, TASKS, Task, find
from kdlab.data.tasks.rows import TaskData
from kdlab.data.tasks.sources import TaskFolder, diagnostics
from kdlab.errors import UserError
from kdlab.models import loading
from kdlab.models.encoder import Encoder
from kdlab.models.head import head_of_result
from kdlab.models.loading import silence_transformers
from kdlab.modules import evaluation
from kdlab.reporting.glue_scoreboard import RESULTS
from kdlab.runs.finished import config_of, finished_result
from kdlab.runs.folders import status
from kdlab.runs.keeping import check_student
from kdlab.stages.registry import stage_of
from kdlab.storage.files import atomic_write_bytes
from kdlab.storage.locks import sole_writer
from kdlab.types import Batch, TaskShape

# rows of the hidden test sets, to tell a sample of one from the whole
ROWS = {
    "CoLA.tsv": 1063, "SST-2.tsv": 1821, "MRPC.tsv": 1725, "STS-B.tsv": 1379, "QQP.tsv": 390965, "MNLI-m.tsv": 9796,
    "MNLI-mm.tsv": 9847, "QNLI.tsv": 5463, "RTE.tsv": 3000, "WNLI.tsv": 146, "AX.tsv": 1104,
}  # fmt: skip


def submit(run: Path, out: Path, notify: Callable[[str], None] = print) -> None:
    """Write the zip `out` for a run of `+exp=finetune` (or any other that trained on a GLUE task), or for a suite's folder:
    of several seeds the one with the best dev score answers.

    The same student and rows give the same bytes. Says which files are in it and which are not. UserError for a run of
    another stage or task, rows without a test split, and an `out` that exists.
    """
    silence_transformers()
    with sole_writer(out):
        if out.exists():
            raise UserError(f"{out} exists, and is kept: choose another name")
        _submit(run, out, notify)


def _submit(run: Path, out: Path, notify: Callable[[str], None]) -> None:
    if (run / RESULTS).is_file():
        runs = _best(run, notify)
    else:
        result, config = finished_result(run), config_of(run)
        runs = {_glue_task(run, result, config).name: run}
    files: dict[str, str] = {}
    why: dict[str, str] = {}
    for name, folder in runs.items():
        for file, found in _answers(folder, TASKS[name], notify):
            if isinstance(found, str):
                why[file] = found
                continue
            files[file] = found_text = _text(found, TASKS[name])
            count = found_text.count("\n") - 1
            wanted = "" if count == ROWS[file] else f"; the server's test set has {ROWS[file]:,}: this is not all of it"
            notify(f"{file}: {count:,} rows{wanted}")
    if not files:
        raise UserError(f"{run}: nothing to answer: {'; '.join(sorted(set(why.values())))}")
    atomic_write_bytes(out, _zip(files))
    lacking = [file for file in ROWS if file not in files]
    notify(f"{out}: {', '.join(sorted(files))}")
    if lacking:
        reasons = "; ".join(sorted(set(why.values())))
        notify(
            f"not in the zip: {', '.join(lacking)}{f' ({reasons})' if reasons else ''}; the server wants all {len(ROWS)}"
        )


def _best(suite: Path, notify: Callable[[str], None]) -> dict[str, Path]:
    """For each GLUE task of a suite, the run of the student with the best dev score."""
    best: dict[str, Path] = {}
    for name in GLUE:
        runs = sorted(folder for folder in (suite / name).glob("seed=*") if status(folder) == "finished")
        if runs:
            scores = {
                folder: finished_result(folder, "metrics.student.score")["metrics"]["student"]["score"]
                for folder in runs
            }
            best[name] = max(runs, key=scores.__getitem__)
            notify(f"{TASKS[name].title}: {best[name].name} answers, the best on dev of {len(runs)} ({100 * scores[best[name]]:.2f})")  # fmt: skip
    if not best:
        raise UserError(f"{suite} holds no finished run of a GLUE task yet; the command that started it resumes it")
    return best


def _glue_task(run: Path, result: dict[str, Any], config: Config) -> Task:
    if not head_of_result(result).per_row:
        raise UserError(
            f"{run} is a run of the pre-training stage, which learns no task; to fine-tune its student on all of GLUE:  "
            f"{quoting.command(['+exp=glue', quoting.override('student.path', run / 'student')])}"
        )
    task = None if config.data.task is None else find(config.data.task)
    if task is None or not task.glue:
        learnt = "rows of one's own (no data.task=)" if task is None else task.title
        raise UserError(f"{run} learnt {learnt}, which is no GLUE task; those are {', '.join(GLUE)}")
    return task


def _answers(run: Path, task: Task, notify: Callable[[str], None]) -> Iterator[tuple[str, Tensor | str]]:
    """For each file of a task, and for AX.tsv with MNLI, logits (N, C) in the order of the rows, or why there are none."""
    check_student(run, finished_result(run))
    config = config_of(run)
    stage = stage_of(config, notify)
    stage.inputs.source.check()
    model = loading.load_classifier(run / "student")
    if task.shape.labels is not None and loading.labels_of(model.config) != task.shape.labels:
        raise UserError(
            f"{run / 'student'} has the classes {', '.join(loading.labels_of(model.config))}; {task.title} has "
            f"{', '.join(task.shape.labels)}"
        )
    tokenizer = loading.load_tokenizer(run / "student")
    gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    encoder = Encoder(model).eval().to("cuda" if gpu else "cpu")
    splits = stage.inputs.source.read().splits
    for split, file in task.glue.items():
        if split not in splits:
            place = stage.inputs.source.path if isinstance(stage.inputs.source, TaskFolder) else task.hub.name
            yield file, f"{place} has no {split} split"
            continue
        yield file, _logits(encoder, tokenizer, TaskData(task.shape, {split: splits[split]}), split, config)
    if task.name == "mnli":
        (file,) = AX.glue.values()
        try:
            rows = diagnostics(stage.inputs.source)
        except UserError as error:
            yield file, str(error)
            return
        yield file, _logits(encoder, tokenizer, TaskData(AX.shape, {"test": rows}), "test", config)


def _logits(encoder: Encoder, tokenizer: Any, data: TaskData, split: str, config: Config) -> Tensor:
    """Logits (N, C) of a split's rows, in their order."""
    with tempfile.TemporaryDirectory() as folder:
        dataset.prepare(data, tokenizer, Path(folder), max_length=config.data.max_length)
        rows = dataset.load(Path(folder), split)
        device = next(encoder.parameters()).device
        batches = _batches(rows, int(tokenizer.pad_token_id or 0), config.data.batch_size)
        order, logits, _ = evaluation.predictions(encoder, batches, device)
    if not logits.isfinite().all():
        raise UserError(f"the student of {config.data.task} answers NaN or infinity: it has diverged")
    return logits[order.argsort()]


def _batches(rows: dataset.TokenizedRows, pad: int, size: int) -> Iterator[Batch]:
    """All rows, those of a length together."""
    collate = rows.collate(pad)
    by_length = np.argsort(rows.lengths, kind="stable")
    for start in range(0, len(rows), size):
        yield collate([rows[0, int(row)] for row in by_length[start : start + size]])


def _text(logits: Tensor, task: Task) -> str:
    """The contents of a file, from logits (N, C)."""
    return (
        "\n".join(["index\tprediction", *(f"{i}\t{answer}" for i, answer in enumerate(written(logits, task)))]) + "\n"
    )


def written(logits: Tensor, task: Task) -> list[str]:
    """Predictions of logits (N, C) in the server's format: class names or numbers; scores clipped to [0, 5]."""
    shape: TaskShape = task.shape
    found = predicted(logits)
    if shape.labels is None:
        return [f"{value:.6f}" for value in found.double().clamp(0, 5).tolist()]
    return [shape.labels[i] if task.glue_names else str(i) for i in found.tolist()]


def _zip(files: dict[str, str]) -> bytes:
    """A zip whose bytes depend on the files alone."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(entry, files[name].encode())
    return held.getvalue()
