"""The jobs of sweep files, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from kdlab.sweeps import files


@cache
def all_grids() -> list[tuple[str, str, tuple[str, ...]]]:
    """Every grid of every sweep file at both scales: name of the file, scale, overrides."""
    return [
        (name, scale, tuple(grid))
        for name in files.names()
        for scale in files.SCALES
        for grid in files.grids(name, [f"scale={scale}"])
    ]


def choices(grid: Sequence[str]) -> dict[str, list[str]]:
    """Key by key, an override once for each value that it sweeps over, as in the command of one job."""
    return {o.key_or_group: _choices(o) for o in OverridesParser.create().parse_overrides(list(grid))}


def jobs(grid: Sequence[str]) -> list[list[str]]:
    """Every job of a grid, as its overrides."""
    found: list[list[str]] = [[]]
    for values in choices(grid).values():
        found = [[*job, value] for job in found for value in values]
    return found


def one_seed(grid: Sequence[str]) -> list[str]:
    """The grid with its first seed alone: jobs that differ in the seed are composed alike."""
    return [
        line for key, values in choices(grid).items() for line in (values[:1] if key == "seed" else [_of(grid, key)])
    ]


def _of(grid: Sequence[str], key: str) -> str:
    (line,) = [line for line in grid if OverridesParser.create().parse_overrides([line])[0].key_or_group == key]
    return line


def _choices(override: Override) -> list[str]:
    line = str(override.input_line)
    if not override.is_sweep_override():
        return [line]
    return [f"{line.partition('=')[0]}={value}" for value in override.sweep_string_iterator()]


def covering(grids: Sequence[Sequence[str]]) -> list[list[str]]:
    """One job of each grid that sets a key none before it has set: the last value of each key."""
    found, seen = [], set()
    for grid in sorted(grids, key=lambda grid: -len(choices(grid))):
        each = choices(grid)
        if not each.keys() <= seen:
            seen |= each.keys()
            found.append([values[-1] for values in each.values()])
    return found
