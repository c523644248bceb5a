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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdlab.errors import UserError
from kdlab.testing import fault_tables
from kdlab.testing.child_process import tiny, tiny_task
from kdlab.testing.disk_faults import damaged, full_disks, read_only
from kdlab.testing.fault_lab import FaultLab, FaultResult, timed
from kdlab.testing.kills import KillCase, campaign, undisturbed
from kdlab.testing.long_run import long_run
from kdlab.testing.rank_faults import dying_ranks
from kdlab.testing.signals_and_nans import nonfinite, nonfinite_skipped, signals, signals_preparing, two_makers
from kdlab.testing.tiny import write_task, write_teacher, write_text

TWO_EPOCHS = ("trainer.max_steps=null", "trainer.max_epochs=2", "trainer.probes=1")  # of 4 steps of text, 5 of rows
RANKS = ("trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=8")
KSM = ("weigh.episodes=1", "weigh.phase=3", "weigh.reward_rows=16")
ANSWERS = (
    "teachers.cache=disk",
    "teachers.sanity=false",
    "data.train_rows=40",
    "trainer.max_epochs=4",
)  # rows come again
WORKERS = ("data.workers=2",)
LONG = "a long run"
ROOM = 4e9  # bytes that have to be free in memory for working there


def cases(teacher: Path, text: Path, rows: Path, quick: bool) -> list[KillCase]:
    """What is killed. `quick`: few points of each."""

    def task(name: str, *more: str) -> tuple[str, ...]:
        return tuple(tiny_task(teacher, rows, f"+exp={name}", *TWO_EPOCHS, *more))

    def answers(given: tuple[str, ...]) -> tuple[str, ...]:
        return with_(given, *ANSWERS)

    pretrain = tuple(tiny(teacher, text, *TWO_EPOCHS))
    finetune, dekd, ksm = task("adads_finetune"), task("dekd"), task("ksm", *KSM)
    pretrain_answers = (*pretrain, "teachers.cache=disk")
    found = [
        KillCase("killed: adads_pretrain", pretrain, points=48),
        KillCase("killed: adads_finetune", finetune, points=48),
        KillCase("killed: dekd", dekd, points=42),
        KillCase("killed: ksm", ksm, points=42),
        KillCase("killed: adads_finetune, while its teacher is made", finetune, prepared=False, points=12),
        KillCase("killed: dekd, while teacher and assistant are made", dekd, prepared=False, points=12),
        KillCase("killed: ksm, while teacher and module are made", ksm, prepared=False, points=24),
        KillCase("killed: adads_pretrain, writing answers", pretrain_answers, points=12, only="answers"),
        KillCase("killed: adads_finetune, writing answers", answers(finetune), points=12, only="answers", epochs=4),
        KillCase("killed: dekd, writing answers", answers(dekd), points=12, only="answers", epochs=4),
        KillCase("killed: ksm, writing answers", answers(ksm), points=12, only="answers", epochs=4),
        KillCase("killed: adads_finetune, 2 ranks, writing answers", with_(answers(finetune), *RANKS), ranks=2, points=6,
             only="answers", epochs=4),
        KillCase("killed: adads_pretrain, 2 loader workers", (*pretrain, *WORKERS), points=12, workers=2),
        KillCase("killed: adads_finetune, 2 loader workers", (*finetune, *WORKERS), points=6, workers=2),
        KillCase("killed: dekd, 2 loader workers", (*dekd, *WORKERS), points=6, workers=2),
        KillCase("killed: ksm, 2 loader workers", (*ksm, *WORKERS), points=6, workers=2),
        KillCase("killed: adads_pretrain, 2 ranks", with_(pretrain, *RANKS), ranks=2, points=18),
        KillCase("killed: adads_finetune, 2 ranks", with_(finetune, *RANKS), ranks=2, points=12),
        KillCase("killed: dekd, 2 ranks", with_(dekd, *RANKS), ranks=2, points=12),
        KillCase("killed: ksm, 2 ranks, 2 loader workers", with_(ksm, *RANKS, *WORKERS), ranks=2, points=12, workers=2),
    ]  # fmt: skip
    return [replace(case, points=3) for case in found[::3]] if quick else found


@dataclass(frozen=True)
class Mishap:
    """A fault other than a kill, and on how many ranks it is caused."""

    name: str
    cause: Callable[[FaultLab], FaultResult]
    ranks: int = 1


def others(quick: bool) -> list[Mishap]:
    """What else is caused, but for the long run."""
    sizes, launchers = (3, ("devices",)) if quick else (12, ("devices", "torchrun"))
    found = [
        Mishap("checkpoints damaged", damaged),
        Mishap("disks filled", lambda lab: full_disks(lab, sizes)),
        Mishap("disks made read-only, permission taken", read_only),
        Mishap("signals", signals),
        Mishap("signals while a teacher is made", signals_preparing),
        Mishap("steps that are not finite", nonfinite),
        Mishap("steps that are not finite, left out", nonfinite_skipped),
        Mishap("two makers of one artifact", two_makers),
        Mishap("dying ranks", lambda lab: dying_ranks(lab, launchers)),
        Mishap("signals on one of two ranks", signals, ranks=2),
        Mishap("steps that are not finite on one of two ranks", nonfinite, ranks=2),
        Mishap("steps that are not finite on one of two ranks, left out", nonfinite_skipped, ranks=2),
    ]
    return found[:-1] if quick else found


