"""Many rows: the memory to prepare them does not grow with their number; a run of them goes on bit for bit."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from kdlab.testing.child_process import forked
from tests.support.runs import assert_same, call, outcome, tiny_task

MORE = ["trainer.max_steps=8", "hydra.run.dir=run"]


def megabytes(name: str) -> float:
    """A number of this process in the kernel's table: VmHWM, VmRSS."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def rise_of_a_preparation(folder: Path, rows: int) -> float:
    """MB by which resident memory rises at its highest while so many rows are read, held out, limited to 2,000, tokenised."""
    from kdlab.data.tasks import dataset
    from kdlab.data.tasks.rows import limited
    from kdlab.data.tasks.sources import TaskFolder
    from kdlab.testing.tiny import tiny_tokenizer

    folder.mkdir()
    with open(folder / "train.tsv", "w") as file:
        file.write("text\tlabel\n")
        file.writelines(f"row {i} ba ke lo\t{i % 3}\n" for i in range(rows))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = megabytes("VmRSS")
    source = TaskFolder(str(folder))
    source.fingerprint()
    (folder / "out").mkdir()
    dataset.prepare(limited(source.read(), 2_000), tiny_tokenizer(), folder / "out", max_length=16)
    return megabytes("VmHWM") - before


def measure(folder: Path) -> None:
    """Fail unless 60,000 rows take little more memory than none."""
    from kdlab.data.tasks import row_store

    row_store.IN_MEMORY = 2**20
    os.environ["RAYON_NUM_THREADS"] = "1"
    few = rise_of_a_preparation(folder / "few", 3_000)  # with what is imported and allocated once
    many = rise_of_a_preparation(folder / "many", 60_000)
    print(f"MB: {few:.1f} of few rows, {many:.1f} of many", flush=True)
    assert many < 12, "a list of rows takes 22 MB, and their parsed records as much"


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    child = forked(partial(measure, tmp_path), {}, tmp_path / "log", tmp_path)
    assert child.wait() == 0, (tmp_path / "log").read_text()


class SmallLimits:
    """Every set of rows is a large one: of its order, of its memory, and what is remembered of its labels."""

    def __init__(self, kill: int | None = None, reads: bool = True) -> None:
        self.kill, self.reads = kill, reads

    def __call__(self) -> None:
        from kdlab.data import loading
        from kdlab.data.tasks import row_store, sources
        from tests.support.runs import KillAt

        loading.LARGE, row_store.IN_MEMORY, sources.REMEMBERED = 20, 500, 0
        if not self.reads:
            sources.TaskFolder._records = None  # pyright: ignore[reportAttributeAccessIssue]
        if self.kill is not None:
            KillAt(self.kill)()


def test_a_run_of_many_rows_goes_on_bit_for_bit_and_reads_them_once(
    teacher_folder, task_folder, tmp_path: Path
) -> None:
    given = tiny_task(teacher_folder, task_folder, *MORE, f"artifacts={tmp_path / 'artifacts'}")
    whole = call(given, tmp_path / "whole", SmallLimits())
    assert whole.code == 0, whole.output
    assert call(given, tmp_path / "killed", SmallLimits(5)).code == -9
    done = call(given, tmp_path / "killed", SmallLimits(reads=False))
    assert done.code == 0 and "resuming the unfinished run" in done.output, done.output
    assert_same(outcome(tmp_path / "killed" / "run"), outcome(tmp_path / "whole" / "run"))
