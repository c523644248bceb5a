"""All faults of `python -m kdlab.faults`: which runs are killed, which other faults are injected, and the report of both."""

from __future__ import annotations

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
from kdlab.testing.file_kills import results_killed
from kdlab.testing.kills import KillCase, reference_run, start_kills
from kdlab.testing.long_run import long_run
from kdlab.testing.rank_faults import dying_ranks, first_killed
from kdlab.testing.signals_and_nans import nonfinite, nonfinite_skipped, signals, signals_preparing, two_makers
from kdlab.testing.tiny import write_task, write_teacher, write_text

TWO_EPOCHS = ("trainer.max_steps=null", "trainer.max_epochs=2", "trainer.probes=1")  # 4 steps on text, 5 on rows
RANKS = ("trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=8")
KSM = ("weigh.episodes=1", "weigh.phase=3", "weigh.reward_rows=16")
CACHED = (
    "teachers.cache=disk",
    "teachers.sanity=false",
    "data.train_rows=40",
    "trainer.max_epochs=4",
)  # rows come again
WORKERS = ("data.workers=2",)
LONG = "a long run"
MEMORY_NEEDED = 4e9  # free bytes of /dev/shm needed to work there


def cases(teacher: Path, text: Path, rows: Path, quick: bool) -> list[KillCase]:
    """The commands to kill. `quick`: a third of them, with 3 points each."""

    def task(name: str, *more: str) -> tuple[str, ...]:
        return tuple(tiny_task(teacher, rows, f"+exp={name}", *TWO_EPOCHS, *more))

    def cached(overrides: tuple[str, ...]) -> tuple[str, ...]:
        return override(overrides, *CACHED)

    pretrain = tuple(tiny(teacher, text, *TWO_EPOCHS))
    finetune, dekd, ksm = task("adads_finetune"), task("dekd"), task("ksm", *KSM)
    pretrain_cached = (*pretrain, "teachers.cache=disk")
    kills = [
        KillCase("killed: adads_pretrain", pretrain, points=48),
        KillCase("killed: adads_finetune", finetune, points=48),
        KillCase("killed: dekd", dekd, points=42),
        KillCase("killed: ksm", ksm, points=42),
        KillCase("killed: adads_finetune, while its teacher is made", finetune, prepared=False, points=12),
        KillCase("killed: dekd, while teacher and assistant are made", dekd, prepared=False, points=12),
        KillCase("killed: ksm, while teacher and module are made", ksm, prepared=False, points=24),
        KillCase("killed: adads_pretrain, writing answers", pretrain_cached, points=12, only="answers"),
        KillCase("killed: adads_finetune, writing answers", cached(finetune), points=12, only="answers", epochs=4),
        KillCase("killed: dekd, writing answers", cached(dekd), points=12, only="answers", epochs=4),
        KillCase("killed: ksm, writing answers", cached(ksm), points=12, only="answers", epochs=4),
        KillCase("killed: adads_finetune, 2 ranks, writing answers", override(cached(finetune), *RANKS), ranks=2, points=6,
             only="answers", epochs=4),
        KillCase("killed: adads_pretrain, 2 loader workers", (*pretrain, *WORKERS), points=12, workers=2),
        KillCase("killed: adads_finetune, 2 loader workers", (*finetune, *WORKERS), points=6, workers=2),
        KillCase("killed: dekd, 2 loader workers", (*dekd, *WORKERS), points=6, workers=2),
        KillCase("killed: ksm, 2 loader workers", (*ksm, *WORKERS), points=6, workers=2),
        KillCase("killed: adads_pretrain, 2 ranks", override(pretrain, *RANKS), ranks=2, points=18),
        KillCase("killed: adads_finetune, 2 ranks", override(finetune, *RANKS), ranks=2, points=12),
        KillCase("killed: dekd, 2 ranks", override(dekd, *RANKS), ranks=2, points=12),
        KillCase("killed: ksm, 2 ranks, 2 loader workers", override(ksm, *RANKS, *WORKERS), ranks=2, points=12, workers=2),
    ]  # fmt: skip
    return [replace(case, points=3) for case in kills[::3]] if quick else kills


@dataclass(frozen=True)
class OtherFault:
    """A fault other than a kill: `inject` runs it in a `FaultLab`, on `ranks` processes per run."""

    name: str
    inject: Callable[[FaultLab], FaultResult]
    ranks: int = 1


def other_faults(quick: bool) -> list[OtherFault]:
    """All faults other than kills and the long run. `quick`: fewer sizes and launchers."""
    sizes, launchers = (3, ("devices",)) if quick else (12, ("devices", "torchrun"))
    faults = [
        OtherFault("checkpoints damaged", damaged),
        OtherFault("disks filled", lambda lab: full_disks(lab, sizes)),
        OtherFault("disks made read-only, permission taken", read_only),
        OtherFault("signals", signals),
        OtherFault("signals while a teacher is made", signals_preparing),
        OtherFault("steps that are not finite", nonfinite),
        OtherFault("steps that are not finite, left out", nonfinite_skipped),
        OtherFault("two makers of one artifact", two_makers),
        OtherFault("results killed before each operation on their files", results_killed),
        OtherFault("dying ranks", lambda lab: dying_ranks(lab, launchers)),
        OtherFault("the first process of two ranks killed from outside", first_killed),
        OtherFault("signals on one of two ranks", signals, ranks=2),
        OtherFault("steps that are not finite on one of two ranks", nonfinite, ranks=2),
        OtherFault("steps that are not finite on one of two ranks, left out", nonfinite_skipped, ranks=2),
    ]
    return faults[:-1] if quick else faults


