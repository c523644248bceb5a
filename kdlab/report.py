"""`python -m kdlab.report FOLDER...`: a page and a Markdown table of many runs: means, spreads, costs, tests, figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdlab.compare import add_arguments
from kdlab.reporting.papers import PAPERS
from kdlab.runtime.command_line import CommandLine


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and the table; returns the exit code, 2 for bad input."""
    chosen = _parser().parse_args(argv)
    from kdlab.reporting.page.written import write_report
    from kdlab.runs.finished import command

    return command(
        lambda: write_report(
            chosen.runs,
            chosen.out,
            chosen.paper,
            chosen.where,
            chosen.metric,
            chosen.baseline,
            chosen.across,
            chosen.latex,
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = CommandLine(prog="python -m kdlab.report", description=__doc__)
    add_arguments(parser)
    where = "the page (default: report.html in FOLDER; of several, in the folder that they are in)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=where)
    parser.add_argument("--latex", action="store_true", help="also write the tables as LaTeX (booktabs), for a paper")
    parser.add_argument("--paper", choices=sorted(PAPERS), help="show the numbers that this paper prints beside ours")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only these runs; repeatable")
    return parser


if __name__ == "__main__":
    sys.exit(main())
