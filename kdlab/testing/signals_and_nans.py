"""Signals, numbers that are not finite, two makers of one thing (`kdlab.testing.fault_lab`).

Each function causes one kind of fault in tiny runs and returns how often, and how often something was not as promised.
"""

from __future__ import annotations

import signal
from pathlib import Path
from threading import Thread
from typing import Any

from kdlab.storage import checkpoints, tables
from kdlab.testing.child_process import ChildResult, call, outcome
from kdlab.testing.fault_lab import RUN, FaultLab, FaultResult, messages, record_outcome, result
from kdlab.testing.fault_points import FaultAt, InjectNonFinite, SendSignal

# ---- signals


def signals(lab: FaultLab) -> FaultResult:
    """SIGTERM and Ctrl-C in steps, evaluations and preparation, on one process and on one of two ranks; also twice."""
    summary = FaultResult()
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143}
    for signum, code in lab.cases(codes.items()):
        for step, when in lab.cases(((1, "start"), (4, "evaluation"), (7, "gradient"), (4, "end"))):
            folder = lab.new_folder()
            done = lab.run(folder, prepare=FaultAt(step, SendSignal(signum), when))
            told = result(folder)
            kept = checkpoints.newest_valid(folder / "run" / "checkpoints")
            fine = done.code == code and told["status"] == "preempted" and "Traceback" not in done.output
            fine = fine and kept is not None and checkpoints.step_of(kept) == told["step"] in range(step, step + 3)
            record_outcome(summary, lab, folder, fine, f"signal {signum} at {step} {when}", done)
        if lab.ranks > 1:  # what follows, a launcher has to pass on to all
            continue
        folder = lab.new_folder()
        done = lab.run(folder, prepare=FaultAt(5, SendSignal(signum, 2)))
        fine = done.code == code and result(folder)["status"] == "running"
        record_outcome(summary, lab, folder, fine, f"signal {signum} twice", done)
        folder = lab.new_folder()
        done = lab.run(folder, prepare=FaultAt(10, SendSignal(signum), "evaluation"))
        fine = done.code == code and result(folder)["status"] == "preempted" and "Traceback" not in done.output
        record_outcome(summary, lab, folder, fine, f"signal {signum} in the last evaluation", done)
    return summary


def signals_preparing(lab: FaultLab) -> FaultResult:
    """SIGTERM and Ctrl-C while a teacher is fine-tuned: the step is saved, and nothing that looks whole is left."""
    summary = FaultResult()
    for signum, code in lab.cases({signal.SIGINT: 130, signal.SIGTERM: 143}.items()):
        folder = lab.new_folder(prepared=False)
        done = lab.run(folder, prepare=FaultAt(5, SendSignal(signum), stage="fine-tuning teacher"))
        told = messages(done)
        fine = done.code == code and len(told) == 2 and "which is saved" in told[-1] and "Traceback" not in done.output
        record_outcome(summary, lab, folder, fine, f"signal {signum} in the preparation", done)
    return summary


# ---- numbers


def nonfinite(lab: FaultLab) -> FaultResult:
    """A loss or a gradient is NaN or infinite in a step, on one rank: the run stops, and resumes when it is repaired."""
    summary = FaultResult()
    for what in lab.cases(("gradient", "loss")):
        for step in lab.cases((2, 3, 9, 7)):
            folder = lab.new_folder()
            done = lab.run(folder, prepare=InjectNonFinite((step,), what))
            fine = f"the {what} of step {step} is not finite; rows of the batch: " in done.output and done.code == 2
            fine = fine and _all_finite(folder) and result(folder)["status"] == "failed"
            summary.injected += 1
            again = lab.run(folder)
            ended = outcome(folder / "run") if again.code == 0 else {}
            if not fine or any(ended.get(part) != value for part, value in lab.reference.items()):
                summary.wrong += 1
                summary.notes.append(f"{what} of step {step}: {done.code}: {done.output[-1500:]}{again.output[-500:]}")
    return summary


def nonfinite_skipped(lab: FaultLab) -> FaultResult:
    """The same with trainer.on_nonfinite=skip: left out, listed, limited."""
    summary = FaultResult()
    skip = ("trainer.on_nonfinite=skip", "trainer.nonfinite_limit=2")
    for what in lab.cases(("loss", "gradient")):
        for steps in lab.cases(((2,), (2, 3, 4), (3, 9))):
            folder = lab.new_folder()
            done = lab.run(folder, *skip, prepare=InjectNonFinite(steps, what))
            summary.injected += 1
            events = tables.read(folder / "run" / "events.csv")
            listed = [int(event["step"]) for event in events if event["kind"] == "nonfinite" and event["rows"]]
            fine = listed == list(steps) and _all_finite(folder)
            if len(steps) > 2:
                fine = fine and done.code == 2 and "trainer.nonfinite_limit=2" in done.output
            else:
                fine = fine and done.code == 0 and result(folder)["events"]["nonfinite"] == len(steps)
            if not fine:
                summary.wrong += 1
                summary.notes.append(f"{what} of {steps}: {done.code}: {done.output[-1500:]}")
    return summary


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


def two_makers(lab: FaultLab, times: int = 2) -> FaultResult:
    """Two runs need the same teacher, at once, in one store: one makes it, the other waits; both end as undisturbed."""
    summary = FaultResult()
    for _ in range(times):
        folder = lab.new_folder(prepared=False)
        ended: dict[str, ChildResult] = {}

        def one(name: str, folder: Path = folder, ended: dict[str, ChildResult] = ended) -> None:
            more = (f"artifacts={folder / 'artifacts'}",)
            ended[name] = call([*lab.command, *RUN, *more], folder / name, timeout=300)

        both = [Thread(target=one, args=(name,)) for name in ("a", "b")]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        summary.injected += 1
        made = [line for done in ended.values() for line in done.output.splitlines() if line.startswith("making ")]
        fine = all(done.code == 0 for done in ended.values()) and len(made) == len(set(made)) > 0
        fine = fine and all(outcome(folder / name / "run") == lab.reference for name in ended)
        if not fine:
            summary.wrong += 1
            summary.notes.append("\n".join(done.output[-1500:] for done in ended.values()))
    return summary
