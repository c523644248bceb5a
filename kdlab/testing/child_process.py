"""The command line in a fresh child process that has imported everything already; small runs for it.

Importing torch and its friends takes seconds, a tiny run half of one; a fork server pays for the imports once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import pkgutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from kdlab.storage import tables

PRELOADED = [
    "datasets", "matplotlib.backends.backend_agg", "transformers.models.bert.modeling_bert", "kdlab.runs.single", "kdlab.run",
    "kdlab.testing.warmed",
]  # fmt: skip

COMMAND = "kdlab.run:main"  # resolved by its name: this package imports no command

TINY = [
    "+exp=adads_pretrain", "student.layers=[0,2]", "data.max_length=32", "data.batch_size=16", "data.heldout_rows=16",
    "data.heldout=0.1", "trainer.max_steps=8", "trainer.checkpoint_every=3", "trainer.evaluate_every=4",
    "trainer.probes=2", "trainer.measure_speed=false", "trainer.threads=1", "select.interval=1",
    "select.evaluation_rows=8", "select.ratio=0.25", "optim.lr=1e-3", "figures=false",
]  # fmt: skip


TINY_TASK = [
    "+exp=adads_finetune", "student.layers=2", "student.dropout=0.0", "data.max_length=32", "data.batch_size=16",
    "data.heldout_rows=16", "trainer.max_steps=8", "trainer.checkpoint_every=3", "trainer.evaluate_every=4",
    "trainer.probes=2", "trainer.measure_speed=false", "trainer.threads=1", "select.interval=1",
    "select.evaluation_rows=8", "select.ratio=0.25", "optim.lr=1e-3", "teachers.finetune.max_steps=40",
    "teachers.finetune.batch_size=32", "teachers.finetune.lr=5e-3", "teachers.finetune.dropout=0.0", "no_kd_baseline=false", "trainer.precision=32-true",
    "teachers.finetune.precision=32-true", "figures=false",
]  # fmt: skip


def tiny_task(teacher: Path, rows: Path, *more: str) -> list[str]:
    """A command line of a run of seconds on labelled rows; `more` overrides it (the last value of a key counts)."""
    return _last([*TINY_TASK, f"teachers.path={teacher}", f"data.path={rows}", *more])


def tiny(teacher: Path, text: Path, *more: str) -> list[str]:
    """A command line of a run of seconds; `more` overrides it (the last value of a key counts)."""
    return _last([*TINY, f"teachers.path={teacher}", f"data.path={text}", *more])


def _last(given: list[str]) -> list[str]:
    keys = [override.split("=", 1)[0] for override in given]
    return [override for i, override in enumerate(given) if keys[i] not in keys[i + 1 :]]


# two threads that ask a fork server's child for its exit code at once may both read it, and one gets 255
_PROCESSES = threading.Lock()
_PORTS = itertools.count(os.getpid() * 101)


@dataclass
class ChildResult:
    """Exit code and output (stdout and stderr) of a child process."""

    code: int
    output: str


def _child(
    arguments: Sequence[str], folder: str, log: str, prepare: Callable[[], None] | None, environment: dict[str, str]
) -> None:
    os.setsid()  # a group of its own, so that its loader processes end with it
    multiprocessing.set_start_method("fork", force=True)  # as in a command; a fork server's children have fork servers
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith("WANDB_SERVICE")]:
        del os.environ[name]  # W&B's process of whoever started the fork server
    os.environ.update(environment)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if prepare is not None:
        prepare()
    code = pkgutil.resolve_name(COMMAND)(list(arguments))
    sys.stdout.flush()
    os._exit(code)


def call(
    arguments: Sequence[str],
    folder: Path,
    prepare: Callable[[], None] | None = None,
    timeout: float = 120,
    ranks: int = 1,
    trapped: int = -1,
    grace: float = 0.0,
) -> ChildResult:
    """`python -m kdlab.run ARGUMENTS` in `folder`; `prepare` runs first in the rank `trapped`, by default the last (it may inject a fault).

    Several `ranks` are started as torchrun would start them. When one fails, the others are killed after `grace` seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"log-{len(list(folder.glob('log-*')))}.txt"
    processes = []
    port = str(free_port())
    for rank in range(ranks):
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
        given = (list(arguments), str(folder), str(log), prepare if rank == trapped % ranks else None)
        processes.append(context.Process(target=_child, args=(*given, environment if ranks > 1 else {})))
    with _PROCESSES:
        for process in processes:
            process.start()
    until = time.monotonic() + timeout
    failed = 0.0
    while None in _codes(processes) and time.monotonic() < until:
        if any(_codes(processes)):
            failed = failed or time.monotonic()
            if time.monotonic() >= failed + grace:
                for process in processes:
                    process.kill()
        time.sleep(0.02)
    late = None in _codes(processes)
    for process in processes:
        process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # pyright: ignore[reportArgumentType]
    while None in _codes(processes):
        time.sleep(0.02)
    if late:
        raise AssertionError(f"still running after {timeout} s:\n{log.read_text()}")
    codes = [code or 0 for code in _codes(processes)]
    # a rank whose peer was killed may see that and fail before it is killed too: the kill is what counts
    return ChildResult(min(codes) if min(codes) < 0 else max(codes), log.read_text() if log.exists() else "")


def _codes(processes: Sequence[BaseProcess]) -> list[int | None]:
    """Exit codes, None of what still runs."""
    with _PROCESSES:
        return [process.exitcode for process in processes]


def free_port() -> int:
    """A port of this machine that nobody listens on, and that no other call in this process was given."""
    while True:
        port = 20_000 + next(_PORTS) % 12_000  # below those that the system gives to whoever asks for any
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


def outcome(folder: Path) -> dict[str, Any]:
    """The reproducible part of a run: weights, selector.csv, knowledge.csv, metrics, caveats, ledger, without seconds."""
    import safetensors.torch

    result = json.loads((folder / "result.json").read_text())
    ledger = {name: result["ledger"][name] for name in ("teacher_queries", "flops", "rows_seen")}
    metrics = [{k: v for k, v in row.items() if k != "seconds"} for row in tables.read(folder / "metrics.csv")]
    weights = safetensors.torch.load_file(folder / "student" / "model.safetensors")
    return {
        "status": result["status"],
        "ledger": ledger,
        "scores": result["metrics"],
        "caveats": result.get("caveats", []),
        "selector": (folder / "selector.csv").read_text(),
        "knowledge": (folder / "knowledge.csv").read_text() if (folder / "knowledge.csv").exists() else "",
        "metrics": metrics,
        "student": {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
    }
