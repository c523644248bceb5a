"""Run jobs of a sweep through submitit: on a SLURM cluster, or on this machine to test that.

The settings have the names of Hydra's submitit plugin. (The plugin runs a job inside the process that submitit starts;
here that process starts an ordinary run, with a log and a lock of its own.)
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdlab.errors import UserError, install
from kdlab.runs.process import DIFFERS, SWEEP
from kdlab.sweeps.expansion import SweepJob, common_folder
from kdlab.sweeps.launchers.local import devices_of, gpus_of
from kdlab.sweeps.launchers.remote import RemoteJob

PENDING = ("PENDING", "REQUEUED", "CONFIGURING", "RESIZING", "UNKNOWN")
GENERIC = ("timeout_min", "cpus_per_task", "mem_gb", "stderr_to_stdout", "name")
FIRST_PORT, PORTS = 20000, 20000


class SlurmTask:
    """The function that submitit runs in each task of a job. Near the time limit the job saves and is queued again."""

    def __init__(self, job: RemoteJob) -> None:
        self.job = job

    def __call__(self) -> int:
        import submitit

        here = submitit.JobEnvironment()
        cores = os.environ.get("SLURM_CPUS_PER_TASK")
        if cores:
            self.job.environment.setdefault("OMP_NUM_THREADS", cores)
        signals = {"USR1": signal.SIGUSR1, "USR2": signal.SIGUSR2}
        return self.job.run(ranks_of(here), signals.get(here.USR_SIG))

    def checkpoint(self) -> Any:
        """Save the run, and submit it again; submitit calls this before the time limit and on preemption."""
        import submitit

        self.job.save()
        return submitit.helpers.DelayedSubmission(self)


def ranks_of(here: Any) -> dict[str, str]:
    """The variables that torchrun would set, from submitit's `JobEnvironment`; none for a single task."""
    if here.num_tasks == 1:
        return {}
    digits = "".join(sign for sign in here.job_id if sign.isdigit())
    return {
        "RANK": str(here.global_rank),
        "LOCAL_RANK": str(here.local_rank),
        "NODE_RANK": str(here.node),
        "WORLD_SIZE": str(here.num_tasks),
        "MASTER_ADDR": here.hostnames[0] if here.num_nodes > 1 else "127.0.0.1",
        "MASTER_PORT": str(FIRST_PORT + int(digits) % PORTS),
    }


class SlurmHandle:
    """A job that was submitted. `local`: on this machine."""

    def __init__(self, submitted: Any, local: bool) -> None:
        self.submitted, self.local = submitted, local
        self.why = ""

    @property
    def state(self) -> str:
        """queued or running."""
        return "queued" if self.submitted.state in PENDING else "running"

    def poll(self) -> int | None:
        """The exit code of the worst task; None while the job waits or runs; 1 with SLURM's state in `why`."""
        if not self.submitted.done():
            return None
        from submitit.core.utils import UncompletedJobError  # a FailedJobError is one

        try:
            return max(self.submitted.results(), key=abs)
        except UncompletedJobError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            self.why = f"job {self.submitted.job_id} ended as {self.submitted.state}: {lines[0] if lines else 'no reason given'}"
            return 1

    def stop(self, number: int) -> None:
        """Send SIGTERM, at which the run saves a checkpoint."""
        if self.local:  # submitit's cancel leaves the job one second only
            os.kill(int(self.submitted.job_id), signal.SIGTERM)
        else:
            self.submitted.cancel(check=False)

    def kill(self) -> None:
        """Cancel the job."""
        self.submitted.cancel(check=False)


