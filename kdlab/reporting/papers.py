"""Numbers that the papers print (`published.csv`); `kdlab.reporting.paper_arms` decides which stands beside a run.

Papers in the file: `adads`, `dynamic_kd`, `ksm`, `dekd` and `sekd` (`PAPERS` has their titles). Of the first four all tables with
results are there, and the numbers of Dynamic KD's Appendix C; columns that follow from others (differences, the best and worst static
strategy) and numbers of parameters are not.

The settings always differ (BERT-base, full data, GPUs there), so a printed number is shown beside ours and not compared
with it. AdaDS Table 4 has a table of its own (`kdlab.reporting.glue_scoreboard`). AdaDS prints one number per task and
refers to GLUE for its metrics, where QQP, MRPC and STS-B have two whose mean counts: `combined` (Fig. 3 names QQP's
score so).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kdlab.data.tasks import registry

PAPERS = {
    "adads": (
        "Zhou et al. 2023, AdaDS: Adaptive data selection for accelerating pre-trained language model knowledge distillation"
    ),
    "dynamickd": "Li et al. 2021, Dynamic Knowledge Distillation for Pre-trained Language Models",
    "ksm": "Wang et al. 2023, Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection",
    "dekd": "Xu et al., Data-Efficient Knowledge Distillation with Teacher Assistant-Based Dynamic Objective Alignment",
    "sekd": "Tavor et al. 2026, Rethinking Selective Knowledge Distillation (arXiv 2602.01395)",
}
# what a reader of a printed number must have at hand
CAUTIONS = {
    "adads": (
        "all its numbers are of dev sets; its average counts MNLI-m and MNLI-mm as two; its speed-up of 3.4 implies a "
        "selector that observes 5 to 9 % of the rows"
    ),
    "dynamickd": (
        "Table 4 is of test sets, which ours are not; MRPC is accuracy; its average counts MNLI-m and MNLI-mm as two; its "
        "public scripts train other weights (squared distance of logits and cross-entropy, 1:1) than the paper has, and add "
        "the means of the two halves of hard adoption, which are one mean here; its 28.2 G count the backward of the kept "
        "rows alone, where labels on all rows take 33.9 G"
    ),
    "ksm": (
        "Tables 3 and 4 are of GLUE's test server, which ours are not; its average counts MNLI-m and MNLI-mm as two, and "
        "of MRPC and QQP the accuracy; its teachers have random seeds, ours one seed; its Eq. 14 prints the divergence with the "
        "student first, ours has the teacher first"
    ),
    "dekd": (
        "Tables 3 to 5 are of test sets, which ours are not; Table 3 says means, but its UHC, MUKI, KSM and DeKD on SST-2 "
        "and IMDb with 6 layers, and Table 4's DeKD, are the best of Table 5's five runs; MRPC is F1; MNLI is one score; "
        "its L_TA prints the divergence with the student first, without tau^2, and as a sum of two halves (Eq. 1, 7, 10), "
        "where ours is tau^2 KL(teacher || student) as one mean"
    ),
    "sekd": (
        "the numbers are those of the README of the authors' code: Qwen3-1.7B learns from Qwen3-8B on 80 million tokens of "
        "FineWeb-Edu, scored on benchmarks without training on them, where ours is the held-out text itself; its loss is the "
        "divergence alone, of the positions of the largest entropy"
    ),
}
MNLI_ONCE = ("dekd",)  # papers whose mean over tasks has one score of MNLI; the others count MNLI-m and MNLI-mm
_COLUMN = {"dynamickd": "dynamic_kd"}  # names in published.csv, where they differ
_ANY_TEXT = ("sekd",)  # papers whose scores are of a language model as a whole, whatever the text it learns from
_APART = {("adads", "4")}  # students of the pre-training stage, in kdlab.reporting.glue_scoreboard


@dataclass(frozen=True)
class PublishedNumber:
    """One printed number.

    `ratio`: share of the data that queries the teacher (None: no teacher is queried). `value`: as printed, in percent
    (GFLOPs, speed-ups, ranks and standard deviations as such). `task`: the task's title, "average" for the paper's own
    average, or "per sample" and "speed-up" for costs. `split`: rows it was measured on ("" for costs). `note`: a caution.
    """

    paper: str
    table: str
    method: str
    student: str
    ratio: float | None
    task: str
    metric: str
    value: float
    split: str
    note: str

    @property
    def place(self) -> str:
        """Table, student, rows and caution, for brackets behind the value."""
        named = self.table if len(self.table) > 1 else f"Appendix {self.table}"
        where = named if self.table.isalpha() else f"Table {self.table}"
        rows = "" if self.split in ("", "dev") else f"rows {self.split}" if self.split == "not said" else self.split
        return ", ".join(part for part in (where, self.student, rows, self.note) if part)


@cache
def all_numbers() -> tuple[PublishedNumber, ...]:
    """All rows of published.csv, in the order of the papers' tables."""
    with Path(__file__).with_name("published.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            PublishedNumber(
                **{**row, "ratio": float(row["ratio"]) if row["ratio"] else None, "value": float(row["value"])}
            )
            for row in csv.DictReader(file)
        )


def numbers_with(**columns: str | float | None) -> list[PublishedNumber]:
    """The numbers whose columns have these values: `numbers_with(paper="adads", table="4", task="RTE")`.

    AttributeError for an unknown column.
    """
    return [row for row in all_numbers() if all(getattr(row, name) == value for name, value in columns.items())]


def numbers_of_task(task: str, paper: str) -> list[PublishedNumber]:
    """All printed numbers of a paper (a key of `PAPERS`) for a task, in the order of its tables."""
    rows = numbers_with(paper=_COLUMN.get(paper, paper))
    if paper in _ANY_TEXT:
        return rows
    return [row for row in rows if row.task in titles(task) and (row.paper, row.table) not in _APART]


def titles(task: str) -> set[str]:
    """The titles of a task in published.csv: of MNLI also those of its two dev sets; empty for rows of one's own."""
    known = registry.TASKS.get(registry.plain_name(task))
    if known is None:
        return set()
    return {known.title, *(f"MNLI-{part}" for part in ("m", "mm") if known.name == "mnli")}
