"""Reading run folders: what the other commands (evaluate, export) do with a run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdlab.config.schema import Config, checked, first_line
from kdlab.errors import UserError
from kdlab.storage import yaml_io


def finished_result(run: Path) -> dict[str, Any]:
    """The result.json of a finished run; UserError for a folder that holds none."""
    file = run / "result.json"
    if not run.is_dir() or not file.is_file():
        raise UserError(f"{run} is not a run folder: no result.json in it")
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}); the run has to be made again") from error
    if not isinstance(result, dict) or result.get("status") != "finished":
        found = result.get("status") if isinstance(result, dict) else None
        raise UserError(f"{run} holds no finished run (status: {found}); the command that began it goes on with it")
    return result


def config_of(run: Path) -> Config:
    """The configuration a run was made with; UserError where it cannot be read, or asks for what there is not."""
    file = run / "config.yaml"
    try:
        composed = OmegaConf.create(yaml_io.read(file))
    except OmegaConfBaseException as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}") from error
    return checked(composed)


def command(main: Callable[[], int]) -> int:
    """Run a command's body; a UserError becomes one line and exit code 2, a reader that has gone the end of it."""
    try:
        return main()
    except UserError as error:
        print(f"kdlab: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read this, `head` perhaps, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