class Submitit:
    """Launcher on the cluster "slurm", or "local". `nodes`, `tasks_per_node` and `gpus_per_node`, where null, come from a
    job's trainer.num_nodes, trainer.devices and accelerator; other parameters of SLURM are in `settings`."""

    def __init__(
        self,
        cluster: str,
        submitit_folder: str | None = None,
        array_parallelism: int = 256,
        nodes: int | None = None,
        tasks_per_node: int | None = None,
        gpus_per_node: int | None = None,
        max_num_timeout: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if cluster not in ("slurm", "local"):
            raise UserError(f"hydra.launcher.cluster={cluster}: slurm or local")
        if type(array_parallelism) is not int or array_parallelism < 1:
            raise UserError(f"hydra.launcher.array_parallelism={array_parallelism}: at least 1")
        self.cluster, self.folder, self.array_parallelism = cluster, submitit_folder, array_parallelism
        self.requested = {"nodes": nodes, "tasks_per_node": tasks_per_node, "gpus_per_node": gpus_per_node}
        self.max_num_timeout = max_num_timeout
        self.settings = {name: value for name, value in (settings or {}).items() if value is not None}
        self.at_once: int | None = array_parallelism
        self._name = ""
        self._handles: list[SlurmHandle] = []

    def prepare(self, jobs: Sequence[SweepJob], name: str) -> None:
        """UserError without submitit, and on a machine without SLURM's commands."""
        self._name = name
        self.folder = self.folder or str(common_folder(jobs) / ".submitit" / "%j")
        _submitit()
        if self.cluster == "slurm":
            from shutil import which

            if which("sbatch") is None or which("srun") is None:
                raise UserError(
                    "hydra/launcher=submitit_slurm: no sbatch and srun here; start the sweep on the cluster's login node, "
                    "or use hydra/launcher=parallel"
                )

    def begin(self, waiting: Sequence[SweepJob]) -> list[tuple[SweepJob, SlurmHandle]]:
        """Submit the waiting jobs, jobs of equal resources as one array."""
        self._handles = [handle for handle in self._handles if not handle.submitted.done()]
        room = len(waiting) if self.cluster == "slurm" else self.array_parallelism - len(self._handles)
        groups: dict[tuple[Any, ...], list[SweepJob]] = {}
        for job in waiting[: max(0, room)]:
            groups.setdefault(tuple(self.resources(job).values()), []).append(job)
        return [pair for group in groups.values() for pair in self._submit(group)]

    def close(self) -> None:
        """Do nothing: jobs are on other machines."""

    def elsewhere(self) -> set[int]:
        """No jobs: a job waits for the lock of its folder on its node."""
        return set()

    def resources(self, job: SweepJob) -> dict[str, int]:
        """The nodes, tasks per node (the ranks) and GPUs per node of a job."""
        own = {"nodes": job.config.trainer.num_nodes, "tasks_per_node": devices_of(job), "gpus_per_node": gpus_of(job)}
        if self.cluster == "local":  # one task, whose process starts the ranks
            own = {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0}
        return {name: own[name] if given is None else given for name, given in self.requested.items()}

    def executor(self, resources: Mapping[str, int]) -> Any:
        """Submitit's executor for jobs of these resources. UserError for settings it does not know."""
        submitit = _submitit()
        known = {name: value for name, value in self.settings.items() if name in GENERIC}
        rest = {f"slurm_{name}": value for name, value in self.settings.items() if name not in GENERIC}
        known.setdefault("name", self._name)
        executor = submitit.AutoExecutor(
            folder=self.folder, cluster=self.cluster, slurm_max_num_timeout=self.max_num_timeout
        )
        try:
            executor.update_parameters(**known, **resources, **rest, slurm_array_parallelism=self.array_parallelism)
        except (ValueError, NameError, TypeError) as error:
            raise UserError(f"hydra.launcher.settings: {' '.join(str(error).split())}") from error
        return executor

    def _submit(self, group: Sequence[SweepJob]) -> list[tuple[SweepJob, SlurmHandle]]:
        executor = self.executor(self.resources(group[0]))
        submitted = []
        with executor.batch():
            for job in group:
                environment = {SWEEP: self._name, DIFFERS: job.differs}
                cwd = Path.cwd()
                remote = RemoteJob(job.arguments, cwd / job.folder, cwd / job.log, cwd, environment)
                submitted.append(executor.submit(SlurmTask(remote)))
        handles = [SlurmHandle(one, self.cluster == "local") for one in submitted]
        self._handles += handles
        return list(zip(group, handles, strict=True))


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"this launcher needs submitit: {install('submitit')}") from error
    return submitit
