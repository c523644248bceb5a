"""Faults other than kills, caused on purpose: full disks, damaged checkpoints, signals, numbers that are not finite.

Each function causes one in tiny runs (`Lab`) and returns how often, and how often something was not as promised.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from kdlab import checkpoints, tables
from kdlab.children import Done, call, outcome
from kdlab.killing import RUN, Found
from kdlab.traps import At, Send, Spoil, without_figures

T = TypeVar("T")


@dataclass
class Lab:
    """Where faults are caused: a command of ten steps, an undisturbed run of it, and its artifacts. `few`: one of each."""

    folder: Path
    command: tuple[str, ...]
    whole: dict[str, Any]
    artifacts: Path
    ranks: int = 1
    few: bool = False
    count: int = 0

    def some(self, values: Iterable[T]) -> list[T]:
        """All of them, or the last."""
        return list(values)[-1:] if self.few else list(values)

    def fresh(self, prepared: bool = True) -> Path:
        """A new folder, with the artifacts of the undisturbed run unless they are to be made."""
        self.count += 1
        folder = self.folder / f"lab-{self.count}"
        folder.mkdir(parents=True)
        if prepared:
            shutil.copytree(self.artifacts, folder / "artifacts")
        return folder

    def run(self, folder: Path, *more: str, prepare: Callable[[], None] = without_figures) -> Done:
        """The run, with a trap in its last rank."""
        return call([*self.command, *RUN, *more], folder, prepare, timeout=300, ranks=self.ranks, grace=20)

    def goes_on(self, folder: Path, note: str) -> str | None:
        """What is wrong after the command was given again; None if it ended as undisturbed."""
        done = self.run(folder)
        if done.code != 0:
            return f"{note}: the next run ends with {done.code}: {done.output[-1500:]}"
        ended = outcome(folder / "run")
        different = [part for part, value in self.whole.items() if ended[part] != value]
        return f"{note}: {', '.join(different)} differ" if different else None


def one_line(done: Done, *words: str) -> bool:
    """Whether a run ended with one line of ours that holds `words`, code 2 and no traceback."""
    lines = [line for line in done.output.splitlines() if line.startswith("kdlab: ")]
    told = len(lines) == 1 and all(word in lines[0] for word in words)
    return done.code == 2 and told and "Traceback" not in done.output


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "result.json").read_text())


def _judge(found: Found, lab: Lab, folder: Path, fine: bool, note: str, done: Done | None) -> None:
    found.tried += 1
    problem = None if fine else f"{note}: {done.code if done else ''}: {done.output[-1500:] if done else ''}"
    problem = problem or lab.goes_on(folder, note)
    if problem:
        found.wrong += 1
        found.notes.append(problem)


# ---- disks


def full_disks(lab: Lab, sizes: int = 8) -> Found:
    """The disk fills up at different moments of preparation, training and the end; then it is made larger."""
    found = Found()
    needed = sum(file.stat().st_size for file in lab.folder.joinpath("whole").rglob("*") if file.is_file())
    for number in range(sizes):
        folder = lab.folder / f"disk-{number}"
        size = max(64_000, round(needed * (number + 0.5) / sizes))
        with mounted(folder, size) as worked:
            if not worked:
                found.notes.append("mounting a tmpfs is not permitted here: no disk was filled")
                return found
            done = lab.run(folder)
            fine = one_line(done, "no space left") or done.code == 0  # the last sizes may do
            fine = fine and _last_good(folder)
            subprocess.run(["mount", "-o", f"remount,size={needed * 4}", str(folder)], check=True)
            _judge(found, lab, folder, fine, f"a disk of {size} bytes", done)
    return found


def read_only(lab: Lab) -> Found:
    """The file system becomes read-only, or the checkpoints' folder forbidden, in the middle of the training."""
    found = Found()
    folder = lab.fresh()
    with mounted(folder / "run", 500_000_000) as worked:
        if worked:
            done = lab.run(folder, prepare=At(5, Remount(folder / "run")))
            fine = one_line(done, "read-only") and _last_good(folder)
            subprocess.run(["mount", "-o", "remount,rw", str(folder / "run")], check=True)
            _judge(found, lab, folder, fine, "a read-only file system", done)
    folder = lab.fresh()
    done = lab.run(folder, prepare=At(5, Forbid(folder / "run" / "checkpoints")))
    os.chmod(folder / "run" / "checkpoints", 0o755)
    _judge(found, lab, folder, one_line(done, "no permission") and _last_good(folder), "no permission", done)
    return found


