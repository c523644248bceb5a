"""Printed commands as a user's shell reads them: pasted into bash, and into zsh where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess

from kdlab.__main__ import COMMANDS
from kdlab.config import quoting
from kdlab.config.composition import composition
from kdlab.config.schema import Config, checked

NAMES = "|".join(COMMANDS)
SHELLS = [shell for shell in ("bash", "zsh") if shutil.which(shell)]
# in the place of the program: its arguments, each ended by a NUL
_SHIM = """python() { printf '%s\\0' "$@"; }\nkdlab() { printf '%s\\0' kdlab "$@"; }\n"""


def pasted(line: str) -> list[str]:
    """The arguments that `python` gets from a command line, the same in every shell; fails where a shell refuses it.

    A command `kdlab NAME ...` stands as the one that it is, `-m kdlab.NAME ...`."""
    found = []
    for shell in SHELLS:
        done = subprocess.run([shell, "-c", _SHIM + line], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, (shell, line, done.stderr)
        found.append(done.stdout.split("\0")[:-1])
    assert all(arguments == found[0] for arguments in found)
    return ["-m", f"kdlab.{found[0][1]}", *found[0][2:]] if found[0][:1] == ["kdlab"] else found[0]


def commands_in(output: str) -> list[list[str]]:
    """The arguments of every command `python -m kdlab...`, or `kdlab NAME ...` at the start of a line, that an output
    prints, as a shell reads them."""
    return [pasted(line) for line in re.findall(rf"\bpython -m kdlab\S* .*|(?m:^\s*kdlab (?:{NAMES})\b.*)", output)]


def assert_printed(output: str, *modules: str) -> None:
    """Every command that an output prints is read by a shell, and composes where it starts runs; `modules`: those that
    must be among them, such as "kdlab.compare"."""
    found = [
        arguments for part in output.splitlines() for line in part.split("  and  ") for arguments in commands_in(line)
    ]
    for arguments in found:
        if arguments[:2] == ["-m", "kdlab.run"] and not any(one.startswith("-") for one in arguments[2:]):
            config_of(arguments)
    assert set(modules) <= {arguments[1] for arguments in found}, output


def config_of(arguments: list[str]) -> Config:
    """The checked configuration of the arguments of a command `python -m kdlab.run ...`."""
    assert arguments[:2] == ["-m", "kdlab.run"]
    return checked(composition([quoting.literal(one) for one in arguments[2:]])[0])
