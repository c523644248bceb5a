"""A forecast in a process of its own: its memory is not the run's, and the run that follows is the same without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdlab.errors import UserError

if TYPE_CHECKING:
    from kdlab.runs.forecast.forecast import Forecast

PIPE = "KDLAB_PLAN_PIPE"  # the descriptor that takes the forecast


def planned_by_child(argv: Sequence[str]) -> dict[str, Any]:
    """The forecast of the command line `argv` of `kdlab run`, in plain containers; it prints its lines.

    UserError for a command that is refused, or a forecast that failed, which has said why.
    """
    read, write = os.pipe()
    try:
        command = [sys.executable, "-m", "kdlab", "plan", *argv]
        process = subprocess.Popen(command, env={**os.environ, PIPE: str(write)}, pass_fds=[write])
    finally:
        os.close(write)
    with os.fdopen(read, encoding="utf-8") as pipe, process:
        found = pipe.read()
    if process.returncode:
        raise UserError("--plan: the forecast failed, as said above; without --plan the run starts at once")
    if not found:
        raise UserError("--plan: of a single run, and this is a suite, whose forecast stands above")
    return json.loads(found)


def hand_over(found: Forecast) -> None:
    """Give a forecast to the process that asked for it, if one did."""
    if (descriptor := os.environ.pop(PIPE, "")).isdigit():
        with os.fdopen(int(descriptor), "w", encoding="utf-8") as pipe:
            json.dump(found.as_json(), pipe)
