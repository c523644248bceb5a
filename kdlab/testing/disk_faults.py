"""Disks that fill up, become read-only or forbidden, and checkpoints that are damaged (`kdlab.testing.fault_lab`).

Each function causes one kind of fault in tiny runs and returns how often, and how often something was not as promised.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlab.storage import checkpoints
from kdlab.testing.child_process import outcome
from kdlab.testing.fault_lab import FaultLab, FaultResult, one_line, record_outcome
from kdlab.testing.fault_points import FaultAt, SendSignal


def full_disks(lab: FaultLab, sizes: int = 8) -> FaultResult:
    """The disk fills up at different moments of preparation, training and the end; then it is made larger."""
    summary = FaultResult()
    needed = sum(file.stat().st_size for file in lab.artifacts.parent.rglob("*") if file.is_file())
    for number in range(sizes):
        folder = lab.folder / f"disk-{number}"
        size = max(64_000, round(needed * (number + 0.5) / sizes))
        with mounted(folder, size) as worked:
            if not worked:
                summary.notes.append("mounting a tmpfs is not permitted here: no disk was filled")
                return summary
            done = lab.run(folder)
            if done.code == 0:  # it was large enough
                continue
            fine = one_line(done, "no space left") and _last_good(folder)
            subprocess.run(["mount", "-o", f"remount,size={needed * 4}", str(folder)], check=True)
            record_outcome(summary, lab, folder, fine, f"a disk of {size} bytes", done)
    return summary


def read_only(lab: FaultLab) -> FaultResult:
    """The file system becomes read-only, or the checkpoints' folder forbidden, in the middle of the training."""
    summary = FaultResult()
    folder = lab.new_folder()
    with mounted(folder / "run", 500_000_000) as worked:
        if worked:
            done = lab.run(folder, prepare=FaultAt(5, MakeReadOnly(folder / "run")))
            fine = one_line(done, "read-only") and _last_good(folder)
            if os.statvfs(folder / "run").f_flag & os.ST_RDONLY:
                subprocess.run(["umount", str(folder / "run")], check=True)
            record_outcome(summary, lab, folder, fine, "a read-only file system", done)
    folder = lab.new_folder()
    done = lab.run(folder, prepare=FaultAt(5, Forbid(folder / "run" / "checkpoints")))
    os.chmod(folder / "run" / "checkpoints", 0o755)
    record_outcome(summary, lab, folder, one_line(done, "no permission") and _last_good(folder), "no permission", done)
    return summary


@dataclass
class MakeReadOnly:
    """Mount a folder read-only over itself.

    The kernel refuses to remount a file system in which a file is open for writing, such as the lock of a run folder. A
    second mount has no open file.
    """

    folder: Path

    def __call__(self) -> None:
        subprocess.run(["mount", "--bind", str(self.folder), str(self.folder)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(self.folder)], check=True)


@dataclass
class Forbid:
    """Take the right to write into a folder, also from root."""

    folder: Path

    def __call__(self) -> None:
        os.chmod(self.folder, 0o500)
        if os.geteuid() == 0:  # version 3 of the call, this process, no capability left
            header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
            assert ctypes.CDLL(None).capset(header, none) == 0


class mounted:
    """A tmpfs of `size` bytes in `folder` during the block; False where mounting is not permitted."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size, self.worked = folder, size, False

    def __enter__(self) -> bool:
        self.folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", str(self.folder)]
        self.worked = (
            bool(shutil.which("mount")) and subprocess.run(command, capture_output=True, check=False).returncode == 0
        )
        return self.worked

    def __exit__(self, *_: Any) -> None:
        if self.worked:
            # lazily: a process of another fault, started in between, may hold it for a moment
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def _last_good(folder: Path) -> bool:
    """No checkpoint there is damaged."""
    named: list[str] = []
    checkpoints.newest_valid(folder / "run" / "checkpoints", named.append)
    return not named


def damaged(lab: FaultLab) -> FaultResult:
    """The newest checkpoint, or both, are damaged while nothing runs: named, the one before is used."""
    summary = FaultResult()
    stopped = lab.new_folder()
    lab.run(stopped, prepare=FaultAt(8, SendSignal(signal.SIGKILL)))
    for name, damage in lab.cases(DAMAGES.items()):
        for both in lab.cases((True, False)):
            folder = lab.folder / f"damaged-{name}-{both}"
            shutil.copytree(stopped, folder)
            files = sorted((folder / "run" / "checkpoints").glob("*.ckpt"), reverse=True)
            for file in files[: 2 if both else 1]:
                damage(file)
            summary.injected += 1
            done = lab.run(folder)
            named = sum(f"{file.name} is damaged" in done.output for file in files)
            ended = outcome(folder / "run") if done.code == 0 else {}
            if named != 1 + both or any(ended.get(part) != value for part, value in lab.reference.items()):
                summary.wrong += 1
                summary.notes.append(f"{name}, both {both}: named {named}: {done.output[-1500:]}")
    return summary


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped": _flip,
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: os.truncate(file, 0),
    "unsigned": lambda file: checkpoints.checksum_file(file).unlink(),
    "other": lambda file: shutil.copyfile(__file__, file) and None,
}
