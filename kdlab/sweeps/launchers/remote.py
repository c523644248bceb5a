"""One job of a sweep on the machine that a cluster has given it: what SLURM and Ray launchers send there."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdlab.runs import folders, process

# what SLURM tells each task; Lightning would take the job for one whose processes SLURM has started
TASK_VARIABLES = ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")


@dataclass
class RemoteJob:
    """A run and where it lies, by names that hold on every machine of the cluster (a shared file system)."""

    overrides: tuple[str, ...]
    folder: Path
    log: Path
    where: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: int | None = None  # a signal that came before the run had begun

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}

    def run(self, ranks: Mapping[str, str], ignored: int | None = None) -> int:
        """Do the run; its exit code, 0 also where it is finished already.

        `ranks` are the variables of one of several processes (none: the only one). The first process holds the folder's
        lock meanwhile, and waits for it. SIGTERM and Ctrl-C are handed on to the run, whose end is waited for; the
        signal `ignored` is not for it.
        """
        first = ranks.get("RANK", "0") == "0"
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = process.lock_folder(self.folder, wait=True) if first else None
        try:
            if folders.status(self.folder) == "finished":
                return 0
            dropped = (*process.RANK_VARIABLES, *TASK_VARIABLES)
            kept = {name: value for name, value in os.environ.items() if name not in dropped}
            overrides = [*self.overrides, f"hydra.run.dir={process.quoted_value(self.folder)}"]
            environment = {**kept, **self.environment, **ranks}
            held = [lock.descriptor] if lock else []
            with _handing_on(self):
                with open(self.log, "ab") as log, _ignoring(ignored):
                    self._process = process.spawn(overrides, environment, held, log.fileno(), self.where)
                if self._early is not None:
                    self.stop(self._early)
                return self._wait()
        finally:
            if lock is not None:
                lock.release()

    def _wait(self) -> int:
        assert self._process is not None
        try:
            return self._process.wait()
        except KeyboardInterrupt:
            self.stop(signal.SIGINT)
            return self._process.wait()
        finally:
            self.stop(signal.SIGKILL)  # what it has started and left behind

    def stop(self, number: int) -> None:
        """Signal the run and all it has started, or what will be the run when it has begun."""
        if self._process is None:
            self._early = number
        else:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def save(self) -> None:
        """Have the run save where it is and end, and wait for that."""
        self.stop(signal.SIGTERM)
        if self._process is not None:
            self._process.wait()


@contextmanager
def _ignoring(number: int | None) -> Iterator[None]:
    """A signal is ignored during the block, and by the process that is started in it."""
    before = signal.signal(number, signal.SIG_IGN) if number is not None else None
    try:
        yield
    finally:
        if number is not None:
            signal.signal(number, before)


@contextmanager
def _handing_on(job: RemoteJob) -> Iterator[None]:
    """SIGTERM goes on to the run during the block; only the main thread of a process may arrange that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: job.stop(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
