"""Write an analysis as a CSV table and a PNG figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdlab.errors import UserError, one_line
from kdlab.plotting import files
from kdlab.storage.escaping import csv_table
from kdlab.storage.files import atomic_write_bytes, atomic_write_text, user_errors
from kdlab.storage.locks import sole_writer

if TYPE_CHECKING:
    from kdlab.reporting.analyses.one_run import AnalysisResult


def write_analysis(result: AnalysisResult, name: str, folder: Path) -> int:
    """Write `folder`/`name`.csv and .png and print their paths; returns the exit code 0. UserError where the analysis shows
    nothing: no file is written."""
    if result.nothing:
        raise UserError(result.nothing)
    for line in result.remarks:
        print(one_line(line))
    with user_errors("writing an analysis", folder):
        folder.mkdir(parents=True, exist_ok=True)
    table, figure = folder / f"{name}.csv", folder / f"{name}.png"
    with sole_writer(table):
        atomic_write_text(table, csv_table(result.columns, result.rows))
        atomic_write_bytes(figure, files.png(result.figure))
    print(table)
    print(figure)
    return 0
