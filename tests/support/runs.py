"""Runs for tests: the command line in a fresh child process (`kdlab.testing.child_process`), and faults injected into it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdlab.testing.child_process import (  # noqa: F401
    PRELOADED,
    TINY,
    TINY_TASK,
    ChildResult,
    call,
    outcome,
    tiny,
    tiny_causal,
    tiny_task,
)
from kdlab.testing.fault_points import before_each

PRELOADED[-1:-1] = ["faiss", "tests.conftest", "tests.support.runs"]  # before the last, which fills caches


def command(arguments: Sequence[str], folder: Path, module: str = "kdlab.run", timeout: float = 180) -> ChildResult:
    """The command as a user types it, in a process of its own group, which is ended with all its children."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return ChildResult(process.returncode, output)


class KillAt:
    """SIGKILL this process when the training has done `step` optimizer steps: "end" of a step, or "start" of the next."""

    def __init__(self, step: int, when: str = "end") -> None:
        self.step, self.when = step, when

    def __call__(self) -> None:
        name = "on_train_batch_end" if self.when == "end" else "training_step"

        def kill(module: Any) -> None:
            if module.trainer.global_step == self.step:
                os.kill(os.getpid(), signal.SIGKILL)

        before_each(name, kill)


class CtrlCAt:
    """Ctrl-C (SIGINT) when the training has done `step` optimizer steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

        def interrupt(module: Any) -> None:
            if module.trainer.global_step == self.step:
                os.kill(os.getpid(), signal.SIGINT)

        before_each("training_step", interrupt)


def run_folder(folder: Path, name: str = "adads_pretrain") -> Path:
    """The one run below `folder`/outputs/`name`."""
    (found,) = (folder / "outputs" / name).iterdir()
    return found


class Hurried:
    """More than a minute passes between any two reads of the clock of `kdlab.runtime.progress`."""

    def __call__(self) -> None:
        import itertools

        from kdlab.runtime import progress

        seconds = itertools.count(0.0, 61.0)
        progress.clock = lambda: next(seconds)
