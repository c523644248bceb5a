"""Compose the configurations of many jobs: jobs that differ only in plain values (a seed, a ratio) share a composition.

Hydra sets values after it has composed the groups, so a job can reuse the composition of another and set its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from kdlab.config.composition import CONF, compose_with_hydra
from kdlab.config.schema import Config, built, typed, vetted

_PARSER = OverridesParser.create()


class Composition:
    """A composed configuration, with Hydra's own part, that several jobs use in turn with their own values."""

    def __init__(self, overrides: Sequence[str]) -> None:
        self._whole = compose_with_hydra(overrides)
        self._plain: dict[str, Any] = {}
        self._typed = DictConfig({})

    def job(self, values: Sequence[Override], every: Sequence[Override], number: int) -> None:
        """Turn it into that of the job `number`: `every` are its overrides, `values` those that differ between the jobs.

        All jobs set the same keys. Raises OmegaConf's errors for unknown keys.
        """
        for one in values:
            OmegaConf.update(self._whole, str(one.key_or_group), one.value(), merge=True)
        hydra = self._whole.hydra
        style = hydra.job.config.override_dirname
        own = [one for one in every if not one.is_hydra_override()]
        with open_dict(hydra):
            hydra.job.num = number
            hydra.overrides.task = [str(one.input_line) for one in own]
            hydra.job.override_dirname = get_overrides_dirname(
                overrides=own, kv_sep=style.kv_sep, item_sep=style.item_sep, exclude_keys=style.exclude_keys
            )

    def place(self) -> tuple[str, str]:
        """The folder of the sweep, and that of the job relative to it."""
        HydraConfig.instance().cfg = self._whole  # pyright: ignore[reportAttributeAccessIssue]  # for ${hydra:...}
        try:
            return str(self._whole.hydra.sweep.dir), str(self._whole.hydra.sweep.subdir)
        finally:
            HydraConfig.instance().cfg = None

    def checked(self) -> tuple[Config, dict[str, Any]]:
        """The job's checked configuration, and the same resolved, in plain containers."""
        before, self._plain = self._plain, {}
        plain = vetted(OmegaConf.masked_copy(self._whole, [str(key) for key in self._whole if key != "hydra"]))
        changes = differences(before, plain) if before else None
        try:
            if changes is None:
                raise KeyError
            for key, value in changes:
                OmegaConf.update(self._typed, key, value)
        except (KeyError, OmegaConfBaseException):
            self._typed = typed(plain)
        self._plain = plain
        return built(self._typed), plain


class Compositions:
    """The compositions of a sweep; `folders` are those of --config-dir."""

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        groups = {
            one.name for folder in (*folders, CONF) if folder.is_dir() for one in folder.iterdir() if one.is_dir()
        }
        self._keys = {f.name for f in fields(Config) if not is_dataclass(f.default_factory)} - groups
        self._known: dict[tuple[Any, ...], Composition] = {}

    def of(self, lines: Sequence[str], hydras: Sequence[str], number: int) -> Composition:
        """The composition of a job's overrides and `hydras` of Hydra's own; its errors are those of `composition`."""
        every = _PARSER.parse_overrides(list(lines))
        values = [one for one in every if self._is_value(one) and not _touched(one, every)]
        rest = tuple(str(one.input_line) for one in every if one not in values)
        known = (rest, tuple(hydras), tuple(sorted(str(one.key_or_group) for one in values)))
        if known not in self._known:
            self._known[known] = Composition([*lines, *hydras])
        try:
            self._known[known].job(values, every, number)
        except OmegaConfBaseException:  # compose again for Hydra's error message
            self._known[known] = Composition([*lines, *hydras])
            self._known[known].job([], every, number)
        return self._known[known]

    def _is_value(self, one: Override) -> bool:
        """True if an override sets one plain value of an existing key."""
        key = str(one.key_or_group)
        adds = one.is_add() or one.is_force_add() or one.is_delete()
        if adds or one.package is not None or "/" in key or not ("." in key or key in self._keys):
            return False
        return not one.is_hydra_override() and (one.value() is None or isinstance(one.value(), str | int | float))


def _touched(one: Override, every: Sequence[Override]) -> bool:
    """True if another override sets the same key, a parent or a child of it: then their order matters."""
    mine = f"{one.key_or_group}."
    others = [f"{other.key_or_group}." for other in every if other is not one]
    return any(other.startswith(mine) or "." in other[:-1] and mine.startswith(other) for other in others)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any]] | None:
    """The dotted keys whose plain values differ, with the new values; None if more than plain values differ."""
    try:
        return list(_differences(old, new, ""))
    except ValueError:
        return None


def _differences(old: dict[str, Any], new: dict[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    if old.keys() != new.keys():
        raise ValueError
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old[key], dict):
            yield from _differences(old[key], value, f"{where}{key}.")
        elif type(value) is not type(old[key]) or value != old[key]:
            if isinstance(value, dict | list) or isinstance(old[key], dict | list) or not str(key).isidentifier():
                raise ValueError
            yield f"{where}{key}", value