@dataclass
class Remount:
    folder: Path

    def __call__(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)


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
            subprocess.run(["umount", str(self.folder)], check=True)


def _last_good(folder: Path) -> bool:
    """No checkpoint there is damaged."""
    named: list[str] = []
    checkpoints.newest(folder / "run" / "checkpoints", named.append)
    return not named


# ---- damaged checkpoints


def damaged(lab: Lab) -> Found:
    """The newest checkpoint, or both, are damaged while nothing runs: named, the one before is used."""
    found = Found()
    stopped = lab.fresh()
    lab.run(stopped, prepare=At(8, Send(signal.SIGKILL)))
    for name, damage in lab.some(DAMAGES.items()):
        for both in lab.some((True, False)):
            folder = lab.folder / f"damaged-{name}-{both}"
            shutil.copytree(stopped, folder)
            files = sorted((folder / "run" / "checkpoints").glob("*.ckpt"), reverse=True)
            for file in files[: 2 if both else 1]:
                damage(file)
            found.tried += 1
            done = lab.run(folder)
            named = sum(f"{file.name} is damaged" in done.output for file in files)
            ended = outcome(folder / "run") if done.code == 0 else {}
            if named != 1 + both or any(ended.get(part) != value for part, value in lab.whole.items()):
                found.wrong += 1
                found.notes.append(f"{name}, both {both}: named {named}: {done.output[-1500:]}")
    return found


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped": _flip,
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: os.truncate(file, 0),
    "unsigned": lambda file: checkpoints.sidecar(file).unlink(),
    "other": lambda file: shutil.copyfile(__file__, file) and None,
}


# ---- signals


def signals(lab: Lab) -> Found:
    """SIGTERM and Ctrl-C in steps, evaluations and preparation, on one process and on one of two ranks; also twice."""
    found = Found()
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143}
    for signum, code in lab.some(codes.items()):
        for step, when in lab.some(((1, "start"), (4, "evaluation"), (7, "gradient"), (4, "end"))):
            folder = lab.fresh()
            done = lab.run(folder, prepare=At(step, Send(signum), when))
            told = result(folder)
            kept = checkpoints.newest(folder / "run" / "checkpoints")
            fine = done.code == code and told["status"] == "preempted" and "Traceback" not in done.output
            fine = fine and kept is not None and checkpoints.step_of(kept) == told["step"] in range(step, step + 3)
            _judge(found, lab, folder, fine, f"signal {signum} at {step} {when}", done)
        if lab.ranks > 1:  # what follows, a launcher has to pass on to all
            continue
        folder = lab.fresh()
        done = lab.run(folder, prepare=At(5, Send(signum, 2)))
        fine = done.code == code and result(folder)["status"] == "running"
        _judge(found, lab, folder, fine, f"signal {signum} twice", done)
        folder = lab.fresh()
        done = lab.run(folder, prepare=At(10, Send(signum), "evaluation"))
        fine = done.code == code and result(folder)["status"] == "preempted" and "Traceback" not in done.output
        _judge(found, lab, folder, fine, f"signal {signum} in the last evaluation", done)
    return found


def signals_preparing(lab: Lab) -> Found:
    """SIGTERM and Ctrl-C while a teacher is fine-tuned: one line, and nothing that looks whole is left."""
    found = Found()
    for signum, code in lab.some({signal.SIGINT: 130, signal.SIGTERM: 143}.items()):
        folder = lab.fresh(prepared=False)
        done = lab.run(folder, prepare=At(5, Send(signum), stage="fine-tuning teacher"))
        lines = [line for line in done.output.splitlines() if line.startswith("kdlab: ")]
        fine = done.code == code and len(lines) == 1 and "Traceback" not in done.output
        _judge(found, lab, folder, fine, f"signal {signum} in the preparation", done)
    return found


