"""Run the job of a sweep or a suite in a process and a folder of its own, which is locked meanwhile."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kdlab.runs import folders
from kdlab.runtime.signals import Stopped
from kdlab.storage.files import open_locked

# Environment variables of a job
FOLDER = "KDLAB_RUN_FOLDER"  # the folder that rank 0 has chosen, for the other ranks
SWEEP = "KDLAB_SWEEP"  # the name of the sweep that started this job
DIFFERS = "KDLAB_DIFFERS"  # the job's differences from others of its sweep, as select=random,seed=1
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", FOLDER)


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
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder) as lock:
            if folders.status(folder) != "finished":
                print(f"kdlab: {title}", flush=True)
                environment = {k: v for k, v in os.environ.items() if k not in (*RANK_VARIABLES, "HYDRA_FULL_ERROR")}
                return run_and_wait([*overrides, f"hydra.run.dir={quoted_value(folder)}"], environment, lock) == 0
    print(f"kdlab: {folder} is finished, skipped", flush=True)
    return True


def run_and_wait(overrides: Sequence[str], environment: Mapping[str, str], lock: int) -> int:
    """Run `python -m kdlab.run` in a process that inherits the descriptor `lock`; its exit code.

    Passes on a signal that stops this process, and waits for the run, which saves a checkpoint.
    """
    command = [sys.executable, "-m", "kdlab.run", *overrides]
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
    command = [sys.executable, "-m", "kdlab.run", *overrides]
    return subprocess.Popen(
        command, cwd=cwd, env=dict(environment), pass_fds=list(inherited), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=output, stderr=output,
    )  # fmt: skip


class RunLock:
    """The lock of a run folder: a file beside it. The kernel releases it when the last process that has its descriptor
    ends: if this process is killed, the job that inherited the descriptor keeps the lock."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor

    def release(self) -> None:
        """Delete the file and close the descriptor."""
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def lock_folder(folder: Path, wait: bool = False) -> RunLock | None:
    """Lock a run folder. Where another process has the lock: None, or with `wait` the lock once it is released."""
    name = hashlib.sha256(folder.name.encode()).hexdigest()[
        :16
    ]  # the folder's name may have the maximal length already
    path = folder.with_name(f".{name}.lock")

    def print_once(_: str) -> None:
        print(f"kdlab: another process is at work in {folder}: waiting for its end", flush=True)

    descriptor, _ = open_locked(path, wait, print_once, must_lock=False)
    return None if descriptor is None else RunLock(path, descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Lock a run folder during the block; yields the descriptor of the lock."""
    lock = lock_folder(folder, wait=True)
    assert lock is not None
    try:
        yield lock.descriptor
    finally:
        lock.release()


def quoted_value(value: object) -> str:
    """Quote a value for Hydra's command line, whatever characters it has."""
    return "'" + str(value).replace("'", "\\'") + "'"
