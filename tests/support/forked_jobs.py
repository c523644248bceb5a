"""Jobs of a sweep as forks of the process that runs it: no imports to wait for. For `prepare` of `tests.support.runs.call`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kdlab.testing.fault_points import before_each


class Forked:
    """A forked job with the interface of `kdlab.runs.process.spawn`'s result."""

    def __init__(
        self, work: Callable[[], int], environment: Mapping[str, str], output: int, where: Path | None
    ) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.setsid()
                os.environ.clear()
                os.environ.update(environment)
                for number in (signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for stream in (1, 2):
                    os.dup2(output, stream)
                os.chdir(where or Path.cwd())
                code = work()
                sys.stdout.flush()
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class ForkedJobs:
    """Have a sweep fork its jobs. `traps`: what the job with an override does first."""

    def __init__(self, traps: Mapping[str, Callable[[], None]] | None = None) -> None:
        self.traps = dict(traps or {})

    def __call__(self) -> None:
        from kdlab.run import main
        from kdlab.runs import process

        def spawn(
            overrides: Sequence[str], environment: Mapping[str, str], held: Sequence[int], output: int,
            where: Path | None = None,
        ) -> Forked:  # fmt: skip
            def work() -> int:
                for name, trap in self.traps.items():
                    if set(name.split(",")) <= set(overrides):
                        trap()
                return main(list(overrides))

            return Forked(work, environment, output, where)

        process.spawn = spawn  # pyright: ignore


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
                os.kill(os.getppid(), self.number)
                while not came:
                    time.sleep(0.02)

        before_each("training_step", interrupt)
