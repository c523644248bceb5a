"""Checks of the texts in a configuration (no secrets, no control characters) and of its `_target_`s (allow-list).

Also the table of targets that have moved since older versions wrote them into files.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import kdlab
from kdlab.errors import UserError, nearest
from kdlab.plugins import own_modules
from kdlab.storage import redaction

# Modules whose functions and classes a configuration may name: what selects, adopts, weighs and scores, and row sources.
# None of them writes files, starts processes or fetches code.
MODULES = (
    "data.causal.examples", "data.tasks.sources", "data.tasks.wordnet", "data.text.sources", "methods.adoption", "methods.knowledge.attention", "methods.knowledge.divergences",
    "methods.knowledge.hidden_states", "methods.knowledge.joint", "methods.knowledge.logits", "methods.knowledge.weighing",
    "methods.ksm.module", "methods.selection.policies", "methods.selection.rewards", "methods.selection.strategies",
)  # fmt: skip
# Targets that older versions wrote into configurations, and where the code is now: whole modules, then single names.
# Applied when a configuration is read (`current_targets`), and backwards where one is hashed (`original_targets`), so
# that old runs and artifacts stay usable. Where several old names have become one, the youngest stands last.
MOVED_MODULES = {
    "kdlab.adoption": "kdlab.methods.adoption",
    "kdlab.amalgamation": "kdlab.methods.knowledge.joint",
    "kdlab.attentionterms": "kdlab.methods.knowledge.attention",
    "kdlab.ksm": "kdlab.methods.ksm.module",
    "kdlab.localjobs": "kdlab.sweeps.launchers.local",
    "kdlab.optunasearch": "kdlab.sweeps.optuna",
    "kdlab.policies": "kdlab.methods.selection.policies",
    "kdlab.rayjobs": "kdlab.sweeps.launchers.ray",
    "kdlab.rewards": "kdlab.methods.selection.rewards",
    "kdlab.sources": "kdlab.data.text.sources",
    "kdlab.stateterms": "kdlab.methods.knowledge.hidden_states",
    "kdlab.strategies": "kdlab.methods.selection.strategies",
    "kdlab.submititjobs": "kdlab.sweeps.launchers.slurm",
    "kdlab.sweep": "kdlab.sweeps.sweep",
    "kdlab.tasksources": "kdlab.data.tasks.sources",
    "kdlab.terms": "kdlab.methods.knowledge.logits",
    "kdlab.weighing": "kdlab.methods.knowledge.weighing",
    "kdlab.wordnet": "kdlab.data.tasks.wordnet",
}
MOVED_NAMES = {
    "kdlab.terms.attention_mse": "kdlab.methods.knowledge.attention.attention_mse",
    "kdlab.terms.attention_relation": "kdlab.methods.knowledge.attention.attention_relation",
    "kdlab.terms.value_relation": "kdlab.methods.knowledge.attention.value_relation",
    "kdlab.terms.cosine": "kdlab.methods.knowledge.hidden_states.cosine",
    "kdlab.terms.embedding_mse": "kdlab.methods.knowledge.hidden_states.embedding_mse",
    "kdlab.terms.hidden_mse": "kdlab.methods.knowledge.hidden_states.hidden_mse",
    "kdlab.terms.patient": "kdlab.methods.knowledge.hidden_states.patient",
}
_ORIGINAL_MODULES = {new: old for old, new in MOVED_MODULES.items()}
# Hydra's part of a configuration: launchers, sweepers and their callbacks, Hydra's own, plug-ins' and kdlab's
_HYDRAS = re.compile(r"(?:hydra|hydra_plugins|optuna\.samplers|kdlab)(?:\.[a-z_]\w*)*\.[A-Z]\w*")
_LOGGING = re.compile(r"logging\.(?:handlers\.)?[A-Z]\w*|colorlog\.ColoredFormatter")
_LOADED = re.compile(r"(?:LD_|DYLD_|PYTHON).*|PATH")  # variables that make a process run other code
_OPTIMIZERS = re.compile(r"torch\.optim\.[A-Z]\w*")
_HELD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def check(config: Any) -> None:
    """UserError for a text in a checked configuration that cannot be written, looks like a secret, would be resolved
    once more (an escaped `${...}`), or names code outside of the allow-list. The message never shows a secret."""
    around = redaction.secret_variables()
    for where, value, is_key in _texts(config, ""):
        _check_text(where, value, is_key, around)
        if not is_key and where.rsplit(".", 1)[-1] == "_target_":
            _check_target(where, value)


def current_target(target: str) -> str:
    """The present dotted name of a target that an older version wrote; other names as they are."""
    if target in MOVED_NAMES:
        return MOVED_NAMES[target]
    module, _, name = target.rpartition(".")
    return f"{MOVED_MODULES[module]}.{name}" if module in MOVED_MODULES else target


def original_target(target: str) -> str:
    """The dotted name that a target had when configurations were first hashed; the inverse of `current_target`."""
    module, _, name = target.rpartition(".")
    return f"{_ORIGINAL_MODULES[module]}.{name}" if module in _ORIGINAL_MODULES else target


def current_targets(node: Any) -> Any:
    """A copy of plain containers with every `_target_` under its present name."""
    return _with_targets(node, current_target)


def original_targets(node: Any) -> Any:
    """A copy of plain containers with every `_target_` under its original name, and the hash of the user's own code beside
    its name (`_code_`), for hashes."""
    return _with_targets(node, original_target, own_modules.sha256_of_target)


def moved_in(node: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """OmegaConf keys of the targets in plain containers that have moved, each with its present name."""
    if isinstance(node, list):
        for number, value in enumerate(node):
            yield from moved_in(value, f"{where}[{number}]")
    elif isinstance(node, dict):
        for key, value in node.items():
            path = f"{where}.{key}" if where else str(key)
            if key == "_target_" and isinstance(value, str) and current_target(value) != value:
                yield path, current_target(value)
            else:
                yield from moved_in(value, path)


def _with_targets(
    node: Any, rename: Callable[[str], str], code_of: Callable[[str], str | None] = lambda target: None
) -> Any:
    if isinstance(node, list | tuple):
        return [_with_targets(value, rename, code_of) for value in node]
    if isinstance(node, Mapping):
        found = {
            key: rename(value)
            if key == "_target_" and isinstance(value, str)
            else _with_targets(value, rename, code_of)
            for key, value in node.items()
        }
        code = code_of(str(node["_target_"])) if "_target_" in node else None
        return found if code is None else {**found, "_code_": code}
    return node


def check_hydra(node: Any, where: str = "hydra") -> None:
    """UserError where Hydra's part of a configuration (plain containers) names code that Hydra would run."""
    if isinstance(node, list | tuple):
        for number, value in enumerate(node):
            check_hydra(value, f"{where}[{number}]")
    for key, value in node.items() if isinstance(node, dict) else ():
        path = f"{where}.{key}"
        allowed = {"_target_": _HYDRAS, "()": _LOGGING, "class": _LOGGING}.get(str(key))
        if allowed is not None and not allowed.fullmatch(str(value)):
            raise UserError(f"{path}={str(value)[:80]}: Hydra may run its own plug-ins only, and logging's classes")
        if where == "hydra.job.env_set" and _LOADED.fullmatch(str(key)):
            raise UserError(f"{path}: a configuration may not make other programs load code; set it in your shell")
        check_hydra(value, path)


