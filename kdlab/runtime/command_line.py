"""Parse the arguments of a command; a mistake in them is one line with the nearest flag, and exit code 2."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from kdlab.errors import one_line


class CommandLine(argparse.ArgumentParser):
    """An ArgumentParser that prints no usage for a mistake, and knows no flag by the beginning of its name."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[Any, list[str]]:
        """Parse `args`; nothing is left over: an argument that the command does not know ends the process."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            wrong = next((one for one in rest if one.startswith("-")), "")
            self.error(
                unknown_flag(wrong, self._option_string_actions) if wrong else f"{rest[0]}: one argument too many"
            )
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Print `message` and where the flags are explained, in one line; end the process with exit code 2."""
        self.exit(2, f"kdlab: {one_line(message)}; {self.prog} --help lists the arguments\n")


def unknown_flag(flag: str, known: Iterable[str]) -> str:
    """A clause for a flag that a command lacks, with the nearest of its `known` long ones, or all of them."""
    name = flag.partition("=")[0]
    words = sorted(one[2:] for one in known if one.startswith("--"))
    close = difflib.get_close_matches(name.lstrip("-"), words, n=1, cutoff=0.5)  # the dashes are alike in all
    meant = f"did you mean --{close[0]}?" if close else f"known: {', '.join(f'--{word}' for word in words)}"
    return f"{name}: there is no such flag; {meant}"
