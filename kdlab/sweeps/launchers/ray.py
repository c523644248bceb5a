"""Run jobs of a sweep as Ray tasks, on a cluster or on this machine: Ray assigns each its cores and GPUs.

This uses Ray's API: Hydra's Ray plugin would run a job inside Ray's worker process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdlab.errors import UserError, install
from kdlab.runs.process import DIFFERS, SWEEP
from kdlab.sweeps.expansion import SweepJob
from kdlab.sweeps.launchers.local import devices_of, gpus_of
from kdlab.sweeps.launchers.remote import RemoteJob


def perform(job: RemoteJob) -> int:
    """Run a job in a Ray worker, which has set CUDA_VISIBLE_DEVICES to the job's GPUs; its exit code."""
    return job.run({})


class RayHandle:
    """A job that was submitted to Ray."""

    state, why = "running", ""

    def __init__(self, ray: Any, reference: Any) -> None:
        self.ray, self.reference = ray, reference

    def poll(self) -> int | None:
        """The exit code; None while the job waits or runs; 1 with Ray's error in `why`."""
        ready, _ = self.ray.wait([self.reference], timeout=0)
        if not ready:
            return None
        try:
            return self.ray.get(self.reference)
        except self.ray.exceptions.RayError as error:  # also a cancelled one
            lines = [line for line in str(error).splitlines() if line.strip()]
            self.why = f"Ray: {lines[-1].strip() if lines else type(error).__name__}"
            return 1

    def stop(self, number: int) -> None:
        """Interrupt the job, as Ctrl-C does."""
        self.ray.cancel(self.reference, force=False)

    def kill(self) -> None:
        """Kill the worker."""
        self.ray.cancel(self.reference, force=True)


class Ray:
    """Launcher of Ray tasks. `init` are arguments of `ray.init` (`address: auto` for a running cluster), `remote` those of
    `ray.remote`: cores and GPUs per job, by default from trainer.threads and trainer.devices."""

    def __init__(self, init: Mapping[str, Any] | None = None, remote: Mapping[str, Any] | None = None) -> None:
        self.init, self.remote = dict(init or {}), dict(remote or {})
        self.at_once: int | None = None
        self._name = ""
        self._ray: Any = None

    def prepare(self, jobs: Sequence[SweepJob], name: str) -> None:
        """UserError without Ray, and for jobs on several nodes."""
        self._name = name
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(f"hydra/launcher=ray needs Ray: {install('ray')}") from error
        nodes = [job.config.trainer.num_nodes for job in jobs if job.config.trainer.num_nodes > 1]
        if nodes:
            raise UserError(
                f"trainer.num_nodes={nodes[0]}: Ray runs a job on one node; hydra/launcher=submitit_slurm on several"
            )
        self._ray = ray

    def begin(self, waiting: Sequence[SweepJob]) -> list[tuple[SweepJob, RayHandle]]:
        """Submit all waiting jobs."""
        if not waiting:
            return []
        if not self._ray.is_initialized():
            self._ray.init(
                **{"log_to_driver": False, "include_dashboard": False, "logging_level": "error", **self.init}
            )
        begun = []
        where = Path.cwd()
        for job in waiting:
            cores = (job.config.trainer.threads or 1) * devices_of(job)
            resources = {
                "num_cpus": cores,
                "num_gpus": gpus_of(job) if self._gpus() else 0,
                "max_retries": 0,
                **self.remote,
            }
            environment = {
                SWEEP: self._name,
                DIFFERS: job.differs,
                "OMP_NUM_THREADS": str(max(1, int(resources["num_cpus"]))),
            }
            if "PYTHONPATH" in os.environ:
                environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
            remote = RemoteJob(job.arguments, where / job.folder, where / job.log, where, environment)
            begun.append((job, RayHandle(self._ray, self._ray.remote(**resources)(perform).remote(remote))))
        return begun

    def close(self) -> None:
        """Do nothing: jobs are on other machines."""

    def elsewhere(self) -> set[int]:
        """No jobs: a job waits for the lock of its folder on the worker."""
        return set()

    def _gpus(self) -> float:
        return self._ray.cluster_resources().get("GPU", 0)
