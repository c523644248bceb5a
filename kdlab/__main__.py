"""`kdlab COMMAND ...` (or `python -m kdlab COMMAND ...`): every command of the package under one name."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kdlab import __version__
from kdlab.errors import nearest, one_line

if TYPE_CHECKING:
    import argparse

# Each command: the function that runs it (MODULE:FUNCTION, imported when it is called), and its line in the help.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": (
        "kdlab.run:main",
        "distil: compose a configuration from +exp=NAME and KEY=VALUE, check it, run it (or, with -m, a sweep)",
    ),
    "plan": ("kdlab.run:plan", "forecast what a run or a sweep would cost: queries, FLOPs, time, memory, disk, price"),
    "report": (
        "kdlab.report:main",
        "write a page and a Markdown table of many runs: means, spreads, costs, tests, figures",
    ),
    "compare": ("kdlab.compare:main", "print finished runs by task, and test each group of seeds against a baseline"),
    "analyse": ("kdlab.analyse:main", "write one analysis of the papers as a CSV table and a figure"),
    "evaluate": (
        "kdlab.evaluate:main",
        "score the student of a finished run again, or answer GLUE's test sets for a submission",
    ),
    "export": ("kdlab.export:main", "write the student of a finished run as an ordinary transformers model folder"),
    "artifacts": ("kdlab.artifacts:main", "list, verify or prune the artifact store"),
    "faults": (
        "kdlab.faults:main",
        "inject every fault that kdlab promises to survive into tiny runs, and print the outcome",
    ),
    "dashboard": ("kdlab.dashboard:main", "write, and with an account send, the W&B workspace of a project"),
    "new": (
        "kdlab.templates.new:main",
        "write the code, YAML and test of a strategy, policy, term or adoption rule of your own to start from",
    ),
    "completion": (
        "kdlab.shell.completion:main",
        "print the script that completes commands, groups and keys in bash, zsh or fish",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: this process's) names first; returns its exit code, 2 for an unknown name.

    Only the module of that command is imported.
    """
    if "_ARGCOMPLETE" in os.environ:  # a shell asks how the line can go on
        complete()
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h"):
        print(usage())
        return 0
    if name == "--version":
        print(f"kdlab {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"kdlab: there is no command {one_line(name)}; {nearest(name, COMMANDS)}", file=sys.stderr)
        return 2
    return function_of(name)(rest)


def function_of(name: str) -> Callable[[Sequence[str]], int]:
    """Import the function of a command."""
    module, _, function = COMMANDS[name][0].partition(":")
    return getattr(importlib.import_module(module), function)


def complete() -> None:
    """Answer a shell that asks how a line can go on (`kdlab completion`), and exit."""
    from kdlab.shell import completion

    completion.answer({name: line for name, (_, line) in COMMANDS.items()}, parser_of)


def parser_of(name: str) -> argparse.ArgumentParser | None:
    """The parser of a command's arguments; None for one whose arguments are those of `run`."""
    module = importlib.import_module(COMMANDS[name][0].partition(":")[0])
    make = getattr(module, "parser", None) or getattr(module, "_parser", None)
    return make() if make else None


def usage() -> str:
    """The help text: a line per command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: kdlab COMMAND ...",
            "",
            *lines,
            "",
            "kdlab COMMAND --help explains one command; `python -m kdlab COMMAND ...` is the same.",
            "kdlab --version prints the version. Every setting: kdlab run --explain KEY, or docs/configuration.md.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
