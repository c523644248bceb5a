"""Run jobs of a sweep on this machine: one at a time, or several at once on separate GPUs and shares of the cores."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdlab.config.quoting import quoted_value
from kdlab.errors import UserError
from kdlab.runs import folders
from kdlab.runs import process as job_process
from kdlab.runtime.forked import GONE, STARTING, ForkedProcess, ForkServer, is_supported
from kdlab.storage import locks
from kdlab.sweeps.expansion import SweepJob


def environment_of(job: SweepJob | None, sweep: str) -> dict[str, str]:
    """The environment of a job: this process's without the variables of ranks, with the names of sweep and job.

    None: of what prepares for all jobs."""
    kept = {name: value for name, value in os.environ.items() if name not in job_process.RANK_VARIABLES}
    return {**kept, job_process.SWEEP: sweep, job_process.DIFFERS: job.differs if job is not None else ""}


class ProcessHandle:
    """A process in a group of its own."""

    state, why = "running", ""

    def __init__(self, process: subprocess.Popen[bytes] | ForkedProcess) -> None:
        self.process = process

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        code = self.process.poll()
        if code is not None:
            self.kill()  # processes that it has left behind
        return code

    def stop(self, number: int) -> None:
        """Send a signal to all processes of the group."""
        self._signal(number)

    def kill(self) -> None:
        """Kill all processes of the group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class RunningProcess(ProcessHandle):
    """A job. Its end releases the lock and the GPUs (added to `free`)."""

    def __init__(
        self,
        process: subprocess.Popen[bytes] | ForkedProcess,
        lock: locks.FolderLock,
        gpus: Sequence[str],
        free: Counter[str],
    ) -> None:
        super().__init__(process)
        self.lock, self.gpus, self.free = lock, gpus, free

    def poll(self) -> int | None:
        """The exit code; None while the job runs."""
        code = super().poll()
        if code is not None:
            self.lock.release()
            self.free.update(self.gpus)
        return code


class ExitedProcess:
    """A job that another process has finished since the sweep began."""

    state, why = "running", ""

    def poll(self) -> int | None:
        """Exit code 0."""
        return 0

    def stop(self, number: int) -> None:
        """Do nothing: the job has ended."""

    def kill(self) -> None:
        """Do nothing: the job has ended."""


