"""Run one job of a sweep on a machine of a cluster: the object that the SLURM and Ray launchers send there."""

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

from kdlab.config.quoting import quoted_value
from kdlab.runs import folders, process
from kdlab.storage import locks

# set by SLURM in each task; Lightning would assume that SLURM starts the ranks of the run
TASK_VARIABLES = ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")


@dataclass
class RemoteJob:
    """A run and its paths, which are valid on every machine of the cluster (a shared file system)."""

    overrides: tuple[str, ...]
    folder: Path
    log: Path
    cwd: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: int | None = None  # a signal that came before the run started

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}

    def run(self, ranks: Mapping[str, str], ignored: int | None = None) -> int:
        """Run the job; its exit code, 0 if it is finished already.

        `ranks` are the environment variables of one of several processes, empty for a single one. The first process
        waits for the lock of the folder and keeps it. SIGTERM and Ctrl-C are passed on to the run, and this waits for its
        end; the run ignores the signal `ignored`.
        """
        first = ranks.get("RANK", "0") == "0"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        lock = locks.lock_folder(self.folder, wait=True, waiting=self._log_wait) if first else None
        try:
            if folders.status(self.folder) == "finished":
                return 0
            dropped = (*process.RANK_VARIABLES, *TASK_VARIABLES)
            kept = {name: value for name, value in os.environ.items() if name not in dropped}
            overrides = [*self.overrides, f"hydra.run.dir={quoted_value(self.folder)}"]
            environment = {**kept, **self.environment, **ranks, **(lock.environment if lock else {})}
            inherited = [lock.descriptor] if lock else []
            with _forwarding_sigterm(self):
                with open(self.log, "ab") as log, _ignoring(ignored):
                    self._process = process.spawn(overrides, environment, inherited, log.fileno(), self.cwd)
                if self._early is not None:
                    self.stop(self._early)
                return self._wait()
        finally:
            if lock is not None:
                lock.release()

    def _log_wait(self, owner: str) -> None:
        """Write into the log that another process works in the folder: the sweep shows the log's last line."""
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"kdlab: {locks.waiting_line(self.folder, owner)}\n")

    def _wait(self) -> int:
        assert self._process is not None
        try:
            return self._process.wait()
        except KeyboardInterrupt:
            self.stop(signal.SIGINT)
            return self._process.wait()
        finally:
            self.stop(signal.SIGKILL)  # processes that the run has left behind

    def stop(self, number: int) -> None:
        """Send a signal to all processes of the run; before it starts, as soon as it has."""
        if self._process is None:
            self._early = number
        else:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def save(self) -> None:
        """Make the run save a checkpoint and end, and wait for its end."""
        self.stop(signal.SIGTERM)
        if self._process is not None:
            self._process.wait()


@contextmanager
def _ignoring(number: int | None) -> Iterator[None]:
    """Ignore a signal during the block, and in the process that it starts."""
    before = signal.signal(number, signal.SIG_IGN) if number is not None else None
    try:
        yield
    finally:
        if number is not None:
            signal.signal(number, before)


@contextmanager
def _forwarding_sigterm(job: RemoteJob) -> Iterator[None]:
    """Forward SIGTERM to the run during the block; does nothing outside the main thread, which cannot set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: job.stop(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
