"""Faults in jobs of a sweep, which is run by `tests.support.runs.call` with one of these as `prepare`.

The fork server of the sweep's jobs is itself forked from the sweep's process: no imports to wait for, and faults are in place.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from kdlab.runtime import fork_server, forked
from kdlab.testing.fault_points import before_each

SWEEP = "KDLAB_TEST_SWEEP"  # an environment variable: the id of the sweep's process


class _Server:
    """A forked process in the place of `subprocess.Popen`."""

    def __init__(self, serve: Callable[[], int | None]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os._exit(serve() or 0)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        os.waitpid(self.pid, 0)


class ForkedJobs:
    """Have a sweep fork its jobs from itself. `traps`: what the job with an override does first."""

    def __init__(self, traps: Mapping[str, Callable[[], None]] | None = None) -> None:
        self.traps = dict(traps or {})

    def __call__(self) -> None:
        from kdlab import run

        os.environ[SWEEP] = str(os.getpid())
        main = run.main

        def trapped(argv: Sequence[str]) -> int:
            for name, trap in self.traps.items():
                if os.getpid() != int(os.environ[SWEEP]) and set(name.split(",")) <= set(argv):
                    trap()
            return main(argv)

        def start(connection: socket.socket, preload: Sequence[str], environment: Mapping[str, str]) -> _Server:
            def serve() -> int | None:
                for number in map(int, os.listdir("/proc/self/fd")):
                    with suppress(OSError):  # the sweep's own end: the server ends when that is closed
                        if number != connection.fileno() and os.readlink(f"/proc/self/fd/{number}").startswith(
                            "socket:"
                        ):
                            os.close(number)
                return fork_server.main([str(os.dup(connection.fileno()))])

            return _Server(serve)

        run.main = trapped  # pyright: ignore
        forked.start_server = start  # pyright: ignore


class FailAt:
    """An exception of the training, when it has done `step` optimizer steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self) -> None:
        def fail(module):
            if module.trainer.global_step == self.step:
                raise RuntimeError("boom")

        before_each("training_step", fail)


class InterruptSweepAt:
    """A signal for the sweep, when one of its jobs has done `step` optimizer steps; the job waits until it gets one too."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def __call__(self) -> None:
        import time

        came: list[int] = []

        def interrupt(module):
            if module.trainer.global_step == self.step:
                handler = signal.getsignal(self.number)

                def note(number, frame):
                    came.append(number)
                    if callable(handler):
                        handler(number, frame)

                signal.signal(self.number, note)
                os.kill(int(os.environ[SWEEP]), self.number)
                while not came:
                    time.sleep(0.02)

        before_each("training_step", interrupt)
