"""The command line in a fresh child process that has imported everything already; small runs for it.

Importing torch and its friends takes seconds, a tiny run half of one; a fork server pays for the imports once.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kdlab.runs import process
from kdlab.runtime.forked import ForkedProcess, ForkServer
from kdlab.storage import tables

PRELOADED = list(process.PRELOADED)

TINY = [
    "+exp=adads_pretrain", "student.layers=[0,2]", "data.max_length=32", "data.batch_size=16", "data.heldout_rows=16",
    "data.heldout=0.1", "trainer.max_steps=8", "trainer.checkpoint_every=3", "trainer.evaluate_every=4",
    "trainer.probes=2", "trainer.measure_speed=false", "trainer.threads=1", "trainer.precision=32-true", "select.interval=1",
    "select.evaluation_rows=8", "select.ratio=0.25", "optim.lr=1e-3", "figures=false",
]  # fmt: skip


TINY_TASK = [
    "+exp=adads_finetune", "student.layers=2", "student.start=backbone", "student.dropout=0.0", "data.max_length=32", "data.batch_size=16",
    "data.heldout_rows=16", "trainer.max_steps=8", "trainer.checkpoint_every=3", "trainer.evaluate_every=4",
    "trainer.probes=2", "trainer.measure_speed=false", "trainer.threads=1", "select.interval=1",
    "select.evaluation_rows=8", "select.ratio=0.25", "optim.lr=1e-3", "teachers.finetune.max_steps=40",
    "teachers.finetune.batch_size=32", "teachers.finetune.lr=5e-3", "teachers.finetune.dropout=0.0", "no_kd_baseline=false", "trainer.precision=32-true",
    "teachers.finetune.precision=32-true", "figures=false",
]  # fmt: skip


TINY_CAUSAL = [
    "+exp=causal_pretrain", "student.layers=[0,2]", "student.freeze=[]", "data.max_length=64", "data.batch_size=16",
    "data.heldout_rows=16", "data.heldout=0.1", "trainer.max_steps=8", "trainer.checkpoint_every=3", "trainer.evaluate_every=4",
    "trainer.probes=2", "trainer.measure_speed=false", "trainer.threads=1", "trainer.precision=32-true", "select.interval=1",
    "select.evaluation_rows=8", "select.ratio=0.25", "optim.lr=1e-3", "figures=false",
]  # fmt: skip


def tiny_causal(teacher: Path, text: Path, *more: str) -> list[str]:
    """A command line of a run of seconds of a decoder; `more` overrides it (the last value of a key counts)."""
    return _last([*TINY_CAUSAL, f"teachers.path={teacher}", f"data.path={text}", *more])


def tiny_task(teacher: Path, rows: Path, *more: str) -> list[str]:
    """A command line of a run of seconds on labelled rows; `more` overrides it (the last value of a key counts)."""
    return _last([*TINY_TASK, f"teachers.path={teacher}", f"data.path={rows}", *more])


def tiny(teacher: Path, text: Path, *more: str) -> list[str]:
    """A command line of a run of seconds; `more` overrides it (the last value of a key counts)."""
    return _last([*TINY, f"teachers.path={teacher}", f"data.path={text}", *more])


def _last(given: list[str]) -> list[str]:
    keys = [override.split("=", 1)[0] for override in given]
    return [override for i, override in enumerate(given) if keys[i] not in keys[i + 1 :]]


_STARTING = threading.Lock()
_servers: list[ForkServer] = []
_environment: dict[str, str] = {}
_PORTS = itertools.count(os.getpid() * 101)


@dataclass
class ChildResult:
    """Exit code and output (stdout and stderr) of a child process."""

    code: int
    output: str


def forked(work: Callable[[], int | None], environment: Mapping[str, str], log: Path, folder: Path) -> ForkedProcess:
    """A process that is forked from one that has imported all of `PRELOADED`, and calls `work`, which can be pickled, in `folder`.

    Its environment is that of the first call, without the process of W&B that may have been started since, and `environment`.
    """
    with _STARTING:
        if not _servers:
            paths = os.pathsep.join(path for path in sys.path if path)
            _servers.append(ForkServer(PRELOADED, {**os.environ, "PYTHONPATH": paths}))
            atexit.register(_servers[0].close)
            _environment.update(
                {name: value for name, value in os.environ.items() if not name.startswith("WANDB_SERVICE")}
            )
    with open(log, "ab") as output:
        return _servers[0].start(work, {**_environment, **environment}, output.fileno(), folder)


def _command(arguments: Sequence[str], prepare: Callable[[], None] | None) -> int:
    """Run the command line in this process, after `prepare`, and end it at once."""
    if prepare is not None:
        prepare()
    code = process.run_command(arguments)
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
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"log-{len(list(folder.glob('log-*')))}.txt"
    processes = []
    port = str(free_port())
    for rank in range(ranks):
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
        work = partial(_command, list(arguments), prepare if rank == trapped % ranks else None)
        processes.append(forked(work, environment if ranks > 1 else {}, log, folder))
    until = time.monotonic() + timeout
    failed = 0.0
    while None in (codes := [one.poll() for one in processes]) and time.monotonic() < until:
        if any(codes):
            failed = failed or time.monotonic()
            if time.monotonic() >= failed + grace:
                for one in processes:
                    one.kill()
        time.sleep(0.02)
    late = None in codes
    for one in processes:
        one.kill()  # what it leaves in its group is killed with it
    codes = [one.wait() for one in processes]
    if late:
        raise AssertionError(f"still running after {timeout} s:\n{log.read_text()}")
    # a rank whose peer was killed may see that and fail before it is killed too: the kill is what counts
    return ChildResult(min(codes) if min(codes) < 0 else max(codes), log.read_text() if log.exists() else "")


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