def _caused(
    mishaps: Sequence[Mishap], command: tuple[str, ...], top: Path, quick: bool, pool: Executor
) -> Iterator[tuple[str, list[Future[FaultResult]]]]:
    """The name of each and its future, in `pool`, after undisturbed runs on as many ranks."""
    runs = {
        ranks: KillCase("undisturbed", with_(command, *RANKS) if ranks > 1 else command, ranks=ranks)
        for ranks in sorted({mishap.ranks for mishap in mishaps})
    }
    wholes = {ranks: pool.submit(undisturbed, case, top / f"whole-{ranks}") for ranks, case in runs.items()}
    for number, mishap in enumerate(mishaps):
        whole, given = wholes[mishap.ranks].result(), runs[mishap.ranks].command
        artifacts = whole.folder / "artifacts"
        lab = FaultLab(top / f"lab-{number}", given, whole.outcome, artifacts, mishap.ranks, few=quick)
        yield mishap.name, [pool.submit(timed, mishap.cause, lab)]


def with_(given: Sequence[str], *more: str) -> tuple[str, ...]:
    """Overrides, of which those of the same keys are replaced."""
    keys = {override.split("=")[0] for override in more}
    return (*(override for override in given if override.split("=")[0] not in keys), *more)


def main(argv: Sequence[str] | None = None) -> int:
    """Cause the faults that were asked for and print a line each; 1 if anything was not as promised, 2 if no name fits."""
    parser = argparse.ArgumentParser(prog="python -m kdlab.faults", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few of each fault")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORDS", help="only faults whose name has one of these words"
    )
    parser.add_argument(
        "--but", nargs="+", default=[], metavar="WORDS", help="no faults whose name has one of these words"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (one a core)")
    parser.add_argument("--steps", type=int, default=None, help="steps of the long run (20000; with --quick 300)")
    parser.add_argument(
        "--table", type=Path, default=None, metavar="FILE",
        help="keep what comes out in FILE, beside what other calls have put there, and print all of it as Markdown",
    )  # fmt: skip
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to work (default: in memory, removed at the end)"
    )
    given = parser.parse_args(argv)
    for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    top = Path(tempfile.mkdtemp(prefix="kdlab-faults-", dir=given.folder or _memory()))
    try:
        if given.table:
            fault_tables.add(given.table, [])  # before hours of work
        return _all(given, top)
    except UserError as error:
        print(f"kdlab: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(top, ignore_errors=True)


def _memory() -> str | None:
    """Memory that is a folder, where there is room in it."""
    shared = "/dev/shm"
    return shared if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > ROOM else None


def _all(given: argparse.Namespace, top: Path) -> int:
    rows: list[dict[str, Any]] = []
    print(fault_tables.line(fault_tables.HEAD), flush=True)

    def asked(name: str) -> bool:
        wanted = not given.only or any(word in name for word in given.only)
        return wanted and not any(word in name for word in given.but)

    def tell(name: str, found: FaultResult) -> None:
        if name.startswith(fault_tables.KILLED) and not found.tried:
            found.wrong, found.notes = 1, [*found.notes, "nothing was killed"]
        rows.append(fault_tables.row(name, found))
        print(fault_tables.line([rows[-1][key] for key in fault_tables.HEAD]), flush=True)
        for note in found.notes:
            print(f"    {note}", flush=True)
        if given.table:
            fault_tables.add(given.table, rows)

    teacher, text = write_teacher(top / "teacher"), write_text(top / "text", 28)
    task = write_task(top / "rows", 80)
    command = tuple(tiny_task(teacher, task, *TWO_EPOCHS))
    with ThreadPoolExecutor(given.jobs) as pool:
        try:
            kills = [case for case in cases(teacher, text, task, given.quick) if asked(case.name)]
            mishaps = [mishap for mishap in others(given.quick) if asked(mishap.name)]
            begun = [*campaign(kills, top / "killed", pool), *_caused(mishaps, command, top, given.quick, pool)]
            for name, futures in begun:
                whole = FaultResult()
                for future in futures:
                    whole.add(future.result())
                tell(name, whole)
            if asked(LONG):  # when nothing else runs: step times are measured
                steps = given.steps or (300 if given.quick else 20_000)
                mishap = Mishap(LONG, lambda lab: long_run(lab, steps))
                for name, futures in _caused([mishap], command, top / "long", given.quick, pool):
                    tell(name, futures[0].result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if not rows:
        names = " or ".join(given.only) or "anything"
        print(f"nothing was caused: no fault has {names} in its name", flush=True)
        return 2
    wrong = [row["fault"] for row in rows if row["wrong"]]
    print("all as promised" if not wrong else f"not as promised: {', '.join(wrong)}", flush=True)
    if given.table:
        print(f"\n{fault_tables.markdown(fault_tables.add(given.table, rows))}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
