"""The choices of each group: the files of conf/, what each says and sets, and the defaults that they make.

The few features of Hydra that conf/ uses are read here without Hydra, so that `--explain` answers at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

import kdlab
from kdlab.config import quoting, spellings

_ROOT = Path(kdlab.__file__).resolve().parent
# In a wheel conf/ lies inside the package; in a checkout beside it.
CONF = _ROOT / "conf" if (_ROOT / "conf").is_dir() else _ROOT.parent / "conf"
SCALES = ("demo", "own", "paper")
_GROUP_CHOICE = re.compile(r"\+?(\w+)(=.*)", re.DOTALL)
FINETUNING = "adads_finetune"  # the experiment whose groups are the defaults of fine-tuning
_PACKAGE, _COMMAND = "# @package ", "# python -m "


@cache
def groups() -> dict[str, list[str]]:
    """The choices of every group by its name as typed (`select`, `hydra/launcher`), sorted."""
    folders = sorted({file.parent for file in CONF.rglob("*.yaml")} - {CONF, CONF / "base"})
    return {
        folder.relative_to(CONF).as_posix(): sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders
    }


def summary(group: str, name: str) -> str:
    """Description of a choice in one line: the question of a sweep file, else the file's first comment; "" without one."""
    if group == "sweep":
        return str(content_of(group, name)["question"])
    comments = [line for line in _text(group, name).splitlines() if line.startswith("# ")]
    return next((line[2:].removesuffix(".") for line in comments if not line.startswith((_PACKAGE, _COMMAND))), "")


@cache
def defaults(scale: str, stage: str = "pretrain") -> dict[str, Any]:
    """The configuration without any override but `scale=`, resolved, in plain containers; unset values are "???".

    Of `stage` finetune: that of `FINETUNING` with `select=all`.
    """
    whole = OmegaConf.create({})
    own = content_of("", "run")
    chosen: dict[str, str] = _finetuning() if stage == "finetune" else {}
    for entry in own["defaults"]:
        if entry == "_self_":
            body = {key: value for key, value in own.items() if key not in ("defaults", "hydra")}
            whole = OmegaConf.merge(whole, body)
        elif not next(iter(entry)).startswith("override "):
            ((group, name),) = entry.items()
            name = scale if group == "scale" else str(chosen.get(group, name)).replace("${scale}", scale)
            content = OmegaConf.to_container(composed(group, name))
            whole = OmegaConf.merge(whole, _packaged(group, name, content))
    plain = OmegaConf.to_container(whole, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _finetuning() -> dict[str, str]:
    """The choices of `FINETUNING` by group, without its selection."""
    entries = [next(iter(entry.items())) for entry in content_of("exp", FINETUNING)["defaults"]]
    return {key.removeprefix("override /"): name for key, name in entries if key != "override /select"}


def default_choice(group: str, scale: str) -> str | None:
    """The choice of `group` that the configuration has by default; None for a group that it leaves out."""
    for entry in content_of("", "run")["defaults"]:
        if isinstance(entry, dict) and group in entry:
            return scale if group == "scale" else entry[group].replace("${scale}", scale)
    return None


def with_right_sign(override: str) -> str:
    """`override` with + where it chooses from a group that has no choice by default (`exp=dekd` -> `+exp=dekd`), and
    without where the group has one (`+select=random` -> `select=random`); any other as it is."""
    match = _GROUP_CHOICE.fullmatch(override)
    if match is None or match[1] not in groups():
        return override
    return f"{'+' if default_choice(match[1], SCALES[0]) is None else ''}{match[1]}{match[2]}"


@cache
def composed(group: str, name: str) -> DictConfig:
    """A choice merged with the choices in its own defaults list."""
    own = dict(content_of(group, name))
    whole = OmegaConf.create({})
    entries = own.pop("defaults", [])
    for entry in entries if "_self_" in entries else [*entries, "_self_"]:
        if entry == "_self_":
            whole = OmegaConf.merge(whole, own)
        elif isinstance(entry, str):
            where, _, base = entry.removesuffix("@_here_").lstrip("/").rpartition("/")
            whole = OmegaConf.merge(whole, composed(where or group, base))
    assert isinstance(whole, DictConfig)
    return whole


@cache
def settings() -> dict[str, dict[str, Any]]:
    """Every dotted key that a choice sets, itself or by a file of conf/base, with the values by "group=choice"."""
    found: dict[str, dict[str, Any]] = {}
    for group, names in groups().items():
        for name in names if not group.startswith(("hydra", "sweep")) else ():
            for key, value in _flat(_packaged(group, name, _with_bases(group, name)), ""):
                if value != "???":
                    found.setdefault(key, {})[f"{group}={name}"] = value
    return found


def _with_bases(group: str, name: str) -> dict[str, Any]:
    """A choice's own content over that of the files of conf/base that it begins with."""
    own = content_of(group, name)
    entries = [entry for entry in own.get("defaults", ()) if str(entry).startswith("/base/")]
    bases = [OmegaConf.to_container(composed("base", entry.removesuffix("@_here_")[6:])) for entry in entries]
    found: dict[str, Any] = {}
    for content in (*bases, own):
        assert isinstance(content, dict)
        found |= {str(key): value for key, value in content.items() if key != "defaults"}
    return found


def _packaged(group: str, name: str, content: Any) -> dict[str, Any]:
    """A choice's content at its place in the whole configuration."""
    for part in reversed(place_of(group, name).split(".")) if place_of(group, name) else ():
        content = {part: content}
    return content


def place_of(group: str, name: str) -> str:
    """The key below which a choice's content stands: its group's, or that of its `# @package` line; "" for the top."""
    first = _text(group, name).splitlines()[0]
    package = first.removeprefix(_PACKAGE).strip() if first.startswith(_PACKAGE) else group
    return "" if package == "_global_" else package


def _flat(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The dotted keys of nested mappings with their values; a mapping that names code is a value as well."""
    for key, value in node.items():
        path = f"{where}{key}"
        if not isinstance(value, dict) or not value or "_target_" in value:
            yield path, value
        if isinstance(value, dict):
            yield from _flat(value, f"{path}.")


@cache
def content_of(group: str, name: str) -> dict[str, Any]:
    """The content of a choice's own file; that of conf/run.yaml is content_of("", "run")."""
    found = yaml.load(_text(group, name), getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    assert isinstance(found, dict)
    return found


@cache
def _text(group: str, name: str) -> str:
    return Path(CONF, group, f"{name}.yaml").read_text(encoding="utf-8")


def spelled(argument: str) -> str:
    """An override in the spelling of today, with the sign of its group, and quoted where Hydra would refuse its value."""
    return quoting.literal(with_right_sign(spellings.overrides([argument])[0]))
