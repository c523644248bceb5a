"""Record a failed run in result.json, and stop all of its ranks.

When a rank dies, Lightning's own observer kills the first process too, so that nobody reports the reason. Here the first
process takes over the ranks it has started: it records the error of the dead rank in result.json and ends the others
within seconds. A rank passes its error on in a file of the run folder (`leave_error`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdlab.errors import UserError
from kdlab.runs import folders
from kdlab.runs.finished import add_warnings
from kdlab.runs.process import FOLDER, STARTER
from kdlab.runtime.signals import Stopped
from kdlab.storage.files import atomic_write_json, atomic_write_text

POLL = 0.5  # seconds between two checks of the other ranks
HANG_TIMEOUT = (
    10.0  # seconds in which the first process has to end by itself after a death: it may hang in a collective
)
DEATH_TIMEOUT = 20.0  # seconds that a rank whose connection is closed may take to end
SAVE_TIMEOUT = 5.0  # seconds that the other ranks may take to fail or stop by themselves


@contextmanager
def recorded_failure(
    folder: Path, identity: dict[str, Any], launcher: Any, world: int, main: bool
) -> Iterator[RankSupervisor]:
    """Write into result.json (with `identity`; on the `main` rank) how the block failed, if it fails; re-raise.

    The status is "preempted", with the signal and the step that was saved for it, or "failed", with the error. An error
    caused by the death of another rank becomes a UserError with that rank's error. `launcher` is Lightning's. A run whose
    result.json is finished stays finished: the failure is a warning in it, and is not raised.
    """

    def write(status: str, line: str, **more: Any) -> bool:
        """Record the failure; True if the run was finished before."""
        if not main:
            return False
        if folders.status(folder) == "finished":
            add_warnings(folder, [line])
            return True
        with suppress(UserError):  # a full disk must not hide the first error
            atomic_write_json(folder / "result.json", {"status": status, **more, **identity})
        return False

    def fail(message: str) -> None:
        write("failed", message, error=message)
        print(f"kdlab: {message}", flush=True)

    try:
        with RankSupervisor(launcher, world, folder, fail) as ranks:
            try:
                yield ranks
            except UserError:
                raise
            except SystemExit:  # Lightning raises it for Ctrl-C
                raise KeyboardInterrupt from None
            except Exception as error:
                if world > 1 and (message := ranks.wait_for_death(DEATH_TIMEOUT)):
                    raise UserError(message) from error
                raise
    except Stopped as stop:
        if not write("preempted", f"{stop.name} came after the end", signal=stop.name, step=stop.saved_at):
            raise
    except KeyboardInterrupt:
        if not write("preempted", "Ctrl-C came after the end", signal="Ctrl-C", step=None):
            raise
    except Exception as error:
        lines = (str(error) or type(error).__name__).splitlines()
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {lines[0]}"
        if not write("failed", text, error=text):
            raise


class RankSupervisor:
    """Watch the processes that `launcher` (Lightning's) starts for a run of `world` ranks, during a `with` block.

    A block that fails ends them all. Where the block still runs `HANG_TIMEOUT` seconds after the death of a rank, a
    thread calls `fail` with the message and exits the process.
    """

    def __init__(self, launcher: Any, world: int, folder: Path, fail: Callable[[str], None]) -> None:
        self.launcher, self.folder, self.fail = launcher, folder, fail
        self.started = world - 1 if hasattr(launcher, "procs") and "LOCAL_RANK" not in os.environ else 0
        self.processes: list[subprocess.Popen[bytes]] = []
        self.message: str | None = None  # of the first rank that died
        self._over = threading.Event()

    def __enter__(self) -> RankSupervisor:
        if self.started:
            for rank in range(1, self.started + 1):
                error_file(self.folder, rank).unlink(missing_ok=True)
            threading.Thread(target=self._watch, daemon=True, name="ranks").start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """After a failure, end the ranks that are still alive."""
        self._over.set()
        if kind is not None and self.started:
            self._take_over()
            at_once = isinstance(error, Stopped) and error.saved_at is None
            until = time.monotonic() + (0 if at_once else SAVE_TIMEOUT)
            while time.monotonic() < until and any(process.poll() is None for process in self.processes):
                time.sleep(0.05)
            self._kill()

    def dismiss(self) -> None:
        """Stop watching: the ranks have nothing left to do together, and their ends change no result."""
        self._over.set()

    def wait_for_death(self, seconds: float) -> str | None:
        """Wait at most `seconds` for the death of a rank; the message about the first one, or None."""
        until = time.monotonic() + (seconds if self.started else 0)
        while self.message is None and time.monotonic() < until:
            time.sleep(0.05)
        return self.message

    def _take_over(self) -> bool:
        """Move the processes out of Lightning's list, which ends its observer; True once they are here."""
        if not self.processes and len(self.launcher.procs) == self.started:
            self.processes = list(self.launcher.procs)
            self.launcher.procs.clear()
        return bool(self.processes)

    def _watch(self) -> None:
        while not self._over.is_set():
            if self._take_over():
                for rank, process in enumerate(self.processes, 1):
                    # the file as well: a rank that has failed may need seconds to end
                    if process.poll() or error_file(self.folder, rank).is_file():
                        self.message = self._message(rank, process.returncode or 0)
                        if not self._over.wait(HANG_TIMEOUT):
                            self.fail(self.message)
                            self._kill()
                            os._exit(2)
                        return
            time.sleep(POLL / 10 if not self.processes else POLL)

    def _message(self, rank: int, code: int) -> str:
        file = error_file(self.folder, rank)
        error = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
        file.unlink(missing_ok=True)
        if error:
            return f"rank {rank} failed: {error}"
        end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"rank {rank} {end}; the same command resumes from the last checkpoint"

    def _kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()


# ---- in the other ranks


def error_file(folder: Path, rank: int) -> Path:
    """The file in which a rank leaves its error for the first one."""
    return folder / f".rank-{rank}.error"


def is_child_rank() -> bool:
    """True in a rank that the first rank's process has started (not torchrun, SLURM or a user)."""
    return os.environ.get("LOCAL_RANK", "0") != "0" and FOLDER in os.environ


def leave_error(text: str) -> bool:
    """Leave the first line of an error for the first rank; False where this process has to print it itself."""
    if not is_child_rank():
        return False
    with suppress(Exception):
        file = error_file(Path(os.environ[FOLDER]), int(os.environ["LOCAL_RANK"]))
        atomic_write_text(file, text.splitlines()[0])
        return True
    return False


def end_with_starter() -> None:
    """In a rank that kdlab or torchrun has started: exit when the process that did so is gone, which nothing else does.

    kdlab's rank 0 names itself (`STARTER`), so that a death before this call is noticed too. torchrun does not: there a
    parent that is the machine's init counts as a death. Ranks of other origin (SLURM, a shell) are left alone.
    """
    if is_child_rank():
        starter = int(os.environ.get(STARTER) or os.getppid())
    elif "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ:
        starter = 0 if os.getppid() == 1 and not _is_python(1) else os.getppid()
    else:
        return

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(POLL)
        rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK")
        print(f"kdlab: the process that started rank {rank} is gone", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="starter").start()


def _is_python(process: int) -> bool:
    """True if a process is a Python interpreter of this user, such as torchrun as the first process of a container."""
    try:
        return Path(os.readlink(f"/proc/{process}/exe")).name.startswith("python")
    except OSError:
        return False
