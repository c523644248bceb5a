"""Processes forked by a server: as isolated as those that are started by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from kdlab.runtime import fork_server, forked
from kdlab.runtime.forked import ForkedProcess, ForkServer

ROOT = str(Path(__file__).resolve().parents[3])


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    made = ForkServer([], {**os.environ, "PYTHONPATH": ROOT})
    assert made.poll(None) == forked.SERVING
    yield made
    made.close()


def describe() -> int:
    print(os.getcwd(), sorted(os.environ), os.getpid() == os.getsid(0) == os.getpgrp(), sys.stdin.read() == "")
    print([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)], file=sys.stderr)
    print(os.read(int(os.environ["HELD"]), 4), len(os.listdir("/proc/self/task")))
    return 7


def raise_error() -> int:
    raise RuntimeError("boom")


def leave() -> int:
    sys.exit("bye")


def sleep() -> int:
    print("here", flush=True)
    time.sleep(60)
    return 0


def leave_a_child() -> int:
    child = subprocess.Popen(["sleep", "60"])
    print(child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def started(server: ForkServer, folder: Path, work: Callable[[], int], **more) -> tuple[ForkedProcess, Path]:
    log = folder / "log"
    with open(log, "wb") as output:
        return server.start(work, {"A": "1"}, output.fileno(), folder, **more), log


def wait_for(seen: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < until
        time.sleep(0.01)


def is_alive(process: int) -> bool:
    return forked._is_alive(process)


def test_a_forked_process_has_its_own_session_folder_environment_and_descriptors(server, tmp_path, monkeypatch):
    monkeypatch.setenv("NOT_FOR_JOBS", "1")
    reading, writing = os.pipe()
    os.write(writing, b"held")
    process, log = started(server, tmp_path, describe, inherited={"HELD": reading})
    os.close(reading)
    assert process.wait(20) == 7 == process.returncode
    os.close(writing)
    said = log.read_text()
    assert f"{tmp_path} ['A', 'HELD'] True True" in said and "b'held' 1" in said
    assert "default_int_handler" in said and said.count("SIG_DFL") == 2


@pytest.mark.parametrize(("work", "code", "said"), [(raise_error, 1, "RuntimeError: boom"), (leave, 1, "bye")])
def test_it_ends_as_a_program_does(work, code, said, server, tmp_path):
    process, log = started(server, tmp_path, work)
    assert process.wait(20) == code and log.read_text().splitlines()[-1] == said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_reach_its_group_and_it_dies_of_them(number, server, tmp_path):
    process, log = started(server, tmp_path, sleep)
    wait_for(lambda: log.read_text() == "here\n")
    assert process.poll() is None
    os.killpg(process.pid, number)
    assert process.wait(20) == -number
    assert (number == signal.SIGINT) == ("KeyboardInterrupt" in log.read_text())


def test_what_a_killed_process_has_started_is_killed(server, tmp_path):
    process, log = started(server, tmp_path, leave_a_child)
    assert process.wait(20) == -signal.SIGKILL
    wait_for(lambda: not is_alive(int(log.read_text())))


def test_a_process_outlives_its_server_and_no_other_is_forked_then(tmp_path):
    server = ForkServer([], {**os.environ, "PYTHONPATH": ROOT})
    process, log = started(server, tmp_path, sleep)
    os.kill(server._process.pid, signal.SIGKILL)
    wait_for(lambda: server._process.poll() is not None)
    with pytest.raises(OSError, match=r"."):
        started(server, tmp_path, sleep)
    assert server.poll() == forked.GONE and process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(20) == 1  # its code is unknown
    server.close()


STARTER = """
import os, sys
from pathlib import Path
from kdlab.runtime.forked import ForkServer
from tests.unit.runtime.test_fork_server import sleep
server = ForkServer([])
with open(sys.argv[1], "wb") as output:
    job = server.start(sleep, {"PYTHONPATH": os.environ["PYTHONPATH"]}, output.fileno())
print(server._process.pid, job.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_server_ends_with_its_starter_and_the_processes_go_on(tmp_path):
    command = [sys.executable, "-c", STARTER, str(tmp_path / "log")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True, check=False)
    server, job = map(int, done.stdout.split())
    wait_for(lambda: not is_alive(server))
    assert is_alive(job)
    os.killpg(job, signal.SIGKILL)


def test_a_process_with_threads_or_a_device_does_not_fork(monkeypatch):
    assert len(os.listdir("/proc/self/task")) > 1 or fork_server.in_use() is None
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert "threads are running" in str(fork_server.in_use())
    over.set()
    thread.join()
    import torch

    monkeypatch.setattr(fork_server.os, "listdir", lambda path: [])
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert fork_server.in_use() == "CUDA is initialised"


def test_a_module_that_cannot_be_imported_is_named():
    server = ForkServer(["no_such_module"], {**os.environ, "PYTHONPATH": ROOT})
    assert server.poll(None) == forked.GONE and "no_such_module" in server.why
    with pytest.raises(ConnectionError, match="no_such_module"):
        server.start(partial(print), {}, 1)
    server.close()
