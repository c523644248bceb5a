"""Jobs of a sweep on a Ray cluster, or on this machine's own: Ray gives each its cores and GPUs.

Built on Ray's own API: the plugin of Hydra would run a job inside Ray's worker process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdlab.errors import UserError
from kdlab.runs.process import DIFFERS, SWEEP
from kdlab.sweeps.expansion import SweepJob
from kdlab.sweeps.launchers.local import devices_of, gpus_of
from kdlab.sweeps.launchers.remote import RemoteJob


def perform(job: RemoteJob) -> int:
    """Do a job in a worker of Ray's, which has set CUDA_VISIBLE_DEVICES to the job's GPUs; its exit code."""
    return job.run({})


class RayHandle:
    """A job that Ray has taken."""

    state, why = "running", ""

    def __init__(self, ray: Any, reference: Any) -> None:
        self.ray, self.reference = ray, reference

    def poll(self) -> int | None:
        ready, _ = self.ray.wait([self.reference], timeout=0)
        if not ready:
            return None
        try:
            return self.ray.get(self.reference)
        except self.ray.exceptions.RayError as error:  # also a cancelled one
            said = [line for line in str(error).splitlines() if line.strip()]
            self.why = f"Ray: {said[-1].strip() if said else type(error).__name__}"
            return 1

    def stop(self, number: int) -> None:
        self.ray.cancel(self.reference, force=False)  # as Ctrl-C in the worker

    def kill(self) -> None:
        self.ray.cancel(self.reference, force=True)


class Ray:
    """Jobs as Ray's tasks. `init` goes to `ray.init` (`address: auto` for a cluster that runs), `remote` to
    `ray.remote`: cores and GPUs a job; where it is silent, trainer.threads and trainer.devices count."""

    def __init__(self, init: Mapping[str, Any] | None = None, remote: Mapping[str, Any] | None = None) -> None:
        self.init, self.remote = dict(init or {}), dict(remote or {})
        self.at_once: int | None = None
        self._name = ""
        self._ray: Any = None

    def prepare(self, jobs: Sequence[SweepJob], name: str) -> None:
        self._name = name
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError('hydra/launcher=ray needs Ray: pip install "kdlab[ray]"') from error
        nodes = [job.config.trainer.num_nodes for job in jobs if job.config.trainer.num_nodes > 1]
        if nodes:
            raise UserError(
                f"trainer.num_nodes={nodes[0]}: Ray runs a job on one node; hydra/launcher=submitit_slurm on several"
            )
        self._ray = ray

    def begin(self, waiting: Sequence[SweepJob]) -> list[tuple[SweepJob, RayHandle]]:
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
            wanted = {
                "num_cpus": cores,
                "num_gpus": gpus_of(job) if self._gpus() else 0,
                "max_retries": 0,
                **self.remote,
            }
            environment = {
                SWEEP: self._name,
                DIFFERS: job.differs,
                "OMP_NUM_THREADS": str(max(1, int(wanted["num_cpus"]))),
            }
            if "PYTHONPATH" in os.environ:
                environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
            distant = RemoteJob(job.overrides, where / job.folder, where / job.log, where, environment)
            begun.append((job, RayHandle(self._ray, self._ray.remote(**wanted)(perform).remote(distant))))
        return begun

    def elsewhere(self) -> set[int]:
        return set()  # a job waits for the lock of its folder where it runs

    def _gpus(self) -> float:
        return self._ray.cluster_resources().get("GPU", 0)
