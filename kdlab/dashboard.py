"""`python -m kdlab.dashboard`: the W&B workspace of a project as JSON, sent to W&B if an account is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdlab.runtime.command_line import CommandLine


def main(argv: Sequence[str] | None = None) -> int:
    """Write the workspace and send it if possible; returns the exit code, 2 for bad input."""
    chosen = _parser().parse_args(argv)
    from kdlab.reporting.wandb_workspace import write_workspace
    from kdlab.runs.finished import command

    return command(lambda: write_workspace(chosen.project, chosen.entity, chosen.out))


def _parser() -> argparse.ArgumentParser:
    parser = CommandLine(prog="python -m kdlab.dashboard", description=__doc__)
    parser.add_argument("--project", default="kdlab", help="as logger.project (kdlab)")
    parser.add_argument("--entity", help="the user or team that owns it; without it nothing is sent")
    parser.add_argument("--out", type=Path, default=Path("workspace.json"), metavar="FILE", help="(workspace.json)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
