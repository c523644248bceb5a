"""Content of a report: sections with their tables and figures, and what stands beside them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kdlab.plotting import style as pictures
from kdlab.reporting.tables import TaskTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = "made by kdlab.report"  # in every file that may be written again


@dataclass
class Picture:
    """A figure of the page: its caption, its bytes (SVG), its size in CSS pixels."""

    caption: str
    data: bytes
    width: int
    height: int

    @property
    def uri(self) -> str:
        """The SVG as a data URI."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.data).decode('ascii')}"


def picture(figure: Figure, caption: str) -> Picture:
    """A drawn figure with its caption."""
    size = figure.get_size_inches() * 110
    return Picture(caption, pictures.svg(figure), round(float(size[0])), round(float(size[1])))


@dataclass
class Section:
    """A task: its table and its figures."""

    table: TaskTable
    pictures: list[Picture] = field(default_factory=list)


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
    def title(self) -> str:
        """Title of the page: tasks, number of runs and groups."""
        runs = sum(len(table.runs) for table in self.tables)
        groups = sum(len(table.rows) for table in self.tables)
        tasks = [table.comparison.task for table in self.tables]
        what = f"{', '.join(tasks[:4])}{' …' if len(tasks) > 4 else ''}"
        return f"{what}: {runs} run{'s' * (runs != 1)} in {groups} group{'s' * (groups != 1)}"


def as_utf8(text: str) -> str:
    """The text as UTF-8 has it: half a surrogate pair, of a folder's name, becomes \\ud800."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
