"""Faults injected into a child run at a given step and phase (`kdlab.testing.child_process.call`, argument `prepare`)."""

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
    """A moment of a run: the training (title of its progress bar), its optimizer step, and its phase.

    `when`: "start" of a step, "gradient" (before the update), "end", "observation", "evaluation", "phase" (of a module
    that learns), "save N" (call N to the file system of a checkpoint), "artifact N" (of writing an artifact),
    "answers N" (of caching a teacher's answers), "answers index N" (of creating that cache).
    """

    stage: str
    step: int
    when: str


@dataclass
class RecordMoments:
    """Append every moment of the run to `file`, a line of JSON each."""

    file: Path

    def __call__(self) -> None:
        def visit(moment: Moment) -> None:
            with open(self.file, "a") as out:
                out.write(json.dumps([moment.stage, moment.step, moment.when]) + "\n")

        observe_moments(visit)


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


class _MomentObserver:
    """Call `visit` with the current stage and step at the moments of a run."""

    def __init__(self, visit: Callable[[Moment], None]) -> None:
        self.visit, self.stage, self.step = visit, "", 0

    def locate(self, source: Any) -> None:
        """Read stage and step from a module, a callback or a bound method of one; keep the last ones for others."""
        from kdlab.callbacks.progress import ProgressCallback

        module = getattr(getattr(source, "__self__", source), "module", getattr(source, "__self__", source))
        if isinstance(module, training_modules()) and module._trainer is not None:
            bars = [one for one in module.trainer.callbacks if isinstance(one, ProgressCallback)]  # pyright: ignore
            self.step, self.stage = module.trainer.global_step, bars[0].title if bars else "training"

    def at(self, when: str) -> None:
        """Visit the moment `when` of the current step."""
        self.visit(Moment(str(self.stage), int(self.step), when))

    def before(self, owner: Any, name: str, when: str) -> None:
        """Visit `when` before each call of a function of `owner`."""
        original = getattr(owner, name)

        def observed(*arguments: Any, **named: Any) -> Any:
            self.locate(arguments[0])
            self.at(when)
            return original(*arguments, **named)

        setattr(owner, name, observed)

    def after(self, owner: Any, name: str, when: str) -> None:
        """Visit `when` after each call of a function of `owner`."""
        original = getattr(owner, name)

        def observed(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            self.locate(arguments[0])
            self.at(when)
            return result

        setattr(owner, name, observed)


def observe_moments(visit: Callable[[Moment], None]) -> None:
    """Call `visit` at every moment of the runs of this process from now on."""
    from kdlab.callbacks import checkpoint, evaluate
    from kdlab.callbacks.observer import LossObserver
    from kdlab.methods.ksm.module import KSM
    from kdlab.storage import artifacts
    from kdlab.teachers.cache.disk_store import DiskStore

    observer = _MomentObserver(visit)

    def saving(number: int, arguments: tuple[Any, ...]) -> None:
        observer.locate(arguments[2])
        observer.at(f"save {number}")

    for trained in training_modules():
        observer.before(trained, "training_step", "start")
        observer.before(trained, "configure_gradient_clipping", "gradient")
        observer.before(trained, "on_train_batch_end", "end")
    observer.after(LossObserver, "__call__", "observation")
    observer.after(evaluate, "with_answers", "evaluation")
    observer.before(KSM, "learn", "phase")
    intercept_calls(checkpoint.CheckpointCallback, "on_train_batch_end", saving)
    intercept_calls(
        artifacts.ArtifactStore,
        "_make",
        lambda number, arguments: visit(Moment(str(arguments[4]), 0, f"artifact {number}")),
        only_at=("open", "write", "fsync", "replace", "rename", "mkdir"),
    )
    intercept_calls(DiskStore, "write", lambda number, _: observer.at(f"answers {number}"), only_at=("open", "pwrite"))
    intercept_calls(
        DiskStore,
        "_new_index",
        lambda number, _: observer.at(f"answers index {number}"),
        only_at=("open", "fsync", "replace"),
    )


CALLS = ("open", "write", "fsync", "replace", "rename", "unlink", "mkdir", "ftruncate")


def intercept_calls(
    owner: Any, name: str, visit: Callable[[int, tuple[Any, ...]], None], only_at: Sequence[str] = CALLS
) -> None:
    """Call `visit(number, arguments)` before each file-system call in `only_at` that a method makes."""
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
class FaultAt:
    """Call `action` in this process at the moment (`stage`, `step`, `when`); see `Moment`."""

    step: int
    action: Callable[[], None]
    when: str = "start"
    stage: str = "training"

    def __call__(self) -> None:
        def visit(moment: Moment) -> None:
            if moment == Moment(self.stage, self.step, self.when):
                self.action()

        observe_moments(visit)


@dataclass
class SendSignal:
    """SendSignal this process signals."""

    signum: int
    times: int = 1

    def __call__(self) -> None:
        for _ in range(self.times):
            os.kill(os.getpid(), self.signum)


@dataclass
class InjectNonFinite:
    """Make the loss NaN (`what="loss"`) or its gradient infinite ("gradient") at some optimizer steps, on this rank."""

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

        StudentModule.loss = loss  # pyright: ignore[reportAttributeAccessIssue]


@dataclass
class MeasureSteps:
    """Write seconds, resident bytes and open files at the start of each step to `file`, a CSV line each."""

    file: Path

    def __call__(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")

        def measure(module: Any) -> None:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
            with open(self.file, "a") as out:
                out.write(f"{time.perf_counter()},{resident},{len(os.listdir('/proc/self/fd'))}\n")

        before_each("training_step", measure)
