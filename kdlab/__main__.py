"""`kdlab COMMAND ...` (or `python -m kdlab COMMAND ...`): every command of the package under one name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from kdlab import __version__
from kdlab.errors import nearest, one_line

COMMANDS = {
    "run": "distil: compose a configuration from +exp=NAME and KEY=VALUE, check it, run it (or, with -m, a sweep)",
    "report": "write a page and a Markdown table of many runs: means, spreads, costs, tests, figures",
    "compare": "print finished runs by task, and test each group of seeds against a baseline",
    "analyse": "write one analysis of the papers as a CSV table and a figure",
    "evaluate": "score the student of a finished run again, or answer GLUE's test sets for a submission",
    "export": "write the student of a finished run as an ordinary transformers model folder",
    "artifacts": "list, verify or prune the artifact store",
    "faults": "inject every fault that kdlab promises to survive into tiny runs, and print the outcome",
    "dashboard": "write, and with an account send, the W&B workspace of a project",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: this process's) names first; returns its exit code, 2 for an unknown name.

    Only the module of that command is imported.
    """
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
    return importlib.import_module(f"kdlab.{name}").main(rest)


def usage() -> str:
    """The help text: a line per command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: kdlab COMMAND ...",
            "",
            *lines,
            "",
            "kdlab COMMAND --help explains one command; `python -m kdlab.COMMAND ...` is the same.",
            "kdlab --version prints the version. Every setting: kdlab run --explain KEY, or docs/configuration.md.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
