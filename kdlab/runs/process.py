"""Jobs of a sweep or a suite: each a run of its own, in a process and a folder of its own; finished ones are skipped."""

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

FOLDER = "KDLAB_RUN_FOLDER"  # set for the other ranks of a run: rank 0 has chosen the folder
SWEEP = "KDLAB_SWEEP"  # the name of the sweep that started this job
DIFFERS = "KDLAB_DIFFERS"  # what sets the job apart from others of its sweep, as select=random,seed=1
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", FOLDER)


def is_first_process() -> bool:
    """True in the process of rank 0, by the variables that torchrun, SLURM and Lightning set for each rank."""
    return {os.environ.get("LOCAL_RANK", "0"), os.environ.get("RANK", "0")} == {"0"}


def say(line: str) -> None:
    """Print a line for the user, on rank 0 only."""
    if is_first_process():
        print(line, flush=True)


def run_unless_finished(title: str, overrides: Sequence[str], folder: Path) -> bool:
    """Do the run of `overrides` in `folder`, or go on with it; whether a finished one is there afterwards.

    Says `title` first. A finished run is skipped. Where another process works on the same folder (perhaps one that
    outlived the suite that began it), this one waits until that has ended, and then looks again.
    """
    if folders.status(folder) != "finished":
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder) as lock:
            if folders.status(folder) != "finished":
                print(f"kdlab: {title}", flush=True)
                environment = {k: v for k, v in os.environ.items() if k not in (*RANK_VARIABLES, "HYDRA_FULL_ERROR")}
                return run_and_wait([*overrides, f"hydra.run.dir={quoted_value(folder)}"], environment, lock) == 0
    print(f"kdlab: {folder} is finished, skipped", flush=True)
    return True


def run_and_wait(overrides: Sequence[str], environment: Mapping[str, str], lock: int) -> int:
    """`python -m kdlab.run` in a process that inherits the descriptor `lock`; its exit code.

    A signal that stops this process is passed on, and the run's end is waited for: it saves a checkpoint.
    """
    command = [sys.executable, "-m", "kdlab.run", *overrides]
    # in a session of its own, so that Ctrl-C comes to it once, from here, and it has the time to save
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
    held: Sequence[int],
    output: int,
    where: Path | None = None,
) -> subprocess.Popen[bytes]:
    """`python -m kdlab.run` in a session of its own, so that it can be signalled with all it starts; in the folder `where`.

    It writes to the descriptor `output` and inherits the descriptors `held`.
    """
    command = [sys.executable, "-m", "kdlab.run", *overrides]
    return subprocess.Popen(
        command, cwd=where, env=dict(environment), pass_fds=list(held), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=output, stderr=output,
    )  # fmt: skip


class RunLock:
    """The lock of a run folder, a file beside it. The kernel frees it when the last process that has its descriptor
    ends: if this process is killed, the job that inherited it keeps it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def lock_folder(folder: Path, wait: bool = False) -> RunLock | None:
    """The lock of a run folder; None where another process has it, unless that is to be waited for."""
    name = hashlib.sha256(folder.name.encode()).hexdigest()[:16]  # the folder's own may be as long as a name can be
    path = folder.with_name(f".{name}.lock")

    def waiting(_: str) -> None:
        print(f"kdlab: another process is at work in {folder}: waiting for its end", flush=True)

    descriptor, _ = open_locked(path, wait, waiting, must_lock=False)
    return None if descriptor is None else RunLock(path, descriptor)


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Hold the lock of a run folder during the block; yields its descriptor."""
    lock = lock_folder(folder, wait=True)
    assert lock is not None
    try:
        yield lock.descriptor
    finally:
        lock.release()


def quoted_value(value: object) -> str:
    """A value as Hydra's command line takes it, whatever signs are in it."""
    return "'" + str(value).replace("'", "\\'") + "'"
