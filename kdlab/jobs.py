"""Jobs of a sweep or a suite: each a run of its own, in a process and a folder of its own; finished ones are skipped."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kdlab import folders

FOLDER = "KDLAB_RUN_FOLDER"  # set for the other ranks of a run: rank 0 has chosen the folder
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", FOLDER)


def perform(title: str, overrides: Sequence[str], folder: Path) -> bool:
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
                return launch([*overrides, f"hydra.run.dir={quoted(folder)}"], environment, lock) == 0
    print(f"kdlab: {folder} is finished, skipped", flush=True)
    return True


def launch(overrides: Sequence[str], environment: Mapping[str, str], lock: int) -> int:
    """`python -m kdlab.run` in a process that inherits the descriptor `lock`; its exit code."""
    command = [sys.executable, "-m", "kdlab.run", *overrides]
    return subprocess.run(command, env=environment, pass_fds=[lock], check=False).returncode


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Hold the lock of a run folder, a file beside it, during the block; yields its descriptor.

    The kernel frees it when the last process that has the descriptor ends: if this one is killed, the job keeps it.
    """
    name = hashlib.sha256(folder.name.encode()).hexdigest()[:16]  # the folder's own may be as long as a name can be
    path = folder.with_name(f".{name}.lock")
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _wait(descriptor, folder)
            if _is_at(descriptor, path):  # else the holder before us has removed it
                try:
                    yield descriptor
                finally:
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _wait(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"kdlab: another process is at work in {folder}: waiting for its end", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return


def quoted(value: object) -> str:
    """A value as Hydra's command line takes it, whatever signs are in it."""
    return "'" + str(value).replace("'", "\\'") + "'"
