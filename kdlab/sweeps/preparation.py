"""The preparation that the jobs of a sweep share: one process with all cores, before the first job begins.

It is the sweep's own command line with `--prepare`, which `kdlab.sweeps.shared` answers.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdlab.errors import UserError
from kdlab.runtime.progress import readable_time
from kdlab.sweeps import job_logs
from kdlab.sweeps.display import Display
from kdlab.sweeps.expansion import Expansion, SweepJob, common_folder
from kdlab.sweeps.job_status import RunningPreparation, SweepStatus
from kdlab.sweeps.launchers.local import Local
from kdlab.sweeps.stopping import POLL, SAVE_TIMEOUT, StopSignals

LOG = "preparation.log"  # in the sweep's folder


def preparation_of(launcher: Any, whole: Expansion, jobs: Sequence[SweepJob]) -> SharedPreparation | None:
    """The preparation of what some jobs of a sweep share; None where they run on other machines, which prepare it themselves."""
    return SharedPreparation(launcher, whole.preparation, jobs) if isinstance(launcher, Local) else None


class SharedPreparation:
    """Makes what `jobs` share on `launcher`, by `command`, the arguments of `kdlab run`."""

    def __init__(self, launcher: Local, command: Sequence[str], jobs: Sequence[SweepJob]) -> None:
        self.launcher, self.command, self.jobs = launcher, list(command), jobs

    def run(self, stop: StopSignals, status: SweepStatus, display: Display) -> bool:
        """Make what is missing, if anything is; True if the jobs can begin. A failure is kept in `status`."""
        if not self._is_needed():
            return True
        log = common_folder(self.jobs) / LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        since = log.stat().st_size if log.exists() else 0
        status.preparation = RunningPreparation(log, since, time.monotonic())
        display.notify(f"preparing what the jobs share, with the whole machine; log in {log}")
        code = self._wait(stop, display, log)
        took = readable_time(time.monotonic() - status.preparation.began)
        status.preparation = None
        if stop.signal:
            return False
        if code:
            status.unprepared = f"{job_logs.first_error(log, since, code)}\n    log: {log}"
            return False
        display.notify(f"prepared in {took}")
        return True

    def _is_needed(self) -> bool:
        from kdlab.sweeps.shared import Sharing  # imports torch

        try:
            return bool(Sharing(self.jobs, lambda line: None).missing())
        except UserError:  # the preparation will report it
            return True

    def _wait(self, stop: StopSignals, display: Display, log: Path) -> int | None:
        """Run the process to its end; a signal is passed on once, a second one kills. Its exit code."""
        handle, deadline = None, float("inf")
        try:
            while handle is None and not stop.signal:
                handle = self.launcher.begin_preparation(self.command, log)
                time.sleep(0 if handle else POLL)
            while handle is not None and (code := handle.poll()) is None:
                display.tick()
                if stop.signal and deadline == float("inf"):
                    deadline, stop.times = time.monotonic() + SAVE_TIMEOUT, 0
                    name = signal.Signals(stop.signal).name
                    display.notify(f"{name}: stopping the preparation; a second signal ends it at once")
                    handle.stop(stop.signal)
                elif stop.signal and (stop.times or time.monotonic() > deadline):
                    handle.kill()
                time.sleep(POLL)
            return None if handle is None else code
        except BaseException:
            if handle is not None:
                handle.stop(signal.SIGTERM)
            raise
