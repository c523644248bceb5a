"""Read the folders of finished runs, for the commands that start from one (evaluate, export, reports).

What fails once the results are known (a figure, a logger, the closing table) is a warning in result.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdlab.config.saved import read_config_here
from kdlab.config.schema import Config, checked, first_line
from kdlab.errors import UserError
from kdlab.runtime import streams
from kdlab.storage.files import atomic_write_json


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


@contextmanager
def warning_of(what: str, warnings: list[str]) -> Iterator[None]:
    """Turn an exception of the block into a line of `warnings` that names `what`."""
    try:
        yield
    except Exception as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        warnings.append(f"{what}: {line if isinstance(error, UserError) else f'{type(error).__name__}: {line}'}")


def add_warnings(run: Path, lines: Sequence[str]) -> None:
    """Add warnings to the result.json of a finished run; do nothing where it cannot be read or written."""
    with suppress(UserError):
        result = finished_result(run)
        atomic_write_json(run / "result.json", {**result, "warnings": [*result.get("warnings", []), *lines]})


def config_of(run: Path) -> Config:
    """The checked configuration of a run, from its config.yaml, with paths that hold in the present folder.

    UserError where it cannot be read or is not valid.
    """
    file = run / "config.yaml"
    try:
        composed = OmegaConf.create(read_config_here(run))
    except OmegaConfBaseException as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}") from error
    return checked(composed)


def command(main: Callable[[], int]) -> int:
    """Run a command's body; its exit code. A UserError becomes one line and exit code 2; a closed output ends nothing."""
    streams.outlive_readers()
    try:
        return main()
    except UserError as error:
        print(f"kdlab: {error}", file=sys.stderr)
        return 2
