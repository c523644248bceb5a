"""Hydra's composition of a configuration from command-line overrides, and its errors as one line."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from kdlab.config import quoting, short_names, spellings, targets
from kdlab.config.choices import CONF
from kdlab.config.field_types import single_values
from kdlab.config.schema import Config, first_line, keys_below
from kdlab.errors import UserError, nearest


def _by_task(task: str | None, otherwise: Any, tasks: DictConfig) -> Any:
    """`${by_task:${data.task},OTHERWISE,{TASK:VALUE,...}}` in a YAML file: a value that depends on the official task."""
    return tasks.get(task, otherwise) if task else otherwise


def _only_for(name: str, given: str | None, value: Any) -> Any:
    """`${only_for:NAME,${teachers.name},VALUE}` in a YAML file: what belongs to one model, as its revision; None for others."""
    return value if given == name else None


def _own_rows(path: str | None, task: str | None, suite: Any, own: Any, otherwise: Any) -> Any:
    """`${own_rows:${data.path},${data.task},${suite},VALUE,OTHERWISE}`: a value for rows of the user's own, of no official
    task."""
    return own if path is not None and task is None and suite is None else otherwise


def _start_of(layers: Any, path: str | None, hidden: int | None, split: int | None, knowledge: str) -> str:
    """`${start_of:LAYERS,PATH,HIDDEN,SPLIT,KNOWLEDGE}`: teacher for a student that has some of its teacher's layers.

    Such a student scores higher (experiments/choosing_pays). One of another model or width cannot, nor one of specialists; one
    without a teacher, or of all its layers, shall not.
    """
    other = path is not None or hidden is not None or layers == "all" or split is not None
    return "backbone" if other or knowledge == "labels" else "teacher"


OmegaConf.register_new_resolver("start_of", _start_of, replace=True)
OmegaConf.register_new_resolver("by_task", _by_task, replace=True)
OmegaConf.register_new_resolver("only_for", _only_for, replace=True)
OmegaConf.register_new_resolver("own_rows", _own_rows, replace=True)


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's source of files, which reads a file once in a process, and again when it has changed."""

    def load_config(self, config_path: str) -> ConfigResult:
        """The content of a file, with its header; Hydra's and YAML's errors for one that cannot be read, UserError for one that is
        not UTF-8."""
        file = os.path.realpath(os.path.join(self.path, self._normalize_file_name(config_path)))
        try:
            state = os.stat(file)
        except OSError:
            return super().load_config(config_path)  # says what is wrong
        key = (file, state.st_mtime_ns, state.st_size)
        if key not in _CONTENTS:
            try:
                found = super().load_config(config_path)
            except UnicodeDecodeError as error:
                raise UserError(f"{file} is not UTF-8 text: {first_line(error)}; save it as UTF-8") from error
            _CONTENTS[key] = OmegaConf.to_container(found.config), dict(found.header)
        content, header = _CONTENTS[key]
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", OmegaConf.create(content), dict(header))


_CONTENTS: dict[tuple[str, int, int], tuple[Any, dict[str, str | None]]] = {}  # by file, time of its change, and size


def composition(overrides: Sequence[str], hydra_keys: Sequence[str] = ("run.dir",)) -> tuple[DictConfig, Any]:
    """Compose the configuration of `overrides`; return it, and the values of `hydra_keys` below `hydra` (resolved)."""
    return split_hydra(compose_with_hydra(overrides), hydra_keys)


