"""A long run of tiny steps: memory, step time, open files and logs must stay as they are after the warm-up."""

from __future__ import annotations

import csv
import shutil
import statistics
from collections.abc import Sequence

from kdlab.testing.child_process import call
from kdlab.testing.fault_lab import FaultLab, FaultResult
from kdlab.testing.fault_points import MeasureSteps

GROWTH = 0.02  # of resident memory
SLOWER = 0.25  # of the median step, on a machine that others use as well
LOG = 200_000  # bytes printed


def long_run(lab: FaultLab, steps: int) -> FaultResult:
    """`steps` steps with selection, observations, evaluations and checkpoints at ordinary cadence."""
    folder = lab.new_folder()
    more = [f"trainer.max_steps={steps}", "trainer.max_epochs=null", "trainer.checkpoint_every=100",
            "trainer.evaluate_every=50", "select.interval=10", "hydra.run.dir=run"]  # fmt: skip
    given = [o for o in lab.command if o.split("=")[0] not in {m.split("=")[0] for m in more}]
    log = folder / "steps.csv"
    done = call([*given, *more], folder, MeasureSteps(log), timeout=36_000)
    if done.code != 0:
        return FaultResult(1, 1, [f"the long run ends with {done.code}: {done.output[-2000:]}"])
    with open(log) as file:
        rows = [(float(a), int(b), int(c)) for a, b, c in csv.reader(file)][-steps:]
    seconds = [b[0] - a[0] for a, b in zip(rows, rows[1:], strict=False)]
    warm, tenth = len(rows) // 10, max(1, len(rows) // 10)
    early, late = slice(warm, warm + tenth), slice(len(rows) - tenth, len(rows))
    memory = _ratio([row[1] for row in rows], early, late)
    pace = _ratio(seconds, slice(warm, len(rows) // 2), slice(len(rows) // 2, len(rows)))
    files = max(row[2] for row in rows[late]) - max(row[2] for row in rows[early])
    printed = len(done.output)
    tables = sum(file.stat().st_size for file in (folder / "run").glob("*.csv")) / steps
    kept = len(list((folder / "run" / "checkpoints").iterdir()))
    fine = memory < GROWTH and pace < SLOWER and files <= 0 and printed < LOG and kept == 4
    note = (
        f"{steps} steps: memory {memory:+.2%} since the warm-up ({rows[-1][1] / 1e6:.0f} MB), median step {pace:+.1%} in the "
        f"second half ({1000 * statistics.median(seconds):.1f} ms), open files {files:+d}, {printed / 1000:.1f} KB printed, "
        f"tables {tables:.0f} bytes a step"
    )
    shutil.rmtree(folder)
    return FaultResult(1, int(not fine), [note])


def _ratio(values: Sequence[float], early: slice, late: slice) -> float:
    """Relative growth of the median from `early` to `late`."""
    return statistics.median(values[late]) / statistics.median(values[early]) - 1
