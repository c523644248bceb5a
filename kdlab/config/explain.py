"""`kdlab run --explain KEY`: what a key or a group of the configuration means, its defaults and its choices.

Reads the dataclasses and conf/ alone: no torch, no composition by Hydra. Only an argument of code imports that code.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdlab import ranges
from kdlab.config import choices, spellings
from kdlab.config.argument_lines import line_of
from kdlab.config.choices import SCALES
from kdlab.config.documentation import NAME, Key, keys
from kdlab.errors import UserError, nearest

if TYPE_CHECKING:
    from kdlab.config.arguments import Argument

WIDTH = 118
USAGE = """\
usage: python -m kdlab.run +exp=NAME [GROUP=CHOICE ...] [KEY=VALUE ...]

Examples
    # a student learns a task on 10 % of the rows; teacher and data come with packages, nothing is downloaded
    python -m kdlab.run +exp=adads_finetune
    # your own rows (train.csv, dev.csv), and a teacher of the Hub or a folder
    python -m kdlab.run +exp=adads_finetune scale=own data.path=FOLDER teachers.name=NAME
    # a sweep: every combination, a run each
    python -m kdlab.run -m +exp=adads_finetune select=random,adads seed=1,2,3

Experiments"""


def main(names: Sequence[str]) -> int:
    """Print an explanation of each of `names`, or a list of all groups without one; UserError for an unknown name."""
    texts = [explanation(name) for name in names] if names else [_overview()]
    print("\n\n".join(texts))
    return 0


def usage() -> str:
    """The help of `kdlab run` without arguments: the form of a command, the experiments, and where to read more."""
    experiments = [(f"+exp={name}", choices.summary("exp", name)) for name in choices.groups()["exp"]]
    more = [
        ("python -m kdlab.run --help", "all groups with their choices, and the keys that are often set"),
        ("python -m kdlab.run --explain KEY", "a key or group: its meaning, its default, its choices"),
        ("kdlab --help", "the other commands: report, compare, evaluate, export, ..."),
    ]
    return "\n".join([USAGE, *_table(experiments), "", "More", *_table(more)])


def help_text() -> str:
    """The help of `kdlab run --help`, from the template that conf/run.yaml has for Hydra's."""
    help_of = choices.content_of("", "run")["hydra"]["help"]
    listed = "".join(f"{group}: {', '.join(names)}\n" for group, names in choices.groups().items() if "/" not in group)
    return help_of["template"].replace("${hydra.help.header}", help_of["header"]).replace("$APP_CONFIG_GROUPS", listed)


def explanation(name: str) -> str:
    """Explain a dotted key or a group in several lines; UserError with the nearest names for an unknown one."""
    name = spellings.key(name.lstrip("+~").partition("=")[0])
    if name in choices.groups():
        return "\n".join(_group(name))
    key = find(name)
    if key is None:
        known = {*keys(), *choices.groups(), *choices.settings()}
        near = nearest(name, known)
        hint = near if near.startswith("did you mean") else "--explain without a name lists the groups"
        raise UserError(f"--explain {name}: no such key or group; {hint}")
    return "\n".join(_key(name, key))


def find(name: str) -> Key | None:
    """The documented key that `name` is, or whose code takes the argument `name`; None for an unknown name.

    A key that the user names matches NAME. An argument is known if a choice sets it, or names code that takes it.
    """
    for key in keys().values():
        if re.fullmatch(re.escape(key.name).replace(NAME, r"[\w-]+"), name):
            return key
    if name not in choices.settings() and not _arguments(name):
        return None
    open_keys = [key for key in keys().values() if key.is_open]
    above = [key for key in open_keys if re.match(re.escape(key.name).replace(NAME, r"[\w-]+") + r"\.", name)]
    return max(above, key=lambda key: len(key.name), default=None)


def value_words(value: Any, longest: int = 60) -> str:
    """A value as one would type it; code by its name, a mapping by its keys; cut to `longest` characters."""
    if isinstance(value, dict) and "_target_" in value:
        arguments = [f"{k}={value_words(v)}" for k, v in value.items() if not k.startswith("_")]
        words = f"{value['_target_'].rpartition('.')[2]}({', '.join(arguments)})"
    elif isinstance(value, dict):
        words = "{" + ", ".join(value) + "}"
    elif isinstance(value, list):
        words = "[" + ",".join(map(value_words, value)) + "]"
    elif value is None or isinstance(value, bool):
        words = {None: "null", True: "true", False: "false"}[value]
    else:
        words = f"{value:g}" if isinstance(value, float) else str(value)
    return words if len(words) <= longest else f"{words[: longest - 3]}..."


def default_words(key: Key, name: str | None = None, stage: str = "pretrain") -> dict[str, str]:
    """The default of a key at each scale, in words; "-" where its group is null, "required" where a user must set it.

    `name` is the key as the user wrote it, where that is longer or has a name in place of NAME.
    """
    return {scale: _default(key, name or key.name, scale, stage) for scale in SCALES}


