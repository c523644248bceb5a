"""`python -m kdlab.run --repeat RUN`: run a finished run again in a new folder, and compare the two bit for bit."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from omegaconf import OmegaConf

from kdlab.config.saved import read_config_here
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.plugins import own_modules
from kdlab.runs import environment, folders, keeping, single
from kdlab.runs.finished import finished_result
from kdlab.runs.process import FOLDER, is_first_process
from kdlab.storage import tables

TABLES = ("selector.csv", "metrics.csv", "knowledge.csv", "selected.csv")
CLOCKED = "its steps follow from the clock, so a repetition need not have the same bits"
CLOCK = "seconds"  # the column that differs between any two runs


def main(arguments: Sequence[str]) -> int:
    """Repeat `arguments`: RUN, and hydra.run.dir=FOLDER if given. Exit code 0: the same bits, 1: a difference.

    UserError for a folder without a finished run, for a suite, and for code of the user's own that is not as it was.
    """
    run, folder = _parsed(arguments)
    finished_result(run)
    folders.check_own_code(
        run, "--repeat needs that file as it was; the run's own command without --repeat is a new run"
    )
    result, resolved = finished_result(run), read_config_here(run) | {"overwrite": False, "resume": True, "keep": "all"}
    config = checked(OmegaConf.create(resolved))
    if config.suite is not None:
        raise UserError(f"{run} is a suite of runs: repeat one of those below it")
    chosen = folder is not None
    folder = folder or Path("outputs", "repeats", config.name, time.strftime("%Y-%m-%d_%H-%M-%S"))
    overrides, _ = own_modules.split([str(override) for override in result.get("command", [])[3:]])
    if not is_first_process():
        return single.run(config, resolved, Path(os.environ.get(FOLDER, folder)), overrides)
    if config.budget.is_timed:
        print(f"the budget of {run} is one of time: {CLOCKED}", flush=True)
    code = single.start(config, resolved, folder, chosen, overrides)
    if code:
        return code
    again = Path(os.environ[FOLDER])
    if reason := keeping.without_student(run, result):
        print(f"the weights are not compared: {reason}", flush=True)
    differences = list(compared(run, again))
    around = environment.differing(result, finished_result(again))
    print(verdict(run, differences, around, config.budget.is_timed), flush=True)
    return 1 if differences else 0


def verdict(run: Path, differences: Sequence[str], around: Sequence[str], timed: bool = False) -> str:
    """One line: the `differences` from `run` and those of the environment (`around`); `timed`: its budget is one of time."""
    where = (
        f"these parts of the environment differ: {', '.join(around)}"
        if around
        else "the recorded environment is the same"
    )
    if not differences:
        return f"the same bits as {run}: weights, scores, ledger and tables; {where}"
    return f"differs from {run}: {'; '.join(differences)}; {where}{f'; {CLOCKED}' if timed else ''}"


def compared(before: Path, after: Path) -> Iterator[str]:
    """The differences between two finished runs, without their durations: weights, ledger, scores, tables."""
    first, second = finished_result(before), finished_result(after)
    if not any(keeping.without_student(run, result) for run, result in ((before, first), (after, second))):
        yield from _weights(before / "student" / "model.safetensors", after / "student" / "model.safetensors")
    yield from (f"{name} of the ledger" for name in _differing(_counted(first), _counted(second)))
    yield from (f"scores of {name}" for name in _differing(first["metrics"], second["metrics"]))
    for name in TABLES:
        yield from _table(before / name, after / name)


def _parsed(arguments: Sequence[str]) -> tuple[Path, Path | None]:
    folders = [argument.partition("=")[2] for argument in arguments if argument.startswith("hydra.run.dir=")]
    runs = [argument for argument in arguments if not argument.startswith("hydra.run.dir=")]
    if len(runs) != 1 or len(folders) > 1 or runs[0].startswith("-"):
        raise UserError(
            "--repeat RUN takes a run folder, and only hydra.run.dir=FOLDER besides: it repeats RUN as it was"
        )
    return Path(runs[0]), Path(folders[0]) if folders else None


def _weights(before: Path, after: Path) -> Iterator[str]:
    first, second = _tensors(before), _tensors(after)
    if first.keys() != second.keys():
        yield f"names of the weights (only in one: {', '.join(sorted(first.keys() ^ second.keys())[:3])})"
        return
    other = [name for name, tensor in first.items() if _bits(tensor) != _bits(second[name])]
    if other:
        distances = [
            float((first[name].double() - second[name].double()).abs().max())
            for name in other
            if first[name].shape == second[name].shape and first[name].numel()
        ]
        far = max(distances, default=float("nan"))
        yield f"weights ({len(other)} of {len(first)} tensors, by {far:.1e} at most)"


def _bits(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error


def _counted(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result["ledger"].items() if name not in ("seconds", "speedup")}


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]


def _table(before: Path, after: Path) -> Iterator[str]:
    if before.is_file() != after.is_file():
        yield f"{before.name} (in one of them alone)"
    elif before.is_file():
        first, second = _rows(before), _rows(after)
        for number, (one, other) in enumerate(zip(first, second, strict=False), 2):
            if one != other:
                yield f"{before.name} from line {number} on ({', '.join(_differing(one, other)[:3])})"
                return
        if len(first) != len(second):
            yield f"{before.name} ({len(first)} and {len(second)} rows)"


def _rows(file: Path) -> list[dict[str, str]]:
    return [{name: cell for name, cell in row.items() if name != CLOCK} for row in tables.read(file)]
