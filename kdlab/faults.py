"""`python -m kdlab.faults`: cause every fault that kdlab promises to bear, in tiny runs, and print what came of it.

Needs no download. `--quick` takes a few of each (minutes); without it, hundreds of kills (half an hour on two cores).
The exit code is 1 if anything was not as promised, 2 if nothing was caused. Linux; filling disks needs the right to mount a tmpfs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kdlab.children import tiny, tiny_task
from kdlab.killing import Case, Found, campaign, undisturbed
from kdlab.longrun import long_run
from kdlab.mishaps import (
    Lab,
    damaged,
    full_disks,
    nonfinite,
    nonfinite_skipped,
    read_only,
    signals,
    signals_preparing,
    two_makers,
)
from kdlab.rankfaults import dying_ranks
from kdlab.small import write_task, write_teacher, write_text

TWO_EPOCHS = ("trainer.max_steps=null", "trainer.max_epochs=2", "trainer.probes=1")  # of 5 steps each
RANKS = ("trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=8")
KSM = ("policy.episodes=1", "policy.phase=3", "policy.reward_rows=16")


def cases(teacher: Path, text: Path, rows: Path, quick: bool) -> list[Case]:
    """What is killed. `quick`: few points of each."""

    def task(name: str, *more: str) -> tuple[str, ...]:
        return tuple(tiny_task(teacher, rows, f"+exp={name}", *TWO_EPOCHS, *more))

    pretrain = tuple(tiny(teacher, text, *TWO_EPOCHS))
    finetune, dekd, ksm = task("adads_finetune"), task("dekd"), task("ksm", *KSM)
    found = [
        Case("killed: adads_pretrain", pretrain, points=48),
        Case("killed: adads_finetune", finetune, points=40),
        Case("killed: dekd", dekd, points=36),
        Case("killed: ksm", ksm, points=30),
        Case("killed: adads_finetune, while its teacher is made", finetune, prepared=False, points=12),
        Case("killed: dekd, while teacher and assistant are made", dekd, prepared=False, points=12),
        Case("killed: ksm, while teacher and module are made", ksm, prepared=False, points=18),
        Case("killed: adads_pretrain, 2 loader workers", (*pretrain, "data.workers=2"), points=12),
        Case("killed: dekd, 2 loader workers", (*dekd, "data.workers=2"), points=6),
        Case("killed: adads_pretrain, 2 ranks", with_(pretrain, *RANKS), ranks=2, points=18),
        Case("killed: dekd, 2 ranks", with_(dekd, *RANKS), ranks=2, points=12),
        Case("killed: ksm, 2 ranks, 2 loader workers", with_(ksm, *RANKS, "data.workers=2"), ranks=2, points=6),
    ]
    return [Case(c.name, c.command, c.ranks, c.prepared, 3) for c in found[::3]] if quick else found


def with_(given: Sequence[str], *more: str) -> tuple[str, ...]:
    """Overrides, of which those of the same keys are replaced."""
    keys = {override.split("=")[0] for override in more}
    return (*(override for override in given if override.split("=")[0] not in keys), *more)


def main(argv: Sequence[str] | None = None) -> int:
    """Cause the faults that were asked for and print a line each; 1 if anything was not as promised, 2 if no name fits."""
    parser = argparse.ArgumentParser(prog="python -m kdlab.faults", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few of each fault")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="only faults whose name has one of these words"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (2)")
    parser.add_argument("--steps", type=int, default=None, help="steps of the long run (20000; with --quick 300)")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to work (default: in memory, removed at the end)"
    )
    given = parser.parse_args(argv)
    for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    top = Path(tempfile.mkdtemp(prefix="kdlab-faults-", dir=given.folder or memory))
    try:
        return _all(given, top)
    finally:
        shutil.rmtree(top, ignore_errors=True)


def _all(given: argparse.Namespace, top: Path) -> int:
    quick = given.quick
    started = time.monotonic()
    told: list[str] = []
    wrong: list[str] = []
    print(f"{'fault':56} {'caused':>6} {'wrong':>6} {'seconds':>8}", flush=True)

    def tell(name: str, found: Found) -> None:
        nonlocal started
        now = time.monotonic()
        print(f"{name:56} {found.tried:6} {found.wrong:6} {now - started:8.0f}", flush=True)
        for note in found.notes:
            print(f"    {note}", flush=True)
        told.append(name)
        wrong.extend([name] * bool(found.wrong))
        started = now

    def asked(name: str) -> bool:
        return not given.only or any(word in name for word in given.only)

    def cause(
        faults: dict[str, Callable[[Lab], Found]], command: tuple[str, ...], folder: Path, ranks: int = 1
    ) -> None:
        chosen = {name: fault for name, fault in faults.items() if asked(name)}
        if chosen:
            whole = undisturbed(Case("undisturbed", command, ranks=ranks), folder / "whole")
            lab = Lab(folder, command, whole.outcome, whole.folder / "artifacts", ranks, few=quick)
            for name, fault in chosen.items():
                tell(name, fault(lab))

    teacher, text = write_teacher(top / "teacher"), write_text(top / "text", 28)
    rows = write_task(top / "rows", 80)
    killed = [case for case in cases(teacher, text, rows, quick) if asked(case.name)]
    campaign(killed, top / "killed", given.jobs, tell)
    command = tuple(tiny_task(teacher, rows, *TWO_EPOCHS))
    others: dict[str, Callable[[Lab], Found]] = {
        "checkpoints damaged": damaged,
        "disks filled": lambda lab: full_disks(lab, 3 if quick else 12),
        "disks made read-only, permission taken": read_only,
        "signals": signals,
        "signals while a teacher is made": signals_preparing,
        "steps that are not finite": nonfinite,
        "steps that are not finite, left out": nonfinite_skipped,
        "two makers of one artifact": two_makers,
        "dying ranks": lambda lab: dying_ranks(lab, ("devices",) if quick else ("devices", "torchrun")),
        "a long run": lambda lab: long_run(lab, given.steps or (300 if quick else 20_000)),
    }
    on_one_rank: dict[str, Callable[[Lab], Found]] = {
        "signals on one of two ranks": signals,
        "steps that are not finite on one of two ranks": nonfinite,
    }
    if not quick:
        on_one_rank["steps that are not finite on one of two ranks, left out"] = nonfinite_skipped
    cause(others, command, top / "lab")
    cause(on_one_rank, with_(command, *RANKS), top / "ranks", ranks=2)
    if not told:
        print(f"nothing was caused: no fault has {' or '.join(given.only)} in its name", flush=True)
        return 2
    print("all as promised" if not wrong else f"not as promised: {', '.join(wrong)}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
