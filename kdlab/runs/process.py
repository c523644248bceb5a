"""Run the job of a sweep or a suite in a process and a folder of its own, which is locked meanwhile."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from kdlab.config.quoting import quoted_value
from kdlab.plugins import own_modules
from kdlab.runs import folders
from kdlab.runtime.forked import ForkedProcess, ForkServer
from kdlab.runtime.signals import Stopped
from kdlab.storage import locks

# Environment variables of a job
FOLDER = "KDLAB_RUN_FOLDER"  # the folder that rank 0 has chosen, for the other ranks
SWEEP = "KDLAB_SWEEP"  # the name of the sweep that started this job
DIFFERS = "KDLAB_DIFFERS"  # the job's differences from others of its sweep, as select=random,seed=1
STARTER = "KDLAB_STARTER"  # the id of the process of rank 0, for the ranks that it starts
RANK_VARIABLES = (
    "RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", FOLDER, STARTER, locks.VARIABLE,
)  # fmt: skip

MODULE = "kdlab.run"  # the command of a job; by its name, for this package imports no command
# modules that a fork server of jobs imports, in this order; the last one fills caches
PRELOADED = (
    "datasets", "matplotlib.backends.backend_agg", "transformers.models.bert.modeling_bert", "kdlab.runs.single", MODULE,
    "kdlab.sweeps.launchers.preloaded",
)  # fmt: skip


def is_first_process() -> bool:
    """True in the process of rank 0, by the variables that torchrun, SLURM and Lightning set for each rank."""
    return {os.environ.get("LOCAL_RANK", "0"), os.environ.get("RANK", "0")} == {"0"}


def notify(line: str) -> None:
    """Print a line for the user, on rank 0 only."""
    if is_first_process():
        print(line, flush=True)


def run_unless_finished(title: str, overrides: Sequence[str], folder: Path) -> bool:
    """Run or resume the run of `overrides` in `folder`, unless it is finished; True if it is finished afterwards.

    Prints `title` first. Where another process works on the same folder (perhaps one that outlived the suite that
    started it), waits for its end and checks again.
    """
    if folders.status(folder) != "finished":

        def waiting(owner: str) -> None:
            print(f"kdlab: {locks.waiting_line(folder, owner)}", flush=True)

        lock = locks.lock_folder(folder, wait=True, waiting=waiting)
        assert lock is not None
        try:
            if folders.status(folder) != "finished":
                print(f"kdlab: {title}", flush=True)
                kept = {k: v for k, v in os.environ.items() if k not in (*RANK_VARIABLES, "HYDRA_FULL_ERROR")}
                job = [*own_modules.options_elsewhere(), *overrides, f"hydra.run.dir={quoted_value(folder)}"]
                code = run_and_wait(job, {**kept, **lock.environment}, lock.descriptor)
                return code == 0 or folders.status(folder) == "finished"
        finally:
            lock.release()
    print(f"kdlab: {folder} is finished, skipped", flush=True)
    return True


def run_and_wait(overrides: Sequence[str], environment: Mapping[str, str], lock: int) -> int:
    """Run `python -m kdlab.run` in a process that inherits the descriptor `lock`; its exit code.

    Passes on a signal that stops this process, and waits for the run, which saves a checkpoint.
    """
    command = [sys.executable, "-m", MODULE, *overrides]
    # a session of its own: Ctrl-C reaches the run once, from here, and it has time to save
    with subprocess.Popen(command, env=environment, pass_fds=[lock], start_new_session=True) as process:
        try:
            return process.wait()
        except Stopped as stop:
            process.send_signal(stop.signum)
            process.wait()
            raise


def spawn(
    overrides: Sequence[str],
    environment: Mapping[str, str],
    inherited: Sequence[int],
    output: int,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start `python -m kdlab.run` in a session of its own, so that a signal reaches all its processes; in the folder `cwd`.

    It writes to the descriptor `output` and inherits the descriptors `inherited`.
    """
    command = [sys.executable, "-m", MODULE, *overrides]
    return subprocess.Popen(
        command, cwd=cwd, env=dict(environment), pass_fds=list(inherited), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=output, stderr=output,
    )  # fmt: skip


def fork(
    server: ForkServer,
    overrides: Sequence[str],
    environment: Mapping[str, str],
    inherited: Mapping[str, int],
    output: int,
) -> ForkedProcess:
    """Start `python -m kdlab.run` as `spawn` does, forked by `server`, which has imported it.

    `inherited`: descriptors, each by the environment variable with its number. OSError where the server is gone.
    """
    return server.start(partial(run_command, tuple(overrides)), environment, output, inherited=inherited)


def run_command(arguments: Sequence[str]) -> int:
    """Run `python -m kdlab.run ARGUMENTS` in this forked process; its exit code."""
    module = importlib.import_module(MODULE)
    sys.argv = [str(module.__file__), *arguments]
    sys.modules["__main__"] = module  # ranks that Lightning starts run the same command
    return module.main(list(arguments))