def _injected(
    faults: Sequence[OtherFault], command: tuple[str, ...], top: Path, quick: bool, pool: Executor
) -> Iterator[tuple[str, list[Future[FaultResult]]]]:
    """The name of each fault and its future in `pool`, after undisturbed runs on as many ranks."""
    runs = {
        ranks: KillCase("undisturbed", override(command, *RANKS) if ranks > 1 else command, ranks=ranks)
        for ranks in sorted({fault.ranks for fault in faults})
    }
    references = {ranks: pool.submit(reference_run, case, top / f"whole-{ranks}") for ranks, case in runs.items()}
    for number, fault in enumerate(faults):
        reference, overrides = references[fault.ranks].result(), runs[fault.ranks].command
        artifacts = reference.folder / "artifacts"
        lab = FaultLab(top / f"lab-{number}", overrides, reference.outcome, artifacts, fault.ranks, few=quick)
        yield fault.name, [pool.submit(timed, fault.inject, lab)]


def override(overrides: Sequence[str], *more: str) -> tuple[str, ...]:
    """`overrides` with those of the same keys replaced by `more`."""
    keys = {line.split("=")[0] for line in more}
    return (*(line for line in overrides if line.split("=")[0] not in keys), *more)


@dataclass(frozen=True)
class FaultOptions:
    """Choice of the faults.

    `only` and `but`: words of which a fault's name must contain one, or none. `jobs`: runs at a time. `steps`: of the
    long run (None: 20000; 300 if `quick`). `table`: a file that collects the rows of several calls.
    """

    quick: bool = False
    only: Sequence[str] = ()
    but: Sequence[str] = ()
    jobs: int = 1
    steps: int | None = None
    table: Path | None = None

    def chooses(self, name: str) -> bool:
        """True if a fault's name is chosen."""
        included = not self.only or any(word in name for word in self.only)
        return included and not any(word in name for word in self.but)


def run_suite(options: FaultOptions, folder: Path | None = None) -> int:
    """Inject the chosen faults and print a row for each; returns 1 if any result was wrong, 2 if no fault was chosen.

    `folder`: where to work (default: in memory if there is room); what is written there is removed at the end.
    """
    for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    top = Path(tempfile.mkdtemp(prefix="kdlab-faults-", dir=folder or _memory_folder()))
    try:
        if options.table:
            fault_tables.add(options.table, [])  # an unusable file is refused before hours of work
        return _Suite(options, top).run()
    except UserError as error:
        print(f"kdlab: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(top, ignore_errors=True)


def _memory_folder() -> str | None:
    """A folder in memory, if it has room."""
    shared = "/dev/shm"
    return shared if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > MEMORY_NEEDED else None


class _Suite:
    """The chosen faults and the rows of those that are done."""

    def __init__(self, options: FaultOptions, top: Path) -> None:
        self.options, self.top = options, top
        self.rows: list[dict[str, Any]] = []

    def run(self) -> int:
        """Inject the faults, print the table and return the exit code."""
        print(fault_tables.line(fault_tables.HEAD), flush=True)
        self._inject()
        if not self.rows:
            names = " or ".join(self.options.only) or "anything"
            print(f"nothing was caused: no fault has {names} in its name", flush=True)
            return 2
        wrong = [row["fault"] for row in self.rows if row["wrong"]]
        print("all as promised" if not wrong else f"not as promised: {', '.join(wrong)}", flush=True)
        if self.options.table:
            print(f"\n{fault_tables.markdown(fault_tables.add(self.options.table, self.rows))}", flush=True)
        return 1 if wrong else 0

    def _inject(self) -> None:
        options, top = self.options, self.top
        teacher, text = write_teacher(top / "teacher"), write_text(top / "text", 28)
        task = write_task(top / "rows", 80)
        command = tuple(tiny_task(teacher, task, *TWO_EPOCHS))
        with ThreadPoolExecutor(options.jobs) as pool:
            try:
                kills = [case for case in cases(teacher, text, task, options.quick) if options.chooses(case.name)]
                faults = [fault for fault in other_faults(options.quick) if options.chooses(fault.name)]
                started = [
                    *start_kills(kills, top / "killed", pool),
                    *_injected(faults, command, top, options.quick, pool),
                ]
                for name, futures in started:
                    total = FaultResult()
                    for future in futures:
                        total.add(future.result())
                    self._report(name, total)
                if options.chooses(LONG):  # when nothing else runs: step times are measured
                    steps = options.steps or (300 if options.quick else 20_000)
                    fault = OtherFault(LONG, lambda lab: long_run(lab, steps))
                    for name, futures in _injected([fault], command, top / "long", options.quick, pool):
                        self._report(name, futures[0].result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _report(self, name: str, result: FaultResult) -> None:
        """Print the row of a fault with its notes, and add it to the table."""
        if name.startswith(fault_tables.KILLED) and not result.injected:
            result.wrong, result.notes = 1, [*result.notes, "nothing was killed"]
        self.rows.append(fault_tables.row(name, result))
        print(fault_tables.line([self.rows[-1][key] for key in fault_tables.HEAD]), flush=True)
        for note in result.notes:
            print(f"    {note}", flush=True)
        if self.options.table:
            fault_tables.add(self.options.table, self.rows)
