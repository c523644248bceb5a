"""Content of a report: sections with their tables and figures, and what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdlab.plotting import files
from kdlab.reporting.figures.frame import Drawing
from kdlab.reporting.tables import TaskTable
from kdlab.storage.escaping import shortened

NAME, SOME = 32, 3  # characters of a task's name, and tasks, in a title
MARK = "made by kdlab.report"  # in every file that may be written again


@dataclass
class Picture:
    """A figure of the page and its SVG. `task`: "" for one of all tasks."""

    task: str
    drawing: Drawing
    svg: bytes

    @property
    def caption(self) -> str:
        """The caption below the figure."""
        return self.drawing.caption


def picture(task: str, drawing: Drawing) -> Picture:
    """A drawn figure of a task."""
    return Picture(task, drawing, files.svg(drawing.figure))


@dataclass
class Section:
    """A task: its table and its figures; `undrawn`: figures without data, each with the reason."""

    table: TaskTable
    pictures: list[Picture] = field(default_factory=list)
    undrawn: list[str] = field(default_factory=list)


@dataclass
class ReportPage:
    """The content of a report.

    `left_out`: reason by folder that is no run of the report; `remarks`: for the reader; `conditions`: of `--where`;
    `paper`: key of `PAPERS`; `baseline`: as given on the command line.
    """

    sections: list[Section]
    pictures: list[Picture]
    left_out: Mapping[str, str]
    remarks: Sequence[str]
    conditions: Sequence[str]
    paper: str | None
    baseline: str | None

    @property
    def tables(self) -> list[TaskTable]:
        """The tables of the sections."""
        return [section.table for section in self.sections]

    @property
    def all_pictures(self) -> list[Picture]:
        """The figures of all tasks together, and of each."""
        return [*self.pictures, *(one for section in self.sections for one in section.pictures)]

    @property
    def undrawn(self) -> list[str]:
        """The figures without data that all of several tasks lack alike, which the page names once."""
        each = [section.undrawn for section in self.sections]
        return each[0] if len(each) > 1 and all(one == each[0] for one in each) else []

    @property
    def title(self) -> str:
        """Title of the page: tasks, number of runs and groups; short enough for a phone and a tab."""
        runs = sum(len(table.runs) for table in self.tables)
        groups = sum(len(table.rows) for table in self.tables)
        tasks = [shortened(table.comparison.task, NAME) for table in self.tables]
        what = ", ".join(tasks[:SOME]) + (f" and {len(tasks) - SOME} more tasks" if len(tasks) > SOME else "")
        return f"{what}: {runs} run{'s' * (runs != 1)} in {groups} group{'s' * (groups != 1)}"


def as_utf8(text: str) -> str:
    """The text as UTF-8 has it: half a surrogate pair, of a folder's name, becomes \\ud800."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
