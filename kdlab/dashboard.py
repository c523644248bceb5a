"""`python -m kdlab.dashboard`: the W&B workspace of a project, as JSON, and sent where an account is there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdlab.errors import UserError
from kdlab.reporting.wandb_workspace import as_json, workspace
from kdlab.runs.finished import command
from kdlab.runs.loggers.wandb import account
from kdlab.storage.files import atomic_write_text

UNKNOWN = "ENTITY"  # stands in the file until somebody says who it is


def main(argv: Sequence[str] | None = None) -> int:
    """Write the definition, send it if that is possible; 2 for bad input."""
    given = _parser().parse_args(argv)
    return command(lambda: _write(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kdlab.dashboard", description=__doc__)
    parser.add_argument("--project", default="kdlab", help="as logger.project (kdlab)")
    parser.add_argument("--entity", help="the user or team it belongs to; without it nothing is sent")
    parser.add_argument("--out", type=Path, default=Path("workspace.json"), metavar="FILE", help="(workspace.json)")
    return parser


def _write(given: argparse.Namespace) -> int:
    found = workspace(given.project, given.entity or UNKNOWN)
    atomic_write_text(given.out, as_json(found))
    print(f"{given.out}: the workspace of {given.entity or UNKNOWN}/{given.project}")
    if not given.entity or not account():
        print(
            "not sent: "
            + ("no W&B account was found (WANDB_API_KEY or `wandb login`)" if given.entity else "no --entity")
        )
        return 0
    try:
        found.save()
    except Exception as error:  # whatever the network and the server answer with
        reason = str(error).strip().splitlines()
        raise UserError(f"the workspace was not sent: {reason[0] if reason else type(error).__name__}") from error
    print(f"sent: {found.url}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
