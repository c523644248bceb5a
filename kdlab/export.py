"""`python -m kdlab.export RUN OUT`: the student as an ordinary transformers model folder, verified by loading it again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdlab.runtime.command_line import CommandLine


def main(argv: Sequence[str] | None = None) -> int:
    """Write OUT; returns the exit code, 2 for bad input."""
    chosen = _parser().parse_args(argv)
    from kdlab.runs.export import export_student
    from kdlab.runs.finished import command

    return command(lambda: export_student(chosen.run, chosen.out))


def _parser() -> argparse.ArgumentParser:
    parser = CommandLine(prog="python -m kdlab.export", description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("out", type=Path, help="a new folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
