"""`python -m kdlab.run +exp=NAME ...`: compose and check a configuration, then start a run, a suite or (-m) a sweep.

Hydra is imported after `--help` has been answered, torch after the configuration has been checked, so that help and
mistakes in a command answer at once.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kdlab.config import choices, explain, quoting, spellings, targets
from kdlab.errors import UserError, one_line
from kdlab.plugins import own_modules
from kdlab.runs import failures
from kdlab.runs.process import FOLDER, is_first_process, run_unless_finished
from kdlab.runtime import signals, streams
from kdlab.runtime.command_line import unknown_flag
from kdlab.storage.redaction import redact

if TYPE_CHECKING:
    from omegaconf import DictConfig

HELP = {"--help", "-h"}
MULTIRUN = {"-m", "--multirun"}
FIRST = {"--explain": "KEY", "--repeat": "RUN"}  # flags that stand before all other arguments
DRY_RUN = {"-n", "--dry-run"}  # check the command, print its plan, and stop
PLAN = "--plan"  # forecast the cost first; with --dry-run that is all
PREPARE = "--prepare"  # make what a run, or the jobs of a sweep together, need first, and stop
PLAN_HELP = """\
usage: kdlab plan +exp=NAME [GROUP=CHOICE ...] [KEY=VALUE ...]

Forecast what `kdlab run` with the same arguments would cost: teacher queries, FLOPs by part, time, memory and disk per
device, preparation that is missing, and random selection and all data for the same FLOPs; with -m or +sweep=NAME of all
jobs, and how long they take on each launcher. A few steps are timed with random weights. Nothing is written or downloaded
but what the command's own checks read.

    kdlab plan +exp=adads_finetune
    kdlab plan +exp=adads_finetune budget.price_per_query=0.0004 budget.price_per_hour=1.2
    kdlab plan -m +exp=adads_finetune select=random,adads seed=1,2,3
    kdlab run --plan +exp=adads_finetune     # run it, too: the closing table has the forecast beside the real figures

