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

from kdlab.config.groups.data import AUTO
from kdlab.config.saved import read_config_here
from kdlab.config.schema import Config, checked, first_line
from kdlab.errors import UserError, one_line
from kdlab.plugins import own_modules
from kdlab.runtime import streams
from kdlab.storage.escaping import shortened
from kdlab.storage.files import atomic_write_json, read_json

LONGEST = 500  # characters of a warning
LARGEST_FILE = 1 << 24  # bytes of a result.json: runs write some thousand
_A_RUNS = {"seed", "select", "metrics", "ledger"}  # a result.json with none of these is of a suite of runs


def read_result(run: Path) -> tuple[dict[str, Any] | None, str]:
    """The result.json of a finished run as its schema has it, and ""; else None, and why the folder holds no such run.

    The reason is "" for a suite of runs, which has no scores of its own.
    """
    file = run / "result.json"
    try:
        if (size := file.stat().st_size) > LARGEST_FILE:
            return None, f"result.json of {size:,} bytes, and no run writes more than {LARGEST_FILE:,}"
        result = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        return None, f"result.json cannot be read: {error.strerror}"
    except (ValueError, RecursionError):
        return None, "half-written"
    status = result.get("status") if isinstance(result, dict) else None
    if not isinstance(status, str):
        return None, "half-written"
    if status != "finished":
        return None, shortened(status, 40)
    if not _A_RUNS & result.keys():
        return None, ""
    from kdlab.runs.closing.result_schema import fault  # imports pydantic: a run that reads no other starts without it

    found = fault(result)
    return (None, f"result.json is not as runs write it: {found}") if found else (result, "")


def finished_result(run: Path, *needed: str) -> dict[str, Any]:
    """The result.json of a finished run; UserError for a folder that holds none, or one without a `needed` value.

    `needed`: dotted names of values that the schema leaves optional.
    """
    file = run / "result.json"
    if not run.is_dir() or not file.is_file():
        raise UserError(f"{run} is not a run folder: no result.json in it")
    result, why = read_result(run)
    if result is None:
        if why.startswith("result.json"):
            raise UserError(f"{run}: {why}")
        if not why:
            raise UserError(f"{run} is a suite of runs: name one of those below it")
        state = f"{file} is damaged" if why == "half-written" else f"{run} holds no finished run (status: {why})"
        raise UserError(f"{state}; the command that started it runs or resumes it")
    for name in needed:
        if inside(result, name) is None:
            raise UserError(f"{run}: result.json has no {name}, which this command reads")
    return result


def inside(node: Any, name: str) -> Any:
    """The value at a dotted name; None if it is absent."""
    for part in name.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


@contextmanager
def warning_of(what: str, warnings: list[str]) -> Iterator[None]:
    """Turn an exception of the block into a line of `warnings` that names `what`."""
    try:
        yield
    except Exception as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        said = line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"
        warnings.append(one_line(f"{what}: {said}")[:LONGEST])


def add_warnings(run: Path, lines: Sequence[str]) -> None:
    """Add warnings to the result.json of a finished run; do nothing where it cannot be read or written."""
    with suppress(UserError, OSError, ValueError, TypeError, AttributeError):
        result = read_json(run / "result.json")
        atomic_write_json(run / "result.json", {**result, "warnings": [*result.get("warnings", []), *lines]})


def config_of(run: Path) -> Config:
    """The checked configuration of a run, from its config.yaml, with paths that hold in the present folder.

    A data.max_length that the run chose from its rows is that of its result.json. UserError where it cannot be read or is not valid.
    """
    file = run / "config.yaml"
    try:
        composed = OmegaConf.create(read_config_here(run))
    except OmegaConfBaseException as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}") from error
    config = checked(composed)
    chosen = inside(read_result(run)[0], "data.max_length")
    if config.data.max_length == AUTO and chosen is not None:
        config.data.max_length = int(chosen)
    return config


def command(main: Callable[[], int], code: Sequence[str] = ()) -> int:
    """Run a command's body; its exit code. A UserError becomes one line and exit code 2; a closed output ends nothing.

    `code`: the values of its options `--code`.
    """
    streams.outlive_readers()
    try:
        own_modules.load(code)
        return main()
    except UserError as error:
        print(f"kdlab: {error}", file=sys.stderr)
        return 2