def _default(key: Key, name: str, scale: str, stage: str) -> str:
    node: Any = choices.defaults(scale, stage)
    *groups, last = name.split(".")
    for depth, part in enumerate(groups, 1):
        group = keys().get(".".join(groups[:depth]))
        node = node.get(part, group.default if group else {}) if isinstance(node, dict) else None
    if node is None:
        return "-"
    if not isinstance(node, dict) or last not in node:
        return value_words(key.default) if name.count(".") == key.name.count(".") else "-"
    return "required" if node[last] == "???" else value_words(node[last], 40)


def _key(name: str, key: Key) -> list[str]:
    exact = re.fullmatch(re.escape(key.name).replace(NAME, r"[\w-]+"), name)
    lines = [
        f"{name}: {key.type}" if exact else f"{name}: an argument of the code that {key.name} names",
        *_wrapped(key.line),
    ]
    defaults, tasks = default_words(key, name), default_words(key, name, "finetune")
    lines.append(f"  default: {_by_scale(defaults)}")
    if tasks != defaults:
        lines.append(f"  default on tasks (fine-tuning): {_by_scale(tasks)}")
    for target, argument in {} if exact else _arguments(name).items():
        default = "required" if argument.default is inspect.Parameter.empty else value_words(argument.default)
        lines += _wrapped(
            f"{target}: {ranges.words(argument.hint)}; default {default}. {line_of(target, argument.name)}"
        )
    if set_by := choices.settings().get(name):
        lines += _wrapped(f"set by: {_set_by(set_by)}")
    if key.group is not None and exact:
        lines += ["  keys:", *_keys_below(name, key.name)]
    return lines


def _by_scale(defaults: dict[str, str]) -> str:
    """One value where all scales have it, else each with its scale: "160 (scale=demo), null (scale=paper)"."""
    if len(set(defaults.values())) == 1:
        return defaults["demo"]
    return ", ".join(f"{value} (scale={scale})" for scale, value in defaults.items())


def _arguments(name: str) -> dict[str, Argument]:
    """The argument that the last part of a dotted key names, by the code that takes it: code that choices put there."""
    above, _, last = name.rpartition(".")
    named = [value for value in choices.settings().get(above, {}).values() if isinstance(value, dict)]
    found = {}
    for target in sorted({value["_target_"] for value in named if "_target_" in value}):
        from kdlab.config.arguments import arguments_of  # with it the code, which imports torch

        if argument := arguments_of(target).get(last):
            found[target.rpartition(".")[2]] = argument
    return found


def _set_by(values: dict[str, Any]) -> str:
    """The values that choices give a key, each with its choices: "0.5 (exp=dekd), 0.1 (select=adads, ...)"."""
    choosing: dict[str, list[str]] = {}
    for choice, value in values.items():
        choosing.setdefault(value_words(value), []).append(choice)
    named = {words: (*some[:3], *(["..."] if len(some) > 3 else [])) for words, some in choosing.items()}
    return "; ".join(f"{words} ({', '.join(some)})" for words, some in named.items())


def _group(name: str) -> list[str]:
    key = keys().get(name)
    lines = [f"{name}: a group, chosen by {'+' if choices.default_choice(name, 'demo') is None else ''}{name}=CHOICE"]
    lines += _wrapped(key.line) if key else []
    defaults = {scale: choices.default_choice(name, scale) for scale in SCALES}
    if defaults["demo"]:
        lines.append(f"  default: {_by_scale({scale: str(choice) for scale, choice in defaults.items()})}")
    names = choices.groups()[name]
    lines += ["  choices:", *_table([(choice, choices.summary(name, choice)) for choice in names])]
    if key is not None:
        lines += ["  keys:", *_keys_below(name, name)]
    return lines


def _keys_below(name: str, documented: str) -> list[str]:
    below = [key for key in keys().values() if key.name.rpartition(".")[0] in (documented, f"{documented}.{NAME}")]
    return _table([(name + key.name[len(documented) :], key.line) for key in below])


def _overview() -> str:
    rows = [(name, keys()[name].line) for name in keys() if "." not in name]
    others = [
        (name, f"choices: {', '.join(choices.groups()[name])}") for name in choices.groups() if name not in keys()
    ]
    return "\n".join(["kdlab run --explain KEY explains a key or a group:", *_table([*rows, *others])])


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    wide = min(34, max(len(name) for name, _ in rows)) + 2
    return [
        line
        for name, text in rows
        for line in textwrap.wrap(
            f"{name:<{wide}}{text}", WIDTH, initial_indent="    ", subsequent_indent=" " * (wide + 4),
            break_on_hyphens=False, replace_whitespace=False,
        )
    ]  # fmt: skip


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
