"""`python -m kdlab.compare FOLDER...`: finished runs by task, mean over seeds, each group tested against a baseline."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdlab.runs.closing.question import BASELINE, QUESTION
from kdlab.runtime.command_line import CommandLine


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit code, 2 for bad input."""
    chosen = _parser().parse_args(argv)
    from kdlab.reporting.comparison_text import print_comparison
    from kdlab.reporting.row_comparison import print_rows
    from kdlab.runs.finished import command

    if chosen.rows:
        return command(lambda: print_rows(chosen.runs))
    return command(
        lambda: print_comparison(
            chosen.runs, chosen.metric, chosen.baseline, chosen.markdown, chosen.csv, chosen.runs_csv, chosen.across
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = CommandLine(prog="python -m kdlab.compare", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--rows", action="store_true", help="two runs, row by row: McNemar's test on their predictions")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write all numbers to FILE, a line per group")
    parser.add_argument("--runs-csv", type=Path, metavar="FILE", help="also write the runs to FILE, a line each")
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments shared by the commands that compare runs: run folders, baseline and metric."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="FOLDER", help="run folders, or folders with runs below")
    parser.add_argument("--baseline", metavar="NAME", help=f"part of a group's name (default: {BASELINE})")
    parser.add_argument(
        "--across",
        action="append",
        default=[],
        metavar="SETTING",
        help="a setting that may differ from the baseline's, such as knowledge or student.layers; repeatable (always: "
        f"{', '.join(QUESTION)})",
    )
    parser.add_argument("--metric", metavar="NAME", help="such as accuracy (default: score; on text: loss)")


if __name__ == "__main__":
    sys.exit(main())
