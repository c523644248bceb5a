"""Start processes that are forked from one that has imported everything: the starter's side of `kdlab.runtime.fork_server`."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kdlab.runtime.fork_server import HEADER, NUMBER, QUIET, READY, Request

STARTING, SERVING, GONE = "starting", "serving", "gone"
POLL = 0.02  # seconds between two looks at a process that is waited for


def is_supported() -> bool:
    """True on systems where a process with libraries of compiled code may be forked: Linux."""
    return sys.platform == "linux"


class ForkServer:
    """A process that has imported the modules `preload` and forks processes, until it is closed or this process ends.

    `environment`: of its imports, by default this process's; a forked process gets one of its own.
    """

    def __init__(self, preload: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._connection, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self.state, self.why = STARTING, ""
        with theirs:
            self._process = start_server(
                theirs, preload, {**(os.environ if environment is None else environment), **QUIET}
            )

    def poll(self, seconds: float | None = 0.0) -> str:
        """The state: `STARTING` while it imports, `SERVING`, or `GONE`, with the reason in `why`. Waits at most `seconds` for
        the end of its imports (None: as long as they take)."""
        with self._lock:
            if self.state == STARTING and select.select([self._connection], [], [], seconds)[0]:
                said = self._line()
                self.state, self.why = (SERVING, "") if said == READY else (GONE, said or "it has ended")
            return self.state

    def _line(self) -> str:
        said = bytearray()
        with suppress(OSError):
            while (byte := self._connection.recv(1)) and byte != b"\n":
                said += byte
        return said.decode("utf-8", "replace")

    def start(
        self,
        work: Callable[[], int | None],
        environment: Mapping[str, str],
        output: int,
        cwd: Path | None = None,
        inherited: Mapping[str, int] | None = None,
    ) -> ForkedProcess:
        """Fork a process that calls `work`, which returns its exit code; waits until the server has imported everything.

        It leads a session of its own, writes to the descriptor `output`, and inherits descriptors, each named by the
        environment variable that has its number there. OSError where the server is gone.
        """
        if self.poll(None) == GONE:
            raise ConnectionError(f"no process can be forked: {self.why}")
        named = dict(inherited or {})
        request = Request(work, dict(environment), str(Path.cwd() if cwd is None else cwd), tuple(named))
        payload = pickle.dumps(request)
        reading, writing = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._connection, [HEADER.pack(len(payload))], [writing, output, *named.values()])
                self._connection.sendall(payload)
        except OSError as error:
            self.state, self.why = GONE, str(error)
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return ForkedProcess(reading)

    def close(self) -> None:
        """End the server; processes that it has forked go on."""
        self.state, self.why = GONE, self.why or "it was closed"
        self._connection.close()
        with suppress(OSError):
            self._process.kill()
        self._process.wait()


def start_server(
    connection: socket.socket, preload: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start the program, in a session of its own: signals of a terminal reach forked processes by their starter alone."""
    command = [sys.executable, "-m", "kdlab.runtime.fork_server", str(connection.fileno()), *preload]
    return subprocess.Popen(
        command, env=dict(environment), pass_fds=[connection.fileno()], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


class ForkedProcess:
    """A forked process, with the methods of `subprocess.Popen` that a starter of jobs uses. `pid` is also its group's id."""

    def __init__(self, report: int) -> None:
        self._report, self._lock = report, threading.Lock()
        self.returncode: int | None = None
        try:
            self.pid = NUMBER.unpack(os.read(report, NUMBER.size))[0]
        except Exception as error:
            os.close(report)
            raise ConnectionError("the fork server has ended before it forked a process") from error

    def poll(self) -> int | None:
        """The exit code, -N after signal N; None while the process runs.

        Where the server was killed, its code is unknown, and 1 when the process has ended."""
        with self._lock:
            if self.returncode is None and self._report >= 0 and select.select([self._report], [], [], 0)[0]:
                said = os.read(self._report, NUMBER.size)
                os.close(self._report)
                self._report = -1
                self.returncode = NUMBER.unpack(said)[0] if said else None
            if self.returncode is None and self._report < 0 and not _is_alive(self.pid):
                self.returncode = 1
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when the process has ended. TimeoutExpired after `timeout` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0)
            time.sleep(POLL)
        return code

    def kill(self) -> None:
        """Kill the process."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def _is_alive(process: int) -> bool:
    """True unless a process has ended; one that nobody has waited for yet has."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")