docs/plan.md says how it is measured, and how far off it was."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's); return the exit code, 2 for anything a user can correct."""
    streams.outlive_readers()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (len(arguments) == 1 and arguments[0] in HELP):
        print(explain.help_text() if arguments else explain.usage())
        return 0
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from kdlab.config.composition import error_line

    failures.end_with_starter()
    try:
        return _dispatch(arguments)
    except (UserError, HydraException, OmegaConfBaseException, YAMLError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        line = one_line(redact(error_line(error)))
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


def plan(argv: Sequence[str] | None = None) -> int:
    """Forecast the cost of the run or sweep of the command line `argv` (default: this process's), and write nothing."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (len(arguments) == 1 and arguments[0] in HELP):
        print(PLAN_HELP)
        return 0
    return main([*arguments, PLAN, *(() if DRY_RUN & set(arguments) else ("--dry-run",))])


def _dispatch(argv: list[str]) -> int:
    """Start what `argv` requests: help, an explanation, a sweep, a repetition, one of Hydra's own flags, a run or suite."""
    argv, code = own_modules.split(argv)
    _check_flags(argv)
    own_modules.load(code)
    if PLAN in argv:  # the rates of a plan are those of budgets
        argv = [re.sub(r"^\+?plan\.(price_per_\w+=)", r"budget.\1", argument) for argument in argv]
    if argv[:1] == ["--explain"]:
        return explain.main(argv[1:])
    targets.check_overrides(argv)
    dry, planned = bool(DRY_RUN & set(argv)), PLAN in argv
    arguments, folders = _split_config_dirs([a for a in argv if a not in DRY_RUN and a not in (PLAN, PREPARE)])
    quoted = ",".join(quoting.quoted_value(f"file://{folder}") for folder in folders)
    searchpath = [f"hydra.searchpath=[{quoted}]"] if folders else []
    flags = {argument for argument in arguments if argument.startswith("-")}
    arguments = [a if a.startswith("-") else choices.spelled(a) for a in arguments]
    overrides = [argument for argument in arguments if argument not in flags]
    if PREPARE in argv:
        return _prepare(overrides, searchpath, folders, {*flags, *(DRY_RUN & set(argv)), *([PLAN] if planned else [])})
    if flags and flags <= MULTIRUN or not flags and any(o.startswith("+sweep=") for o in overrides):
        from kdlab.sweeps import sweep

        if planned and not dry:
            raise UserError("--plan: of a single run; kdlab plan forecasts a sweep, and each of its jobs")
        return sweep.start(overrides, searchpath, folders, dry, planned)  # installs signal handlers itself
    with signals.handling():
        if argv[:1] == ["--repeat"]:
            from kdlab.runs import repeat

            return repeat.main(argv[1:])
        if flags:
            return _hydra_application(arguments, searchpath)
        forecast = None
        if planned and not dry and is_first_process():
            from kdlab.runs.forecast.child import planned_by_child

            own = [word for module in code for word in (own_modules.OPTION, module)]
            forecast = planned_by_child([*own, *(argument for argument in argv if argument != PLAN)])
        return _run_or_suite([*arguments, *searchpath], dry, planned, forecast)


def _prepare(overrides: list[str], searchpath: list[str], folders: list[Path], flags: set[str]) -> int:
    """Make what the run or the jobs of a sweep need first, and stop; the exit code."""
    from kdlab.sweeps import sweep

    if others := sorted(flags - MULTIRUN):
        raise UserError(f"{PREPARE} and {others[0]}: one of them at a time")
    with signals.handling():
        return sweep.prepare(overrides, searchpath, folders)


def _check_flags(argv: list[str]) -> None:
    """UserError for a flag that neither kdlab nor Hydra has, with the nearest one, and for one that must come first."""
    names = [argument.partition("=")[0] for argument in argv if argument.startswith("-")]
    if not names:
        return
    from hydra._internal.utils import get_args_parser

    known = {
        *FIRST,
        *DRY_RUN,
        PLAN,
        PREPARE,
        own_modules.OPTION,
        *(name for action in get_args_parser()._actions for name in action.option_strings),
    }
    for name in names:
        if name not in known:
            raise UserError(unknown_flag(name, known))
        if name in FIRST and argv[0] != name:
            raise UserError(f"{name} comes first: {quoting.command([name, FIRST[name]])}")


def _check_values(flags: list[str]) -> None:
    """UserError for a value that a flag of Hydra does not take, such as `--cfg jobs`, and for a word besides."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise UserError(message)

    parser = get_args_parser()
    parser.error = refuse
    if words := parser.parse_args(flags).overrides:
        raise UserError(f"{words[0]}: not of the form KEY=VALUE")


def _split_config_dirs(arguments: list[str]) -> tuple[list[str], list[Path]]:
    """Split `arguments` into those without `--config-dir FOLDER`, and the folders. UserError for a missing folder."""
    folders, rest = [], []
    remaining = iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        if flag not in ("--config-dir", "-cd"):
            rest.append(argument)
            continue
        folder = Path(value if equals else next(remaining, "")).absolute()
        if not folder.is_dir():
            raise UserError(f"--config-dir {folder}: there is no such folder")
        spellings.check_folder(folder)
        folders.append(folder)
    return rest, folders


def _run_or_suite(
    overrides: list[str], dry: bool = False, planned: bool = False, forecast: dict[str, Any] | None = None
) -> int:
    """Start the run or suite of `overrides`; `dry`: only check it; `planned`: and forecast it. `forecast`: the one made."""
    from kdlab.config.composition import composition, to_plain
    from kdlab.config.schema import checked

    composed, hydra = composition(overrides)
    config = checked(composed)
    resolved = to_plain(composed)
    chosen = any(override.startswith("hydra.run.dir=") for override in overrides)
    folder = Path(hydra.run.dir)
    if not chosen:
        targets.check_folder(folder)
    if not is_first_process() and FOLDER not in os.environ and not chosen:
        raise UserError("processes that torchrun or SLURM starts need a common folder: give hydra.run.dir=")
    from kdlab.runs import single  # imports torch: after the errors that need nothing but the configuration

    if not is_first_process():
        return single.run(config, resolved, Path(os.environ.get(FOLDER, folder)), overrides)
    single.check_machine(config)
    if config.suite is not None:
        from kdlab.sweeps import suite

        if planned:
            return suite.forecast(config, resolved, folder, chosen, overrides)
        return (suite.plan_only if dry else suite.start)(config, resolved, folder, chosen, overrides)
    if dry:
        return single.plan_only(config, resolved, folder, chosen, planned)
    return single.start(config, resolved, folder, chosen, overrides, forecast=forecast)


def _hydra_application(arguments: list[str], searchpath: list[str]) -> int:
    """Run Hydra's own application: --help, --cfg, --info and its other flags."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from kdlab.config.composition import CONF, composition, remove_stored_schemas
    from kdlab.config.schema import checked

    remove_stored_schemas()
    succeeded: list[bool] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="run")
    def application(composed: DictConfig) -> None:
        checked(composed)
        job = HydraConfig.get()
        folder = Path(job.runtime.output_dir)
        succeeded.append(
            run_unless_finished(shlex.join(job.overrides.task), [*job.overrides.task, *searchpath], folder)
        )

    overrides = [a for a in [*arguments, *searchpath] if not a.startswith("-") and ("=" in a or a.startswith("~"))]
    rest = [argument for argument in arguments if argument not in overrides]  # flags with their values
    _check_values(rest)
    if not {*MULTIRUN, *HELP, "--hydra-help"} & set(arguments):  # else each job composes on its own
        composition(overrides)
    full_error, argv = os.environ.get("HYDRA_FULL_ERROR"), sys.argv
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors, and `main` makes one line of them
    # argparse refuses overrides after a flag with a value where others stand before it
    sys.argv = [argv[0], *overrides, *(argument for argument in rest if argument not in MULTIRUN)]
    try:
        application()
    except SystemExit as end:  # Hydra ends so after --help
        return int(end.code or 0)
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
    return 0 if all(succeeded) else 1


if __name__ == "__main__":
    sys.exit(main())
