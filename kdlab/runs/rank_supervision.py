"""The ranks of a run on one machine: when one dies, all end within seconds, with its error.

Lightning's own observer kills the first process as well, which then can tell nobody why. Here the first process takes
over the ranks it has started: it says what the dead one said, writes it into result.json, and ends the others.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdlab.runs.process import FOLDER
from kdlab.runtime.signals import Stopped
from kdlab.storage.files import atomic_write_text

PAUSE = 0.5  # seconds between two looks
PATIENCE = 10.0  # seconds that the first process has to notice a death by itself: it may hang in a collective


class OtherRanks:
    """Follows the processes that `launcher` (Lightning's) starts for a run of `world` ranks; used as a block.

    `last_words` is called with what is known of a dead rank when this process has to be ended from a thread.
    """

    def __init__(self, launcher: Any, world: int, folder: Path, last_words: Callable[[str], None]) -> None:
        self.launcher, self.folder, self.last_words = launcher, folder, last_words
        self.started = world - 1 if hasattr(launcher, "procs") and "LOCAL_RANK" not in os.environ else 0
        self.processes: list[subprocess.Popen[bytes]] = []
        self.sentence: str | None = None
        self._over = threading.Event()

    def __enter__(self) -> OtherRanks:
        if self.started:
            for rank in range(1, self.started + 1):
                error_of(self.folder, rank).unlink(missing_ok=True)
            threading.Thread(target=self._watch, daemon=True, name="ranks").start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Ranks that are still there after a failure are ended."""
        self._over.set()
        if kind is not None and self.started:
            self._take_over()
            alone = isinstance(error, Stopped) and error.saved_at is None
            until = time.monotonic() + (0 if alone else 5)  # they may be failing, or stopping, for the same reason
            while time.monotonic() < until and any(process.poll() is None for process in self.processes):
                time.sleep(0.05)
            self._end()

    def found(self, seconds: float) -> str | None:
        """What ended the first rank that died, waiting for that so long; None if none did."""
        until = time.monotonic() + (seconds if self.started else 0)
        while self.sentence is None and time.monotonic() < until:
            time.sleep(0.05)
        return self.sentence

    def _take_over(self) -> bool:
        """Whether the processes are ours: Lightning's observer ends when its list is empty."""
        if not self.processes and len(self.launcher.procs) == self.started:
            self.processes = list(self.launcher.procs)
            self.launcher.procs.clear()
        return bool(self.processes)

    def _watch(self) -> None:
        while not self._over.is_set():
            if self._take_over():
                for rank, process in enumerate(self.processes, 1):
                    # a rank that has failed may need seconds to end
                    if process.poll() or error_of(self.folder, rank).is_file():
                        self.sentence = self._why(rank, process.returncode or 0)
                        if not self._over.wait(PATIENCE):
                            self.last_words(self.sentence)
                            self._end()
                            os._exit(2)
                        return
            time.sleep(PAUSE / 10 if not self.processes else PAUSE)

    def _why(self, rank: int, code: int) -> str:
        file = error_of(self.folder, rank)
        said = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
        file.unlink(missing_ok=True)
        if said:
            return f"rank {rank} failed: {said}"
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"rank {rank} {how}; the same command goes on from the last checkpoint"

    def _end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()


def error_of(folder: Path, rank: int) -> Path:
    """Where a rank leaves its error for the first one to tell."""
    return folder / f".rank-{rank}.error"


def is_started_by_first() -> bool:
    """Whether the first rank's process has started this one (and not torchrun, SLURM or a user)."""
    return os.environ.get("LOCAL_RANK", "0") != "0" and FOLDER in os.environ


def leave_error(text: str) -> bool:
    """Leave an error's first line for the first rank; False if this process has to tell it itself."""
    if not is_started_by_first():
        return False
    file = error_of(Path(os.environ[FOLDER]), int(os.environ["LOCAL_RANK"]))
    with suppress(Exception):
        atomic_write_text(file, text.splitlines()[0])
        return True
    return False


def follow_parent() -> None:
    """End this process when the one that has started it is gone: nobody would end it otherwise."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PAUSE)
        print(f"kdlab: the process that started rank {os.environ.get('LOCAL_RANK')} is gone", file=sys.stderr)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()
