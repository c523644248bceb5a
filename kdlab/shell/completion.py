"""Completion in the shell: commands and their options; of `kdlab run` experiments, groups, keys and their usual values.

argcomplete speaks with the shell. What can follow is read from conf/ and the dataclasses, without Hydra and torch, since a
shell asks at each press of the TAB key. (Hydra's own completion composes the whole configuration, which takes seconds, and
knows no commands.)
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kdlab.config import choices, explain, spellings
from kdlab.config.documentation import NAME, Key, keys
from kdlab.runtime.command_line import CommandLine

_PARTS = re.compile(r"(\+\+|\+|~)?([^=]*)(=?)(.*)", re.DOTALL)
FILES = ("path", "artifacts", "dir", "like", "table", "model")  # last parts of keys whose value is a file or folder

SHELLS = ("bash", "zsh", "fish")
USAGE = """\
Put the script where your shell reads it:
  bash  kdlab completion bash > ~/.local/share/bash-completion/completions/kdlab
  zsh   kdlab completion zsh > "${fpath[1]}/_kdlab"
  fish  kdlab completion fish > ~/.config/fish/completions/kdlab.fish
or, for this shell alone:  eval "$(kdlab completion bash)"  (fish: kdlab completion fish | source)"""


# ---- the command, and answers to the shell


def main(argv: Sequence[str] | None = None) -> int:
    """Print the completion script of a shell; returns the exit code."""
    chosen = parser().parse_args(argv)
    from argcomplete.shell_integration import shellcode

    shell = "bash" if chosen.shell == "zsh" else chosen.shell  # argcomplete has one script for both
    print(shellcode(["kdlab"], shell=shell))
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of `kdlab completion`."""
    found = CommandLine(
        prog="kdlab completion",
        description="Print the script that completes commands, groups and keys.",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("shell", choices=SHELLS)
    return found


def answer(commands: Mapping[str, str], parser_of: Callable[[str], argparse.ArgumentParser | None]) -> None:
    """Tell the shell how its line, in the variables of argcomplete, can go on, and exit.

    `commands`: the description of each; `parser_of` makes the parser of one (None: it takes the arguments of `run`).
    """

    import argcomplete

    whole = argparse.ArgumentParser(prog="kdlab")
    whole.add_argument("--version", action="store_true", help="print the version")
    subparsers = whole.add_subparsers()
    typed = typed_command(os.environ.get("COMP_LINE", ""), int(os.environ.get("COMP_POINT", "0")))
    for name, line in commands.items():
        own = [(parser_of(name) or run_parser())] if name == typed else []
        subparsers.add_parser(name, help=line, parents=own, add_help=False)
    argcomplete.autocomplete(whole, always_complete_options=False)


def typed_command(line: str, point: int) -> str | None:
    """The command of a line whose first words are complete; None while it is being typed."""
    try:
        words = shlex.split(line[:point])
    except ValueError:  # an open quotation mark
        words = line[:point].split()
    return words[1] if len(words) > 2 or (len(words) == 2 and line[:point].endswith(" ")) else None


def run_parser() -> argparse.ArgumentParser:
    """The arguments of `kdlab run`, for completion alone: Hydra reads them."""
    found = argparse.ArgumentParser(prog="kdlab run")
    overrides = found.add_argument("overrides", nargs="*")
    overrides.completer = lambda prefix, **_: candidates(prefix)  # pyright: ignore[reportAttributeAccessIssue]
    explained = found.add_argument("--explain", nargs="*", help="explain keys or groups")
    explained.completer = lambda prefix, **_: names(prefix)  # pyright: ignore[reportAttributeAccessIssue]
    found.add_argument("-m", "--multirun", action="store_true", help="a sweep over all combinations of values")
    found.add_argument("-n", "--dry-run", action="store_true", help="check the command, and write nothing")
    found.add_argument("--plan", action="store_true", help="forecast the cost first, and print it beside the real one")
    found.add_argument(
        "--prepare", action="store_true", help="make teachers and all else that is needed first, and stop"
    )
    found.add_argument("--repeat", metavar="RUN", help="repeat a finished run and compare the bits")
    found.add_argument("--config-dir", metavar="FOLDER", help="search your own exp/, select/, ... files there")
    found.add_argument("--cfg", choices=("job", "hydra", "all"), help="print the configuration")
    return found


# ---- what can follow


def candidates(word: str) -> dict[str, str]:
    """The completions of an argument `GROUP=CHOICE` or `KEY=VALUE` of which `word` has been typed, with a description each.

    Keys are completed part by part (`trainer.`, then `trainer.max_steps=`); of several values (a sweep) the last one.
    """
    sign, name, equals, value = _PARTS.fullmatch(word).groups()  # pyright: ignore[reportOptionalMemberAccess]
    if not equals:
        return _names(sign or "", name)
    earlier, comma, last = value.rpartition(",")
    head = f"{sign or ''}{name}={earlier}{comma}"
    return {head + one: line for one, line in _values(spellings.key(name), last).items() if one.startswith(last)}


def names(word: str) -> dict[str, str]:
    """The completions of a key or group after `--explain`, with a description each."""
    lines = {**{group: _of_group(group) for group in choices.groups()}, **{k: _line(k) for k in _dotted()}}
    return {name: line for name, line in lines.items() if name.startswith(word)}


def _names(sign: str, typed: str) -> dict[str, str]:
    """Groups and keys that begin with `typed`, behind `sign`, keys up to their next dot."""
    found = {}
    for group in choices.groups() if sign != "++" else ():
        with_sign = choices.with_right_sign(f"{group}=")
        if group.startswith(typed) and (not sign or not with_sign.startswith("+") or sign == "+"):
            found[f"{sign}{group}=" if sign or typed else with_sign] = _of_group(group)
    while True:
        below = [key for key in _dotted() if key.startswith(typed)]
        parts = dict.fromkeys(typed + key[len(typed) :].partition(".")[0] + _dot(key[len(typed) :]) for key in below)
        deeper = [part for part in parts if part.endswith(".")]
        if len(parts) > 1 or len(deeper) != 1 or (not typed and found):
            break
        typed = deeper[0]  # a part alone: what is below it is more help than its dot
    for part in parts:
        found[f"{sign}{part}" if part.endswith(".") else f"{sign}{part}="] = _line(part.rstrip("."))
    return found


def _dot(rest: str) -> str:
    return "." if "." in rest else ""


@cache
def _dotted() -> list[str]:
    """All dotted keys that take a value: those of the dataclasses, and arguments of code that choices set."""
    plain = [key.name for key in keys().values() if key.group is None and NAME not in key.name.split(".")]
    return list(dict.fromkeys([*plain, *(key for key in choices.settings() if explain.find(key)), "hydra.run.dir"]))


def _values(name: str, typed: str) -> dict[str, str]:
    """The values that the key or group `name` may be given, or usually has."""
    if name in choices.groups():
        return {choice: choices.summary(name, choice) for choice in choices.groups()[name]}
    if name.rpartition(".")[2] in FILES:
        return _files(typed)
    key, found = explain.find(name), {}
    if key is not None and not key.is_open:
        found = _of_type(key)
    for choice, value in choices.settings().get(name, {}).items():
        if not isinstance(value, (dict, list)) and "${" not in str(value):
            found.setdefault(explain.value_words(value), choice)
    return found


def _of_type(key: Key) -> dict[str, str]:
    words = re.split(r",? or ", key.type)
    found: dict[str, Any] = {"true": "", "false": ""} if "bool" in words else {}
    found |= {word: "" for word in words if word in ("auto", "all", "batch", "null")}
    if not isinstance(key.default, (dict, list)) and key.default is not None:
        found[explain.value_words(key.default)] = "the default"
    return found


def _files(typed: str) -> dict[str, str]:
    """Files and folders that begin with the path `typed`; folders end with a slash."""
    folder, begun = os.path.split(typed)
    place = Path(folder).expanduser()
    if not place.is_dir():
        return {}
    entries = [entry for entry in sorted(place.iterdir()) if entry.name.startswith(begun)]
    return {
        os.path.join(folder, entry.name) + "/" * entry.is_dir(): ""
        for entry in entries
        if begun or not entry.name.startswith(".")
    }


def _of_group(group: str) -> str:
    """The description of a group."""
    return _line(group) or {"exp": "an experiment of a paper", "sweep": "a question of a paper as a sweep"}.get(
        group, ""
    )


@cache
def _line(name: str) -> str:
    key = keys().get(name) or explain.find(name)
    return key.line if key is not None and key.name == name else ""
