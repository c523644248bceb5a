"""`python -m kdlab.faults`: inject every fault that kdlab promises to survive into tiny runs, and print the outcome.

Needs no download. `--quick` takes a few of each (minutes); without it, hundreds of kills (half an hour on two cores).
The exit code is 1 if anything was not as promised, 2 if no fault was chosen. Linux; filling disks needs the right to mount a tmpfs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kdlab.runtime import streams
from kdlab.runtime.command_line import CommandLine


def main(argv: Sequence[str] | None = None) -> int:
    """Inject the chosen faults and print a row for each; returns 1 if any was not as promised, 2 if no name fits."""
    chosen = _parser().parse_args(argv)
    streams.outlive_readers()
    from kdlab.testing.fault_suite import FaultOptions, run_suite

    options = FaultOptions(chosen.quick, chosen.only, chosen.but, chosen.jobs, chosen.steps, chosen.table)
    return run_suite(options, chosen.folder)


def _parser() -> argparse.ArgumentParser:
    parser = CommandLine(prog="python -m kdlab.faults", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few of each fault")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORDS", help="only faults whose name has one of these words"
    )
    parser.add_argument(
        "--but", nargs="+", default=[], metavar="WORDS", help="no faults whose name has one of these words"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: one per core)")
    parser.add_argument("--steps", type=int, default=None, help="steps of the long run (20000; with --quick 300)")
    parser.add_argument(
        "--table", type=Path, default=None, metavar="FILE",
        help="add the rows to FILE, in which several calls collect theirs, and print all of it as Markdown",
    )  # fmt: skip
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to work (default: in memory, removed at the end)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