class Local:
    """Launcher of `n_jobs` at once on this machine; "auto": `jobs_per_gpu` on each GPU.

    With several at once a job sees as many GPUs as it has devices (CUDA_VISIBLE_DEVICES, out of those that this process
    may use), and the cores are divided (OMP_NUM_THREADS, unless it is set). A single job gets the whole machine.
    `fork`: jobs are forked from a process that has imported everything, where that is safe; else each imports by itself.
    UserError for numbers below 1.
    """

    def __init__(self, n_jobs: int | str = 1, jobs_per_gpu: int = 1, fork: bool = True) -> None:
        if n_jobs != "auto" and not (type(n_jobs) is int and n_jobs >= 1):
            raise UserError(f"hydra.launcher.n_jobs={n_jobs}: a number of jobs at once, or auto: one for each GPU")
        if type(jobs_per_gpu) is not int or jobs_per_gpu < 1:
            raise UserError(f"hydra.launcher.jobs_per_gpu={jobs_per_gpu}: at least 1")
        if type(fork) is not bool:
            raise UserError(f"hydra.launcher.fork={fork}: true or false")
        self.n_jobs, self.jobs_per_gpu, self.fork = n_jobs, jobs_per_gpu, fork
        self.at_once: int | None = 1 if n_jobs == "auto" else int(n_jobs)
        self.free: Counter[str] = Counter()
        self.divided = False
        self._running: list[RunningProcess] = []
        self._elsewhere: set[int] = set()
        self._name = ""
        self._server: ForkServer | None = None

    def prepare(self, jobs: Sequence[SweepJob], name: str) -> None:
        """Count the GPUs, and start to import what jobs import. UserError for a job that needs more GPUs than there are."""
        self._name = name
        gpus = visible_gpus()
        for job in jobs:
            if gpus and gpus_of(job) > len(gpus):
                raise UserError(
                    f"trainer.devices={gpus_of(job)}: {len(gpus)} GPUs are free for this sweep ({', '.join(gpus)})"
                )
        if self.n_jobs != 1:
            if self.n_jobs == "auto":
                if not gpus:
                    raise UserError(
                        "hydra.launcher.n_jobs=auto: one job for each GPU, and there is none here; give a number"
                    )
                self.at_once = len(gpus) * self.jobs_per_gpu
            self.free = Counter({gpu: self.jobs_per_gpu for gpu in gpus})
            self.divided = bool(gpus)
        if self.fork and is_supported() and any(folders.status(job.folder) != "finished" for job in jobs):
            self._server = ForkServer(job_process.PRELOADED)

    def close(self) -> None:
        """End the process that jobs are forked from; jobs that still run go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def begin(self, waiting: Sequence[SweepJob]) -> list[tuple[SweepJob, Any]]:
        """Start as many of the waiting jobs as there are free slots and GPUs."""
        self._running = [one for one in self._running if one.process.poll() is None]
        self._elsewhere = set()
        if not self._is_ready():
            return []
        begun: list[tuple[SweepJob, Any]] = []
        for job in waiting:
            if len(self._running) >= (self.at_once or 1):
                break
            needed = gpus_of(job) if self.divided else 0
            gpus = [gpu for gpu, slots in self.free.most_common(needed) if slots > 0]
            if len(gpus) < needed:
                continue
            handle = self._start(job, gpus)
            if handle is not None:
                begun.append((job, handle))
        return begun

    def _is_ready(self) -> bool:
        """False while the process that jobs are forked from imports; where it is gone, jobs begin without it from then on."""
        if self._server is None:
            return True
        if (state := self._server.poll()) == GONE:
            print(f"kdlab: each job imports by itself, which takes seconds: {self._server.why}", flush=True)
            self.close()
        return state != STARTING

    def elsewhere(self) -> set[int]:
        """Numbers of the jobs whose folder was locked by another process at the last `begin`."""
        return self._elsewhere

    def _start(self, job: SweepJob, gpus: Sequence[str]) -> RunningProcess | ExitedProcess | None:
        if folders.status(job.folder) == "finished":
            return ExitedProcess()
        lock = locks.lock_folder(job.folder)
        if lock is None:
            self._elsewhere.add(job.number)
            return None
        if folders.status(job.folder) == "finished":  # the process that had the lock has finished it
            lock.release()
            return ExitedProcess()
        environment = environment_of(job, self._name)
        if self.divided:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        if self.at_once != 1:
            ranks = max(1, devices_of(job))
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // ((self.at_once or 1) * ranks))))
        with open(job.log, "ab") as log:
            overrides = [*job.arguments, f"hydra.run.dir={quoted_value(job.folder)}"]
            process = self._process(overrides, environment, {locks.VARIABLE: lock.descriptor}, log.fileno())
        self.free.subtract(gpus)
        running = RunningProcess(process, lock, gpus, self.free)
        self._running.append(running)
        return running

    def _process(
        self, arguments: Sequence[str], environment: Mapping[str, str], inherited: Mapping[str, int], output: int
    ) -> subprocess.Popen[bytes] | ForkedProcess:
        """A process for a job, forked where there is a server."""
        if self._server is not None:
            with suppress(OSError):  # the next `begin` reports that it is gone
                return job_process.fork(self._server, arguments, environment, inherited, output)
        numbers = {name: str(descriptor) for name, descriptor in inherited.items()}
        return job_process.spawn(arguments, {**environment, **numbers}, list(inherited.values()), output)

    def begin_preparation(self, command: Sequence[str], log: Path) -> ProcessHandle | None:
        """Start `python -m kdlab.run COMMAND` with all cores, or one GPU; None while the process it is forked from imports."""
        if not self._is_ready():
            return None
        environment = environment_of(None, self._name)
        if self.divided:
            environment["CUDA_VISIBLE_DEVICES"] = next(iter(self.free))
        environment.setdefault("OMP_NUM_THREADS", str(cores()))
        with open(log, "ab") as output:
            return ProcessHandle(self._process(command, environment, {}, output.fileno()))


def devices_of(job: SweepJob) -> int:
    """The number of processes of a job on one machine; 1 for "auto"."""
    devices = job.config.trainer.devices
    return devices if type(devices) is int else 1


def gpus_of(job: SweepJob) -> int:
    """The number of GPUs that a job uses on one machine that has GPUs."""
    return 0 if job.config.trainer.accelerator in ("cpu", "mps") else devices_of(job)


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; all of nvidia-smi where it is not set."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() and name.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    listed = [line for line in done.stdout.splitlines() if line.startswith("GPU ")] if done.returncode == 0 else []
    return [str(number) for number in range(len(listed))]
