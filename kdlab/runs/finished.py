"""Read the folders of finished runs, for the commands that start from one (evaluate, export, reports)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdlab.config.saved import read_config
from kdlab.config.schema import Config, checked, first_line
from kdlab.errors import UserError


def finished_result(run: Path) -> dict[str, Any]:
    """The result.json of a finished run; UserError for a folder that holds none."""
    file = run / "result.json"
    if not run.is_dir() or not file.is_file():
        raise UserError(f"{run} is not a run folder: no result.json in it")
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}); run it again") from error
    if not isinstance(result, dict) or result.get("status") != "finished":
        status = result.get("status") if isinstance(result, dict) else None
        raise UserError(f"{run} holds no finished run (status: {status}); the command that started it resumes it")
    return result


def config_of(run: Path) -> Config:
    """The checked configuration of a run, from its config.yaml; UserError where it cannot be read or is not valid."""
    file = run / "config.yaml"
    try:
        composed = OmegaConf.create(read_config(run))
    except OmegaConfBaseException as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}") from error
    return checked(composed)


def command(main: Callable[[], int]) -> int:
    """Run a command's body. A UserError becomes one line and exit code 2; a closed pipe ends it with code 0."""
    try:
        return main()
    except UserError as error:
        print(f"kdlab: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, for example `head`, has closed the output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
