"""`python -m kdlab.export RUN OUT`: the student as an ordinary transformers model folder, verified by loading it again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from kdlab.runs.export import export_student
from kdlab.runs.finished import command
from kdlab.runtime.command_line import CommandLine


def main(argv: Sequence[str] | None = None) -> int:
    """Write OUT; returns the exit code, 2 for bad input."""
    parser = CommandLine(prog="python -m kdlab.export", description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("out", type=Path, help="a new folder")
    chosen = parser.parse_args(argv)
    return command(lambda: export_student(chosen.run, chosen.out))


if __name__ == "__main__":
    sys.exit(main())
