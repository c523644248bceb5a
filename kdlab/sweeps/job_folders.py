"""The folder of a sweep and of each of its jobs, those of an older kdlab included.

An older kdlab hashed selection, ratio and seed where all jobs shared them, named jobs `seed=1,select=random` without what they
shared, and put a sweep of one job into the sweep's folder itself. What lies there is found, resumed and skipped there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from kdlab.config import spellings
from kdlab.sweeps.job_names import plain_name


@dataclass(frozen=True)
class SweepHome:
    """The folder of a sweep. `seed`: of a folder that an older kdlab made for one seed, which no name in it has."""

    folder: Path
    digest: str
    seed: str | None = None

    @property
    def is_run(self) -> bool:
        """True if it is the folder of a run: an older kdlab put a sweep of one job there."""
        return (self.folder / "config.yaml").is_file()

    def former_names(self, hydras: str, apart: Sequence[Override], resolved: dict[str, Any]) -> Iterator[str]:
        """The names that an older kdlab gave to a job here: by its overrides, in today's and in former spellings."""
        if self.seed not in (None, str(resolved["seed"])):
            return
        lines = [str(one.input_line) for one in apart if self.seed is None or one.key_or_group != "seed"]
        yield ",".join(sorted(lines)) or "plain"
        yield ",".join(sorted(map(spellings.former_override, lines))) or "plain"
        if self.seed is None and hydras:
            yield hydras


@dataclass(frozen=True)
class SweepHomes:
    """The folders that a sweep may have below one parent: `new` by today's hash, `former` by those of an older kdlab."""

    new: SweepHome
    former: tuple[SweepHome, ...] = ()

    @property
    def own(self) -> SweepHome:
        """The folder of jobs that are new: a former one where a sweep was begun in it, so that all lie together."""
        begun = [home for home in self.former if home.folder.is_dir() and not home.is_run]
        return self.new if self.new.folder.is_dir() or not begun else begun[0]

    def place(self, hydras: str, apart: Sequence[Override], resolved: dict[str, Any], several: bool) -> Path:
        """The folder of a job. `hydras`: its name by Hydra; `apart`: its overrides that others do not share."""
        every = (self.new, *self.former)
        if not several:
            for home in every:
                if home.is_run and home.seed is None:
                    return home.folder
        for home in every:
            for name in home.former_names(hydras, apart, resolved):
                if ".." not in Path(name).parts and (home.folder / name.lstrip("/")).is_dir():
                    return home.folder / name
        return self.own.folder / plain_name(resolved, apart)