# ---- numbers


def nonfinite(lab: Lab) -> Found:
    """A loss or a gradient is NaN or infinite in a step, on one rank: the run stops, and goes on when it is repaired."""
    found = Found()
    for what in lab.some(("gradient", "loss")):
        for step in lab.some((2, 3, 9, 7)):
            folder = lab.fresh()
            done = lab.run(folder, prepare=Spoil((step,), what))
            fine = f"the {what} of step {step} is not finite; rows of the batch: " in done.output and done.code in (
                2,
                -9,
            )
            fine = fine and _all_finite(folder) and result(folder)["status"] == "failed"
            found.tried += 1
            again = lab.run(folder)
            ended = outcome(folder / "run") if again.code == 0 else {}
            if not fine or any(ended.get(part) != value for part, value in lab.whole.items()):
                found.wrong += 1
                found.notes.append(f"{what} of step {step}: {done.code}: {done.output[-1500:]}{again.output[-500:]}")
    return found


def nonfinite_skipped(lab: Lab) -> Found:
    """The same with trainer.on_nonfinite=skip: left out, listed, limited."""
    found = Found()
    skip = ("trainer.on_nonfinite=skip", "trainer.nonfinite_limit=2")
    for what in lab.some(("loss", "gradient")):
        for steps in lab.some(((2,), (2, 3, 4), (3, 9))):
            folder = lab.fresh()
            done = lab.run(folder, *skip, prepare=Spoil(steps, what))
            found.tried += 1
            events = tables.read(folder / "run" / "events.csv")
            listed = [int(event["step"]) for event in events if event["kind"] == "nonfinite" and event["rows"]]
            fine = listed == list(steps) and _all_finite(folder)
            if len(steps) > 2:
                fine = fine and done.code == 2 and "trainer.nonfinite_limit=2" in done.output
            else:
                fine = fine and done.code == 0 and result(folder)["events"]["nonfinite"] == len(steps)
            if not fine:
                found.wrong += 1
                found.notes.append(f"{what} of {steps}: {done.code}: {done.output[-1500:]}")
    return found


def _all_finite(folder: Path) -> bool:
    """Every number in the checkpoints and the student is finite."""
    import safetensors.torch

    states = [checkpoints.load(file) for file in (folder / "run" / "checkpoints").glob("*.ckpt")]
    student = folder / "run" / "student" / "model.safetensors"
    states += [safetensors.torch.load_file(student)] if student.exists() else []
    return all(bool(tensor.isfinite().all()) for state in states for tensor in _tensors(state))


def _tensors(node: Any) -> list[Any]:
    if hasattr(node, "isfinite"):
        return [node]
    inside = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
    return [tensor for value in inside for tensor in _tensors(value)]


# ---- two at once


def two_makers(lab: Lab, times: int = 2) -> Found:
    """Two runs need the same teacher, at once, in one store: one makes it, the other waits; both end as undisturbed."""
    found = Found()
    for _ in range(times):
        folder = lab.fresh(prepared=False)
        ended: dict[str, Done] = {}

        def one(name: str, folder: Path = folder, ended: dict[str, Done] = ended) -> None:
            more = (f"artifacts={folder / 'artifacts'}",)
            ended[name] = call([*lab.command, *RUN, *more], folder / name, without_figures, timeout=300)

        both = [Thread(target=one, args=(name,)) for name in ("a", "b")]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        found.tried += 1
        made = [line for done in ended.values() for line in done.output.splitlines() if line.startswith("making ")]
        fine = all(done.code == 0 for done in ended.values()) and len(made) == len(set(made)) > 0
        fine = fine and all(outcome(folder / name / "run") == lab.whole for name in ended)
        if not fine:
            found.wrong += 1
            found.notes.append("\n".join(done.output[-1500:] for done in ended.values()))
    return found
