"""Runs for tests: the command line in a fresh child process (`kdlab.testing.child_process`), and faults injected into it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdlab.testing.child_process import (  # noqa: F401
    PRELOADED,
    TINY,
    TINY_TASK,
    ChildResult,
    call,
    forked,
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


def in_fork(module: str, arguments: Sequence[str], folder: Path) -> ChildResult:
    """`python -m MODULE ARGUMENTS` in `folder`, forked from a process that has imported everything."""
    log = folder / f"log-{len(list(folder.glob('log-*')))}.txt"
    code = forked(partial(_main_of, module, list(arguments)), {}, log, folder).wait(120)
    return ChildResult(code, log.read_text())


def _main_of(module: str, arguments: Sequence[str]) -> int:
    code = importlib.import_module(module).main(list(arguments))
    sys.stdout.flush()
    os._exit(code)


def assert_same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Two outcomes of runs are equal, part by part."""
    assert found.keys() == wanted.keys()
    for part in wanted:
        assert found[part] == wanted[part], part


def assert_resumed(given: Sequence[str], folder: Path, whole: Path, *kills: tuple[int, str]) -> str:
    """A run in `folder`/run that is killed at these steps ends as the run in `whole`, bit for bit; its last output."""
    for step, when in kills:
        assert call(given, folder, KillAt(step, when)).code == -9
    done = call(given, folder)
    assert done.code == 0 and "resuming the unfinished run" in done.output, done.output
    assert_same(outcome(folder / "run"), outcome(whole))
    return done.output


def on_two_ranks(given: Sequence[str], folder: Path, *more: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results of a run on one process and of the same on two ranks, whose settings are `more` beside half a batch each;
    their students are equal but for the last bits of floating point."""
    import numpy as np
    import safetensors.torch

    one = call([*given, "hydra.run.dir=one"], folder)
    assert one.code == 0, one.output
    ranks = [*(o for o in given if "batch_size" not in o), "data.batch_size=8", "trainer.devices=2", *more]
    two = call([*ranks, "hydra.run.dir=two"], folder, ranks=2, trapped=0)
    assert two.code == 0, two.output
    a, b = (safetensors.torch.load_file(folder / n / "student" / "model.safetensors") for n in ("one", "two"))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name].numpy(), b[name].numpy(), atol=2e-4, err_msg=name)
    left, right = (json.loads((folder / n / "result.json").read_text()) for n in ("one", "two"))
    return left, right


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
