"""What befalls a run in a child process (`kdlab.testing.child_process.call`, `prepare=`): set before it begins, sprung at a moment of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Moment:
    """A moment of a run: the training (what its progress bar says), its optimizer step, and what is going on.

    `when`: "start" of a step, "gradient" (before the update), "end", "observation", "evaluation", "phase" (of a module
    that learns), "save N" (call N to the file system of a checkpoint), "artifact N" (of keeping something made),
    "answers N" (of remembering answers of a teacher), "answers index N" (of beginning to).
    """

    stage: str
    step: int
    when: str


@dataclass
class PidRecord:
    """Write every moment of the run to `file`, a line of JSON each."""

    file: Path

    def __call__(self) -> None:
        def visit(moment: Moment) -> None:
            with open(self.file, "a") as out:
                out.write(json.dumps([moment.stage, moment.step, moment.when]) + "\n")

        without_figures()
        watch(visit)


def without_figures() -> None:
    """Figures take longer than the rest of a tiny run."""
    from kdlab.plotting import run_figures

    run_figures.draw = lambda folder: []  # pyright: ignore[reportAttributeAccessIssue]


def training_modules() -> tuple[type[Any], ...]:
    """The LightningModules that kdlab trains: those of a run itself and of its prerequisites."""
    from kdlab.modules.assistant import AssistantModule
    from kdlab.modules.student import StudentModule
    from kdlab.modules.teacher import TeacherModule

    return StudentModule, TeacherModule, AssistantModule


def before_each(name: str, action: Callable[[Any], None]) -> None:
    """Call `action` with the module before each call of the method `name` of a training module."""

    def trapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def trap(module: Any, *arguments: Any, **named: Any) -> Any:
            action(module)
            return original(module, *arguments, **named)

        return trap

    for trained in training_modules():
        setattr(trained, name, trapped(getattr(trained, name)))


def watch(visit: Callable[[Moment], None]) -> None:
    """Have `visit` called in every moment of what this process runs from now on."""
    from kdlab.callbacks import checkpoint, evaluate
    from kdlab.callbacks.observer import LossObserver
    from kdlab.callbacks.progress import ProgressCallback
    from kdlab.methods.ksm.module import KSM
    from kdlab.storage import artifacts
    from kdlab.teachers.cache.store import DiskStore

    now = {"stage": "", "step": 0}

    def locate(first: Any) -> None:
        """Where the training is, as far as an argument tells."""
        module = getattr(getattr(first, "__self__", first), "module", getattr(first, "__self__", first))
        if isinstance(module, training_modules()) and module._trainer is not None:
            bars = [one for one in module.trainer.callbacks if isinstance(one, ProgressCallback)]  # pyright: ignore
            now.update(step=module.trainer.global_step, stage=bars[0].title if bars else "training")

    def at(when: str) -> None:
        visit(Moment(str(now["stage"]), int(now["step"]), when))

    def before(owner: Any, name: str, when: str) -> None:
        original = getattr(owner, name)

        def trap(*arguments: Any, **named: Any) -> Any:
            locate(arguments[0])
            at(when)
            return original(*arguments, **named)

        setattr(owner, name, trap)

    def after(owner: Any, name: str, when: str) -> None:
        original = getattr(owner, name)

        def trap(*arguments: Any, **named: Any) -> Any:
            found = original(*arguments, **named)
            locate(arguments[0])
            at(when)
            return found

        setattr(owner, name, trap)

    def saving(number: int, arguments: tuple[Any, ...]) -> None:
        locate(arguments[2])
        at(f"save {number}")

    for trained in training_modules():
        before(trained, "training_step", "start")
        before(trained, "configure_gradient_clipping", "gradient")
        before(trained, "on_train_batch_end", "end")
    after(LossObserver, "__call__", "observation")
    after(evaluate, "over_splits", "evaluation")
    before(KSM, "learn", "phase")
    during(checkpoint.CheckpointCallback, "on_train_batch_end", saving)
    during(
        artifacts.ArtifactStore,
        "_make",
        lambda number, arguments: visit(Moment(str(arguments[4]), 0, f"artifact {number}")),
        only_at=("open", "write", "fsync", "replace", "rename", "mkdir"),
    )
    during(DiskStore, "write", lambda number, _: at(f"answers {number}"), only_at=("open", "pwrite"))
    during(
        DiskStore, "_new_index", lambda number, _: at(f"answers index {number}"), only_at=("open", "fsync", "replace")
    )


CALLS = ("open", "write", "fsync", "replace", "rename", "unlink", "mkdir", "ftruncate")


def during(
    owner: Any, name: str, visit: Callable[[int, tuple[Any, ...]], None], only_at: Sequence[str] = CALLS
) -> None:
    """Have `visit` called before each of the file-system calls that a method makes, with their number."""
    original = getattr(owner, name)

    def method(*arguments: Any, **named: Any) -> Any:
        real = {call: getattr(os, call) for call in only_at}
        count = 0

        def wrapped(call: str) -> Any:
            def trap(*given: Any, **more: Any) -> Any:
                nonlocal count
                count += 1
                visit(count, arguments)
                return real[call](*given, **more)

            return trap

        for call in only_at:
            setattr(os, call, wrapped(call))
        try:
            return original(*arguments, **named)
        finally:
            for call in only_at:
                setattr(os, call, real[call])

    setattr(owner, name, method)


@dataclass
class TrapAt:
    """Do something to this process when the training `stage` starts its step `step` (or ends it, or is evaluated)."""

    step: int
    deed: Callable[[], None]
    when: str = "start"
    stage: str = "training"

    def __call__(self) -> None:
        def visit(moment: Moment) -> None:
            if moment == Moment(self.stage, self.step, self.when):
                self.deed()

        without_figures()
        watch(visit)


@dataclass
class Send:
    """Send this process signals."""

    signum: int
    times: int = 1

    def __call__(self) -> None:
        for _ in range(self.times):
            os.kill(os.getpid(), self.signum)


@dataclass
class Spoil:
    """Have a loss ("loss") or its gradient ("gradient") be NaN in some optimizer steps of the run itself, on this rank."""

    steps: tuple[int, ...]
    what: str = "loss"

    def __call__(self) -> None:
        from kdlab.modules.student import StudentModule

        original = StudentModule.loss
        spoiled = self

        def loss(module: Any, *arguments: Any, local: bool = False, **named: Any) -> Any:
            found = original(module, *arguments, local=local, **named)
            prepared = module._trainer is None or module.trainer.max_epochs is None
            if local or prepared or module.trainer.global_step not in spoiled.steps:
                return found
            if spoiled.what == "loss":
                return found * float("nan")
            found.register_hook(lambda gradient: gradient * float("inf"))
            return found

        without_figures()
        StudentModule.loss = loss  # pyright: ignore[reportAttributeAccessIssue]


@dataclass
class Measure:
    """Write seconds, resident bytes and open files at the start of each step to `file`, a CSV line each."""

    file: Path

    def __call__(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")

        def measure(module: Any) -> None:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
            with open(self.file, "a") as out:
                out.write(f"{time.perf_counter()},{resident},{len(os.listdir('/proc/self/fd'))}\n")

        without_figures()
        before_each("training_step", measure)