def check_folder(folder: Path) -> None:
    """UserError where a configuration file (not the command line) puts the run folder outside of the present folder."""
    here = os.path.abspath(".")
    if os.path.commonpath([here, os.path.abspath(folder)]) != here:
        raise UserError(
            f"the configuration puts the run into {folder}, outside of {here}: give hydra.run.dir= on the command line"
        )


def check_overrides(overrides: Any) -> None:
    """UserError for an override that seems to hold a secret: overrides are written to result.json and folder names."""
    for override in overrides:
        key, _, value = str(override).partition("=")
        if why := redaction.secret_reason(key.lstrip("+~"), value.strip("'\"")):
            raise _secret(key, why)


def _texts(node: Any, where: str) -> Iterator[tuple[str, str, bool]]:
    """All texts of a configuration: dotted key, text, True for a key itself. A target is given as text, whatever it is."""
    if is_dataclass(node) and not isinstance(node, type):
        node = {f.name: getattr(node, f.name) for f in fields(node)}
    if isinstance(node, dict):
        for key, value in node.items():
            path = f"{where}.{key}" if where else str(key)
            yield path, str(key), True
            if key == "_target_":
                yield path, str(value), False
            else:
                yield from _texts(value, path)
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _texts(value, f"{where}[{number}]")
    elif isinstance(node, str):
        yield where, node, False


def _check_text(where: str, value: str, is_key: bool, around: dict[str, str]) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{ascii(where)}={ascii(value[:40])}: bytes that are not UTF-8") from error
    if found := _HELD.search(value):
        raise UserError(f"{ascii(where)}: the text holds the control character {found[0]!r}")
    if why := redaction.secret_reason("" if is_key else where, value, around):
        raise _secret(where, why)
    if "${" in value:
        raise UserError(
            f"{where}={value[:80]}: an escaped interpolation would be resolved later; write the value itself"
        )


def _secret(where: str, why: str) -> UserError:
    return UserError(
        f"{redaction.redact(where)}: this looks like a secret ({why}), and configurations are written to "
        "files; libraries read HF_TOKEN, WANDB_API_KEY and the like from the environment"
    )


def _check_target(where: str, target: str) -> None:
    if _OPTIMIZERS.fullmatch(target):
        return
    if own_modules.of_target(target) is not None:
        _check_own_target(where, target)
        return
    module, _, name = target.removeprefix("kdlab.").rpartition(".")
    if not target.startswith("kdlab.") or module not in MODULES:
        advice = "" if target.startswith("kdlab.") else f"; {own_modules.advice(target)}"
        raise UserError(
            f"{where}={target[:80]}: a configuration may only name code of kdlab ({', '.join(MODULES)}) or torch.optim"
            f"{advice}"
        )
    if name not in public_names(module):
        raise UserError(
            f"{where}={target[:80]}: no function or class of kdlab.{module}; {nearest(name, public_names(module))}"
        )


def _check_own_target(where: str, target: str) -> None:
    module, _, name = target.rpartition(".")
    if name not in (known := own_modules.public_names(module)):
        found = nearest(name, known) if known else "it has none"
        raise UserError(f"{where}={target[:80]}: no function or class that {module} defines; {found}")


@cache
def public_names(module: str) -> tuple[str, ...]:
    """Public functions and classes that a module defines; of a package, those that it takes from its own modules.

    Parsed, not imported, so that errors come at once.
    """
    place = Path(kdlab.__file__).parent.joinpath(*module.split("."))
    package = place.is_dir()
    tree = ast.parse((place / "__init__.py" if package else place.with_suffix(".py")).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}
    prefix = f"kdlab.{module}."
    for node in tree.body if package else ():
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(prefix):
            defined = public_names(str(node.module).removeprefix("kdlab."))
            names |= {alias.name for alias in node.names if alias.name in defined}
    return tuple(sorted(names))