def compose_with_hydra(overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration of `overrides`, the key `hydra` included; targets under old names get their present ones.

    UserError for names that do not exist, and for code in Hydra's part that is not allowed; Hydra's and OmegaConf's own
    errors go through (`error_line` makes one line of them).
    """
    GlobalHydra.instance().clear()
    remove_stored_schemas()
    SourcesRegistry.instance().types["file"] = FileConfigSource
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            whole = compose("run", overrides=list(overrides), return_hydra_config=True)
        except ValueError as error:
            raise UserError(_wrong_choice(overrides) or first_line(error)) from error
        except RecursionError as error:
            raise UserError("a configuration file is nested too deeply") from error
        except ConfigCompositionException as error:
            if twice := _given_twice(overrides):
                raise UserError(twice) from error
            raise
    plain = OmegaConf.to_container(whole, resolve=False)
    for key, target in targets.moved_in(plain):
        OmegaConf.update(whole, key, target)
    for key, value in single_values(plain, Config) if isinstance(plain, dict) else ():
        OmegaConf.update(whole, key, value)
    targets.check_hydra(OmegaConf.to_container(whole.hydra, resolve=False))
    return whole


def split_hydra(whole: DictConfig, hydra_keys: Sequence[str]) -> tuple[DictConfig, Any]:
    """Split the result of `compose_with_hydra`: the configuration without `hydra`, and the values of `hydra_keys`."""
    HydraConfig.instance().set_config(whole)  # for ${hydra:...}
    try:
        plain = OmegaConf.to_container(whole, resolve=False)
        assert isinstance(plain, dict)
        hydra = OmegaConf.create({key: plain[key] for key in ("hydra", "name") if key in plain})
        values = OmegaConf.create()
        for key in hydra_keys:
            value = OmegaConf.select(hydra, f"hydra.{key}")
            OmegaConf.update(
                values, key, OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            )
    finally:
        HydraConfig.instance().cfg = None  # Lightning would start other ranks Hydra's way
    own = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
    return own, values


def _wrong_choice(overrides: Sequence[str]) -> str:
    """Message for the first override that gives a group something other than the name of a choice; "" without one."""
    for override in overrides:
        try:
            one = OverridesParser.create().parse_override(override)
        except ValueError as error:  # digits beyond Python's limit
            return f"{override[:80]}: {first_line(error)}"
        group, value = CONF / one.key_or_group, one.value()
        if group.is_dir() and "=" in (one.input_line or "") and not isinstance(value, str | list | dict):
            choices = sorted(file.stem for file in group.glob("*.yaml"))
            return f"{one.input_line}: {one.key_or_group} takes the name of a choice; {nearest(str(value), choices)}"
    return ""


def _given_twice(overrides: Sequence[str]) -> str:
    """Message for the first group whose choice is added twice; "" without one."""
    chosen: dict[str, str] = {}
    for override in overrides:
        group, equals, _ = override.partition("=")
        if not equals or not group.startswith("+") or not (CONF / group[1:]).is_dir():
            continue
        if group in chosen:
            return f"{chosen[group]} and {override}: {group[1:]} takes one choice; leave one of them out"
        chosen[group] = override
    return ""


def remove_stored_schemas() -> None:
    """Remove the schemas of Hydra's plugins for launchers and sweepers that share a name with one of kdlab's.

    Hydra would check kdlab's files against them.
    """
    Plugins.instance()  # loads the plugins
    stored = ConfigStore.instance().repo["hydra"]
    for group in ("launcher", "sweeper"):
        for file in (CONF / "hydra" / group).glob("*.yaml"):
            stored[group].pop(file.name, None)


def to_plain(composed: DictConfig) -> dict[str, Any]:
    """Convert a configuration to dicts and lists, interpolations resolved."""
    resolved = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def error_line(error: Exception) -> str:
    """One line for a UserError or an error of Hydra, OmegaConf or YAML, with the nearest valid names."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, YAMLError):
        return f"a configuration file is not valid YAML: {' '.join(str(error).split())}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        options = [option for option in error.options or [] if option]
        return f"{group}={name}: there is no such choice; {nearest(name, options)}"
    if isinstance(error, OverrideParseException):
        why = quoting.advice(error.override or "") or f"not of the form KEY=VALUE ({first_line(error)})"
        return f"{error.override}: {why}"
    if ambiguous := re.match(r"Ambiguous value for argument '(.*)'", str(error)):
        several = "several values start a sweep (-m)"
        return f"{ambiguous[1]}: {'; '.join(filter(None, [several, quoting.advice(ambiguous[1])]))}"
    text = f"{error}\n{error.__cause__ or ''}"
    found = re.search(r"Could not override '([^']+)'", text) or re.search(
        r"Could not append to config.*?'([^']+)'", text
    )
    key = re.search(r"full_key: (\S+)", text)
    name = (key or found)[1] if key or found else ""  # pyright: ignore[reportOptionalSubscript]
    if name and any(sign in text for sign in ("not in", "No match in the defaults list", "Could not override")):
        if spellings.key(name) != name:
            return f"unknown key {name}: it is {spellings.key(name)} now; rename it where a file has it"
        if name in (known := _known_keys()):
            return f"unknown key {name}: the default choices have it, those given do not; leave it out"
        return f"unknown key {name}: {short_names.meant(name, known)}"
    return first_line(error)


def _known_keys() -> list[str]:
    """All dotted keys of the default configuration, and all groups."""

    def below(node: Any, prefix: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        return [name for key, value in node.items() for name in (prefix + str(key), *below(value, f"{prefix}{key}."))]

    try:
        composed, _ = composition([])
    except (HydraException, OmegaConfBaseException):
        return list(Config.__dataclass_fields__)
    keys = [*below(OmegaConf.to_container(composed), ""), *keys_below(Config, ""), "exp", "hydra.run.dir"]
    return list(dict.fromkeys(keys))
