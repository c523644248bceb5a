"""Sweep files: the command of a whole experiment, `+sweep=NAME`, as a list of grids of ordinary overrides.

`conf/sweep/NAME.yaml` (or sweep/NAME.yaml in a folder of --config-dir):

    question: The question that the runs answer, in one sentence.
    source: The tables and figures of the paper that answer it.
    shared: [+exp=adads_finetune, "seed=1,2,3"]     # in every grid
    demo: [trainer.max_steps=200]                   # in every grid as well, at scale=demo (the default)
    paper: ["data.task=mnli,qqp"]                   # the same at scale=paper
    grids:
      - ["select=random,entropy", select.ratio=0.1]
      - {both: [select=all], paper: [trainer.max_epochs=3]}
      - {paper: [select=density]}                   # a grid of one scale alone

For one key the last of these counts: shared, scale, grid, grid's scale, the user's overrides. Where only some grids add a
group (`+augment=tinybert`), the user's overrides below its key (`data.augment.copies=4`) are for these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException

from kdlab.config import choices, spellings
from kdlab.config.composition import CONF
from kdlab.errors import UserError, nearest

SCALES = ("demo", "paper")
BOTH = "both"  # the part of a grid for both scales
LISTS = ("shared", *SCALES)
KEYS = ("question", "source", *LISTS, "grids")


@dataclass(frozen=True)
class SweepFile:
    """One sweep file, read and checked. `shared` and each of `grids` are overrides by part: `both`, `demo`, `paper`; a
    grid without `both` exists only at the scales that it names."""

    path: Path
    question: str
    source: str
    shared: dict[str, list[str]]
    grids: list[dict[str, list[str]]]

    def at(self, scale: str, own: Sequence[str] = ()) -> list[list[str]]:
        """The grids at `scale`, each a list of overrides; `own` come last and replace the file's of the same key.

        Grids that the user's overrides make equal are merged.
        """
        chosen = [grid for grid in self.grids if grid.keys() & {BOTH, scale}]
        shared = [*self.shared[BOTH], *self.shared[scale]]
        of_file = [[*shared, *grid.get(BOTH, []), *grid.get(scale, [])] for grid in chosen]
        some = frozenset().union(*(_added(grid) for grid in of_file)) - _added(own)
        grids: list[list[str]] = []
        for grid in of_file:
            lacks = tuple(f"{place}." for place in some - _added(grid))
            lines = _last([*grid, *(line for line in own if not (lacks and _key(line).startswith(lacks)))])
            if lines not in grids:
                grids.append(lines)
        return grids


def grids(name: str, overrides: Sequence[str], folders: Iterable[Path] = ()) -> list[list[str]]:
    """The grids of `+sweep=name`, each a list of Hydra overrides whose values may be lists to sweep over.

    `overrides` are the user's own; they win over the file's, and `scale=` among them picks the scale. `folders` are
    searched before the package's (`--config-dir`). UserError for an unknown name, and for a damaged or invalid file.
    """
    own = [line for line in overrides if _key(line) != "sweep"]
    scales = [line.partition("=")[2] for line in own if _key(line) == "scale"]
    scale = scales[-1] if scales else SCALES[0]
    if scale not in SCALES:
        raise UserError(f"scale={scale}: a sweep file is for one scale at a time; {nearest(scale, SCALES)}")
    return read(name, folders).at(scale, own)


def names(folders: Iterable[Path] = ()) -> list[str]:
    """The names of all sweep files, valid after `+sweep=`."""
    return sorted({file.stem for folder in _searched(folders) for file in folder.glob("*.yaml")})


def read(name: str, folders: Iterable[Path] = ()) -> SweepFile:
    """The sweep file of that name; UserError as in `grids`."""
    known = {file.stem: file for folder in reversed(_searched(folders)) for file in folder.glob("*.yaml")}
    if name not in known:
        raise UserError(f"+sweep={name}: there is no such sweep; {nearest(name, known)}")
    path = known[name]
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: keys and values were expected: {', '.join(KEYS)}")
    _only(path, content, KEYS)
    for key in ("question", "source"):
        if not isinstance(content.get(key), str):
            raise UserError(f"{path}: {key}: a line of text was expected")
    shared = {BOTH: [], "demo": [], "paper": []}
    shared |= _parts(path, "", {BOTH if key == "shared" else key: content[key] for key in LISTS if key in content})
    grid_list = content.get("grids", [[]])
    if not isinstance(grid_list, list) or not grid_list:
        raise UserError(f"{path}: grids: a list of grids was expected, each a list of KEY=VALUE")
    checked_grids = []
    for i, grid in enumerate(grid_list):
        parts = grid if isinstance(grid, dict) else {BOTH: grid}
        _only(path, parts, (BOTH, *SCALES), f"grids[{i}].")
        checked_grids.append(_parts(path, f"grids[{i}].", parts))
    for scale in SCALES:
        if not any(grid.keys() & {BOTH, scale} for grid in checked_grids):
            raise UserError(f"{path}: grids: none of them is there at scale={scale}")
    return SweepFile(path, content["question"], content["source"], shared, checked_grids)


def _searched(folders: Iterable[Path]) -> list[Path]:
    return [folder / "sweep" for folder in (*folders, CONF)]


def _only(path: Path, content: dict[Any, Any], known: Sequence[str], where: str = "") -> None:
    for key in content:
        if key not in known:
            raise UserError(f"{path}: unknown key {where}{key}: {nearest(str(key), known)}")


def _parts(path: Path, where: str, parts_of_file: dict[Any, Any]) -> dict[str, list[str]]:
    """The overrides of each part, checked one by one."""
    parts = {}
    for part, value in parts_of_file.items():
        lines = value or []
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise UserError(f"{path}: {where}{part}: a list of KEY=VALUE was expected")
        for line in lines:
            key = _checked(f"{path}: {where}{part}", line).key_or_group
            if key in ("scale", "sweep") or key.split(".")[0].split("/")[0] == "hydra":
                raise UserError(f"{path}: {where}{part}: {line}: a sweep file cannot set {key}; the command can")
        parts[part] = [choices.with_right_sign(line) for line in spellings.overrides(lines)]
    return parts


def _checked(where: str, line: str) -> Override:
    try:
        return _parsed(line)
    except OverrideParseException:
        raise UserError(f"{where}: {line!r} is not of the form KEY=VALUE") from None


@cache  # the same few lines come again with every grid and scale, and the parser takes a millisecond for each
def _parsed(line: str) -> Override:
    return OverridesParser.create().parse_overrides([line])[0]


def _key(line: str) -> str:
    """The key that an override sets, without + or ~, with its package if it names one."""
    override = _parsed(line)
    return override.key_or_group + (f"@{override.package}" if override.package else "")


def _added(lines: Sequence[str]) -> frozenset[str]:
    """The keys below which the groups stand that the lines add (`+augment=tinybert`: data.augment)."""
    found = set()
    for line in lines:
        group, _, name = line.removeprefix("+").partition("=")
        if line.startswith("+") and name in choices.groups().get(group, ()):
            found.add(choices.place_of(group, name))
    return frozenset(found - {""})


def _last(lines: Sequence[str]) -> list[str]:
    """The last line of each key."""
    keys = [_key(line) for line in lines]
    return [line for i, line in enumerate(lines) if keys[i] not in keys[i + 1 :]]
