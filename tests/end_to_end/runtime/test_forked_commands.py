"""The state in which a job begins that is forked from a server with everything imported."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from kdlab.runs import process
from kdlab.runtime import forked
from kdlab.runtime.forked import ForkServer

ROOT = str(Path(__file__).resolve().parents[3])


def describe() -> int:
    import torch

    begun = {"torch": torch.get_num_threads(), "cuda": torch.cuda.is_initialized()}
    loaded = [name for name in ("torch", "kdlab.runs.single", "wandb", "faiss") if name in sys.modules]
    before = len(os.listdir("/proc/self/task"))
    a = torch.randn(1200, 1200)
    (a @ a).add_(a).sum()
    threads = [before, len(os.listdir("/proc/self/task"))]
    print(json.dumps({**begun, "loaded": loaded, "threads": threads}))
    return 0


def test_nothing_is_in_use_when_a_job_begins_and_its_threads_are_those_of_its_environment(tmp_path):
    """Without OMP_NUM_THREADS, with which no library would start a pool when it is imported."""
    unset = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment = {**unset, "PYTHONPATH": ROOT}
    server = ForkServer(process.PRELOADED, environment)
    assert server.poll(None) == forked.SERVING, server.why
    assert (
        len(os.listdir(f"/proc/{server._process.pid}/task")) == 1
    )  # no thread, so no pool of torch's, OpenBLAS's, Arrow's
    found = []
    for share in ("1", "3"):
        with open(tmp_path / share, "wb") as output:
            begun = server.start(describe, {**environment, "OMP_NUM_THREADS": share}, output.fileno())
        assert begun.wait(60) == 0, (tmp_path / share).read_text()
        found.append(json.loads((tmp_path / share).read_text().splitlines()[-1]))
    assert len(os.listdir(f"/proc/{server._process.pid}/task")) == 1
    server.close()
    one, three = found
    assert one["torch"] == 1 and one["threads"] == [1, 1] and three["torch"] == 3 and three["threads"][1] > 2
    for job in found:
        assert not job["cuda"] and job["loaded"] == ["torch", "kdlab.runs.single"]
