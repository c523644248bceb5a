"""`python -m kdlab.run +exp=NAME ...`: compose the configuration, check it, and do the run (or, with -m, a sweep).

Only Hydra and the schemas are imported at the top, so that `--help` and mistakes in a command answer at once.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from kdlab.config import targets
from kdlab.config.schema import Config, checked, first_line
from kdlab.errors import UserError, nearest, one_line
from kdlab.runs import failures
from kdlab.runs.process import FOLDER, is_first_process, run_unless_finished
from kdlab.runtime import signals
from kdlab.storage.redaction import redact

PACKAGE = Path(__file__).resolve().parent
# In a wheel conf/ lies inside the package; in a checkout beside it.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"

MULTIRUN = {"-m", "--multirun"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's); returns the exit code: 2 for anything a user can mend."""
    try:
        given = list(sys.argv[1:] if argv is None else argv)
        targets.check_overrides(given)
        arguments, folders = _own_folders(given)
        places = [f"'file://{folder}'" for folder in folders]
        own = [f"hydra.searchpath=[{','.join(places)}]"] if folders else []
        flags = {argument for argument in arguments if argument.startswith("-")}
        overrides = [argument for argument in arguments if argument not in flags]
        if flags and flags <= MULTIRUN or not flags and any(o.startswith("+sweep=") for o in overrides):
            from kdlab.sweeps import sweep

            return sweep.start(overrides, own, folders)  # stops its jobs itself
        with signals.handling():
            if given[:1] == ["--repeat"]:
                from kdlab.runs import repeat

                return repeat.main(given[1:])
            if flags:
                return _hydra_application(arguments, own)
            return _single([*arguments, *own])
    except (UserError, HydraException, OmegaConfBaseException, YAMLError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        line = one_line(redact(explain(error)))
        if not failures.leave_error(line):
            print(f"kdlab: {line}", file=sys.stderr)
        return 2
    except (signals.Stopped, KeyboardInterrupt) as error:
        stop = error if isinstance(error, signals.Stopped) else signals.Stopped(signal.SIGINT)
        if not failures.is_child_rank():
            print(f"kdlab: {stop}", file=sys.stderr)
        return stop.code
    except Exception as error:
        failures.leave_error(f"{type(error).__name__}: {error}")
        raise


def _own_folders(arguments: list[str]) -> tuple[list[str], list[Path]]:
    """`arguments` without --config-dir FOLDER, and those folders."""
    folders, rest = [], []
    waiting = iter(arguments)
    for argument in waiting:
        flag, equals, value = argument.partition("=")
        if flag not in ("--config-dir", "-cd"):
            rest.append(argument)
            continue
        folder = Path(value if equals else next(waiting, "")).absolute()
        if not folder.is_dir():
            raise UserError(f"--config-dir {folder}: there is no such folder")
        folders.append(folder)
    return rest, folders


def _single(overrides: list[str]) -> int:
    composed, hydra = composition(overrides)
    config = checked(composed)
    resolved = plain(composed)
    chosen = any(override.startswith("hydra.run.dir=") for override in overrides)
    folder = Path(hydra.run.dir)
    if not chosen:
        targets.check_folder(folder)
    if config.suite is not None:
        from kdlab.sweeps import suite  # imported only here: it loads torch, after the checks of the configuration

        return suite.start(config, resolved, folder, chosen, overrides)
    from kdlab.runs import single

    if not is_first_process():
        if FOLDER not in os.environ and not chosen:
            raise UserError("processes that torchrun or SLURM starts need a common folder: give hydra.run.dir=")
        return single.run(config, resolved, Path(os.environ.get(FOLDER, folder)), overrides)
    return single.start(config, resolved, folder, chosen, overrides)


def composition(overrides: Sequence[str], wanted: Sequence[str] = ("run.dir",)) -> tuple[DictConfig, Any]:
    """The configuration that `overrides` make, and the `wanted` keys of Hydra's own part of it (resolved)."""
    return parts(composed_whole(overrides), wanted)


def composed_whole(overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of `overrides`, its own part included."""
    GlobalHydra.instance().clear()
    _forget_namesakes()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            whole = compose("run", overrides=list(overrides), return_hydra_config=True)
        except ValueError as error:
            raise UserError(_no_name(overrides) or first_line(error)) from error
    targets.check_hydra(OmegaConf.to_container(whole.hydra, resolve=False))
    return whole


def parts(whole: DictConfig, wanted: Sequence[str]) -> tuple[DictConfig, Any]:
    """The configuration proper of a `composed_whole`, and the `wanted` keys of Hydra's part of it (resolved)."""
    HydraConfig.instance().set_config(whole)  # for ${hydra:...}
    try:
        hydra = OmegaConf.create(OmegaConf.to_container(OmegaConf.masked_copy(whole, ["hydra", "name"]), resolve=False))
        found = OmegaConf.create()
        for key in wanted:
            value = OmegaConf.select(hydra, f"hydra.{key}")
            OmegaConf.update(
                found, key, OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            )
    finally:
        HydraConfig.instance().cfg = None  # Lightning would start other ranks Hydra's way
    own = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
    return own, found


def _no_name(overrides: Sequence[str]) -> str:
    """What to say of the first override whose value Hydra cannot use: a group has choices with names; "" if all can be."""
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


def _forget_namesakes() -> None:
    """Drop the schemas that Hydra and its plugins hold for launchers and sweepers of the names of kdlab's: Hydra would
    check kdlab's against them."""
    Plugins.instance()  # loads them
    stored = ConfigStore.instance().repo["hydra"]
    for group in ("launcher", "sweeper"):
        for file in (CONF / "hydra" / group).glob("*.yaml"):
            stored[group].pop(file.name, None)


def plain(composed: DictConfig) -> dict[str, Any]:
    """A configuration as ordinary containers, interpolations resolved."""
    resolved = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


# ---- --help and --cfg are Hydra's


def _hydra_application(arguments: list[str], own: list[str]) -> int:
    import hydra

    _forget_namesakes()
    done: list[bool] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="run")
    def application(composed: DictConfig) -> None:
        checked(composed)
        here = HydraConfig.get()
        folder = Path(here.runtime.output_dir)
        done.append(run_unless_finished(" ".join(here.overrides.task), [*here.overrides.task, *own], folder))

    if not {"-m", "--multirun", "--help", "-h", "--hydra-help"} & set(arguments):  # else each job composes on its own
        composition(
            [one for one in [*arguments, *own] if not one.startswith("-") and ("=" in one or one.startswith("~"))]
        )
    before = os.environ.get("HYDRA_FULL_ERROR"), sys.argv
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, who make one line of them
    sys.argv = [before[1][0], *(argument for argument in arguments if argument not in MULTIRUN), *own]
    try:
        application()
    except SystemExit as end:  # argparse: a flag it does not know
        return int(end.code or 0)
    finally:
        sys.argv = before[1]
        if before[0] is None:
            del os.environ["HYDRA_FULL_ERROR"]
    return 0 if all(done) else 1


# ---- errors as one line


def explain(error: Exception) -> str:
    """The line a user reads for an error of ours, of Hydra or of OmegaConf, with the nearest valid names."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, YAMLError):
        return f"a configuration file is no YAML: {' '.join(str(error).split())}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        options = [option for option in error.options or [] if option]
        return f"{group}={name}: there is no such choice; {nearest(name, options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not of the form KEY=VALUE ({first_line(error)}); a value with = , or spaces needs quotes: KEY='\"...\"'"
    text = f"{error}\n{error.__cause__ or ''}"
    found = re.search(r"Could not override '([^']+)'", text) or re.search(
        r"Could not append to config.*?'([^']+)'", text
    )
    key = re.search(r"full_key: (\S+)", text)
    name = (key or found)[1] if key or found else ""  # pyright: ignore[reportOptionalSubscript]
    if name and any(sign in text for sign in ("not in", "No match in the defaults list", "Could not override")):
        return f"unknown key {name}: {nearest(name, _keys())}"
    return first_line(error)


def _keys() -> list[str]:
    """Every key of the default configuration, dotted, and every group."""

    def below(node: Any, prefix: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        return [name for key, value in node.items() for name in (prefix + str(key), *below(value, f"{prefix}{key}."))]

    try:
        composed, _ = composition([])
    except (HydraException, OmegaConfBaseException):
        return list(Config.__dataclass_fields__)
    return [*below(OmegaConf.to_container(composed), ""), "exp", "hydra.run.dir"]


if __name__ == "__main__":
    sys.exit(main())
