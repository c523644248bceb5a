"""Runs of a study of selection, from run folders or from a results.csv that `kdlab compare --runs-csv` wrote."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdlab.errors import UserError, one_line
from kdlab.reporting import comparison_text, seed_groups

NUMBERS = ("seed", "ratio", "steps", "batch", "score", "teacher_queries", "flops", "teacher_flops", "student_flops")
TEXTS = ("task", "knowledge", "select", "start", "settings")
LABELS_ON_ALL = "labels_on=all"  # among the settings, of `knowledge.labels_on`


@dataclass(frozen=True)
class StudyRun:
    """A finished run with its costs. `score` as a share, higher is better; `majority`: that of the most frequent class.

    `teacher_flops` FLOPs of the teachers alone; `student_flops` those of one forward of the student on the rows that it
    learnt from; `settings`: the settings of the selection that differ from their defaults; `labels_on`: the rows whose labels are
    learnt; `other`: what else sets it apart from the other runs of the study ("knowledge=pkd"); `asked`: teacher queries for each
    row learnt from, above 1 where a strategy reads the teacher's answers to rows that it does not keep. `classes` of the
    task, None where it is not known.
    """

    task: str
    knowledge: str
    select: str
    start: str
    settings: str
    ratio: float
    steps: int
    batch: int
    seed: int
    score: float
    majority: float | None
    queries: float
    flops: float
    teacher_flops: float
    student_flops: float
    seconds: float | None
    stage: str = "finetune"
    classes: int | None = None
    scoring_flops: float = 0.0
    asked: float = 1.0
    labels_on: str = "selected"
    other: str = ""

    @property
    def method(self) -> str:
        """The selection with its settings, and the start of the student where that is no default."""
        start = f"start={self.start}" if self.start not in ("", "backbone") else ""
        labels = "labels_on=all" if self.labels_on == "all" else ""
        return " ".join(part for part in (self.select, self.settings, labels, self.other, start) if part)

    @property
    def footing(self) -> str:
        """Start, labels and knowledge, which random rows must have in common with the run besides task, ratio, batch and seed."""
        return " ".join((self.start, self.labels_on, self.other))

    @property
    def taught_as(self) -> tuple[str, str]:
        """Start and knowledge, which all data must have in common with the run: there labels are learnt on all rows anyway."""
        return self.start, self.other

    @property
    def taught(self) -> bool:
        """True if a teacher answered."""
        return self.queries > 0

    @property
    def teacher_ratio(self) -> float:
        """FLOPs of a teacher's forward of a row over those of a student's."""
        return self.teacher_flops / (self.asked * self.student_flops) if self.asked * self.student_flops else math.nan

    def cost(self, teacher_ratio: float | None = None) -> float:
        """FLOPs of the run, as if a forward of the teacher cost `teacher_ratio` forwards of the student (None: as it did)."""
        if teacher_ratio is None:
            return self.flops
        return self.flops - self.teacher_flops + teacher_ratio * self.asked * self.student_flops

    @property
    def plain_random(self) -> bool:
        """True of random rows without further settings, the baseline of their footing."""
        return self.select == "random" and not self.settings

    def collapsed(self) -> bool:
        """True if the student scores no better than the most frequent class."""
        return self.majority is not None and self.score <= self.majority


def read(paths: Sequence[Path], notify: Callable[[str], None] = print) -> list[StudyRun]:
    """The runs of CSV files, and the finished runs in and below folders; each run that is left out is named.

    UserError for a file that lacks a column, a number that is none, or no run at all.
    """
    found: list[StudyRun] = []
    folders = [path for path in paths if path.is_dir()]
    for path in (path for path in paths if not path.is_dir()):
        found += _of_file(path)
    if folders:
        runs, left = seed_groups.read(folders)
        for folder, why in left.items():
            notify(one_line(f"left out, {why}: {folder}"))
        found += [_run(row, "run") for row in comparison_text.run_rows(runs)]
    kept = [run for run in found if math.isfinite(run.score)]
    if len(kept) < len(found):
        notify(f"{len(found) - len(kept)} runs whose score is no number are left out")
    if not kept:
        raise UserError(f"no run with a score in {', '.join(map(str, paths))}")
    return _last(_named_by_knowledge(kept))


def _named_by_knowledge(runs: Sequence[StudyRun]) -> list[StudyRun]:
    """The runs, each taught another knowledge than most of them with that in `other`."""
    count = Counter(run.knowledge for run in runs if run.taught)
    most = max(count, key=count.__getitem__, default="")
    return [
        replace(run, other=f"knowledge={run.knowledge}") if run.taught and run.knowledge != most else run
        for run in runs
    ]


def _of_file(path: Path) -> list[StudyRun]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {one_line(str(error))}") from error
    missing = [name for name in (*TEXTS, *NUMBERS) if rows and name not in rows[0]]
    if missing or not rows:
        what = f"lacks the column {missing[0]}" if missing else "has no row"
        raise UserError(f"{path} {what}; `kdlab compare FOLDER --runs-csv FILE` writes such files")
    return [_run(row, f"{path}, line {line}") for line, row in enumerate(rows, 2)]


def _run(row: Mapping[str, Any], where: str) -> StudyRun:
    """A run from a row of `comparison_text.run_rows`; UserError with `where` for a number that is none."""

    def number(name: str) -> float:
        try:
            return float(row[name])
        except (TypeError, ValueError):
            raise UserError(f"{where}: {name} is {row[name]!r}, a number was expected") from None

    def known(name: str) -> float | None:
        return None if row.get(name) in (None, "") else number(name)

    score, settings = known("score"), str(row["settings"] or "")
    labels = LABELS_ON_ALL in settings.split()
    return StudyRun(
        task=str(row["task"]),
        knowledge=str(row["knowledge"] or ""),
        select=str(row["select"]),
        start=str(row["start"] or ""),
        settings=" ".join(one for one in settings.split() if one != LABELS_ON_ALL),
        ratio=number("ratio"),
        steps=int(known("steps") or 0),  # results of old versions have none
        batch=int(number("batch")),
        seed=int(number("seed")),
        score=math.nan if score is None else score,
        majority=known("majority_score"),
        queries=number("teacher_queries"),
        flops=number("flops"),
        teacher_flops=number("teacher_flops"),
        student_flops=number("student_flops"),
        seconds=known("seconds"),
        stage=str(row.get("stage") or "finetune"),
        classes=None if (classes := known("classes")) is None else int(classes),
        scoring_flops=known("scoring_flops") or 0.0,
        asked=_asked(known, number, settings),
        labels_on="all" if labels else "selected",
    )


def _asked(known: Callable[[str], float | None], number: Callable[[str], float], settings: str) -> float:
    """Teacher queries for each row that the student learnt from; 1 where the number of these is not known. `settings` has
    "replay=R" where R rows kept before came again for each row kept."""
    batch, ratio = number("batch"), number("ratio")
    seen = known("rows_seen") or (known("steps") or 0) * batch  # older files lack the former
    kept = seen / batch * max(1, math.floor(batch * ratio * (1 + 1e-12))) if batch else 0.0
    replay = re.search(r"(?:^|[ ,])replay=([\d.]+)", settings)
    learnt = kept * (1 + float(replay[1])) if replay else kept
    return number("teacher_queries") / learnt if learnt else 1.0


def _last(runs: Iterable[StudyRun]) -> list[StudyRun]:
    """The runs without earlier ones of the same settings and seed."""
    last = {(r.task, r.knowledge, r.method, r.ratio, r.steps, r.batch, r.seed): r for r in runs}
    return list(last.values())
