"""`python -m kdlab.runtime.fork_server FD MODULE...`: import modules once, then fork a process for each request.

`kdlab.runtime.forked` starts this program and sends the requests. A process forked here begins with everything imported, and
is otherwise like one that was started by itself: a session, a folder, an environment and an output of its own, signals as at
the start of a program, shares of threads as its environment says, its own end (`sys.exit`, with all exit handlers).

The server touches no device and no thread pool: libraries that start threads when they are imported are told not to, and it
refuses to serve where a thread or a device is in use after all. It ends when its starter ends; its processes go on.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

READY = "ready"
HEADER, NUMBER = struct.Struct("!Q"), struct.Struct("!i")
# Set for the imports of the server alone: OpenBLAS and Arrow's allocator start threads when they are loaded
QUIET = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri")  # files that are open in a process that uses a GPU
_MOST_DESCRIPTORS = 16


@dataclass(frozen=True)
class Request:
    """A process to fork: `work` returns its exit code. `inherited`: environment variables, each with the number of one of the
    descriptors that come with the request, in their order."""

    work: Callable[[], int | None]
    environment: dict[str, str]
    cwd: str
    inherited: tuple[str, ...] = ()


def main(arguments: Sequence[str]) -> int | None:
    """Import the modules, then serve; in a forked process: do its work. Returns the exit code."""
    connection = socket.socket(fileno=int(arguments[0]))
    try:
        for name in arguments[1:]:
            importlib.import_module(name)
        reason = in_use()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    with suppress(OSError):
        connection.sendall(f"{reason or READY}\n".encode())
    if reason is not None:
        return 1
    gc.collect()
    gc.freeze()  # what is here is never garbage: forked processes need not look through it, nor copy its pages
    work = _Server(connection).serve()
    return 0 if work is None else work()


def in_use() -> str | None:
    """A thread or a device of this process, which a fork would break; None where there is none."""
    threads = [_name(task) for task in os.listdir("/proc/self/task") if int(task) != os.getpid()]
    if threads:
        return f"threads are running ({', '.join(sorted(threads))})"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "CUDA is initialised"
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if (name := os.readlink(f"/proc/self/fd/{number}")).startswith(DEVICES):
                return f"{name} is open"
    return None


def _name(task: str) -> str:
    with open(f"/proc/self/task/{task}/comm", encoding="utf-8") as file:
        return file.read().strip()


class _Server:
    """Forks a process for each request of `connection`, and reports its id and its exit code on the request's first
    descriptor, a pipe."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.reports: dict[int, int] = {}  # pipe by process
        self.woken, self.wake = os.pipe()
        for end in (self.woken, self.wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)

    def serve(self) -> Callable[[], int | None] | None:
        """None when the starter is gone; in a forked process: its work."""
        while True:
            for ready in select.select([self.connection, self.woken], [], [])[0]:
                if ready is self.woken:
                    with suppress(BlockingIOError):
                        os.read(self.woken, 4096)
                    self._reap()
                    continue
                given = self._receive()
                if given is None:
                    return None
                payload, descriptors = given
                if (process := os.fork()) == 0:
                    return self._become(payload, descriptors)
                self.reports[process] = descriptors[0]
                for descriptor in descriptors[1:]:
                    os.close(descriptor)

    def _receive(self) -> tuple[bytes, list[int]] | None:
        """A pickled request and its descriptors: the pipe, the output, and those to inherit."""
        header, descriptors, _, _ = socket.recv_fds(
            self.connection, HEADER.size, _MOST_DESCRIPTORS, socket.MSG_WAITALL | socket.MSG_CMSG_CLOEXEC
        )
        if len(header) < HEADER.size:
            return None
        payload, (size,) = bytearray(), HEADER.unpack(header)
        while len(payload) < size:
            if not (more := self.connection.recv(min(1 << 20, size - len(payload)))):
                return None
            payload += more
        return bytes(payload), descriptors

    def _reap(self) -> None:
        """Report the processes that have ended. What one has left in its group is killed before its id can be another's."""
        for process in list(self.reports):
            if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            report = self.reports.pop(process)
            with suppress(OSError):
                os.write(report, NUMBER.pack(code))
            os.close(report)

    def _become(self, payload: bytes, descriptors: list[int]) -> Callable[[], int | None]:
        """Make this forked process one of its own; its work."""
        report, output, *inherited = descriptors
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.write(report, NUMBER.pack(os.getpid()))  # now signals reach it, and it reads what it has to do
        self.connection.close()
        for descriptor in (report, output, self.woken, self.wake, *self.reports.values()):
            os.close(descriptor)
        request: Request = pickle.loads(payload)
        os.environ.clear()
        os.environ.update(request.environment)
        for name, descriptor in zip(request.inherited, inherited, strict=True):
            os.set_inheritable(descriptor, True)
            os.environ[name] = str(descriptor)
        os.chdir(request.cwd)
        share_threads()
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()  # else the same in each process; Python seeds its own
        return request.work


def share_threads() -> None:
    """Give this process the threads that the environment says: libraries have read their variables in the server."""
    cores, share = len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    threads = int(share) if share.isdigit() and int(share) > 0 else cores
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
    own = os.environ.get("OPENBLAS_NUM_THREADS", "")
    _share_openblas(int(own) if own.isdigit() and int(own) > 0 else min(threads, cores))


def _share_openblas(threads: int) -> None:
    with open("/proc/self/maps", encoding="utf-8") as file:
        loaded = {line.split(None, 5)[5].strip() for line in file if "openblas" in line}
    for path in loaded:
        with suppress(OSError):
            library: Any = ctypes.CDLL(path)
            for name in ("openblas_set_num_threads", "openblas_set_num_threads64_"):
                for prefix in ("", "scipy_"):
                    with suppress(AttributeError):
                        getattr(library, prefix + name)(threads)


if __name__ == "__main__":
    from kdlab.runtime import fork_server  # requests name the module's classes, not those of __main__

    sys.exit(fork_server.main(sys.argv[1:]))
