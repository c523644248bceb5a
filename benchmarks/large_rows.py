"""Memory and time of many short rows: read, prepared, opened, trained on for 3 steps, resumed.

    python -m benchmarks.large_rows --rows 1000000 [--format tsv|csv|jsonl] [--held-out]

Made rows of 4 to 11 words with one of two labels, and 60 dev rows (--held-out: none, so that a share of train is held
out). Each of --parts is a process of its own: `prepare` (read and tokenise), `begin` (a tiny run of AdaDS with a 4-layer
teacher of 32 hidden units, which prepares the rows too, trains the teacher for 40 steps, and is killed in its third step),
`resume` (the same command again) and `open` (the prepared rows). A line of the table has the highest resident memory so
far, which the kernel counts (Linux), and seconds without imports, by the clock and of the processor. --work keeps the files.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import machine, table
from kdlab.testing.tiny import WORDS, write_teacher

CHUNK = 100_000  # rows that are made at once
STEPS = 3


def make_rows(folder: Path, rows: int, kind: str, held_out: bool) -> None:
    """Write train, and dev unless `held_out`, into the empty `folder`."""
    for split, count in (("train", rows), *([] if held_out else [("dev", 60)])):
        rng = np.random.default_rng(len(split))
        with (folder / f"{split}.{kind}").open("w", newline="") as file:
            if kind != "jsonl":
                file.write("sentence,label\n" if kind == "csv" else "sentence\tlabel\n")
            for start in range(0, count, CHUNK):
                _write(file, kind, *_made(rng, min(CHUNK, count - start)))


def _made(rng: np.random.Generator, rows: int) -> tuple[list[str], list[int]]:
    ends = np.cumsum(rng.integers(4, 12, rows))
    words = np.array(WORDS)[rng.integers(0, len(WORDS), ends[-1])].tolist()
    starts = [0, *ends[:-1].tolist()]
    texts = [" ".join(words[a:b]) for a, b in zip(starts, ends.tolist(), strict=True)]
    return texts, rng.integers(0, 2, rows).tolist()


def _write(file: Any, kind: str, texts: list[str], labels: list[int]) -> None:
    pairs = zip(texts, labels, strict=True)
    if kind == "csv":
        csv.writer(file, lineterminator="\n").writerows(pairs)
    elif kind == "tsv":
        file.writelines(f"{text}\t{label}\n" for text, label in pairs)
    else:
        file.writelines(json.dumps({"sentence": text, "label": label}) + "\n" for text, label in pairs)


def _status(name: str) -> int:
    """A number of this process in the kernel's table, in bytes: VmRSS, VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


@contextmanager
def measured(part: str) -> Iterator[None]:
    """Print what the block took, as one line of JSON."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    begun = Begun()
    yield
    begun.report(part)


class Begun:
    """The state of this process when a part begins."""

    def __init__(self) -> None:
        self.before, self.seconds, self.cpu = _status("VmRSS"), time.perf_counter(), time.process_time()

    def report(self, part: str) -> None:
        """Print what the part took so far."""
        found = {"part": part, "before": self.before, "peak": _status("VmHWM")}
        found |= {"seconds": time.perf_counter() - self.seconds, "cpu": time.process_time() - self.cpu}
        print("measured " + json.dumps(found), flush=True)


def prepare(work: Path) -> None:
    """Check, identify, read and tokenise the rows."""
    from transformers import AutoTokenizer

    from kdlab.data.tasks import dataset
    from kdlab.data.tasks.sources import TaskFolder

    source, tokenizer = TaskFolder(str(work / "rows")), AutoTokenizer.from_pretrained(work / "teacher")
    with measured("check and fingerprint"):
        source.check()
        source.fingerprint()
    with measured("read"):
        data = source.read()
    (work / "prepared").mkdir()
    with measured("tokenise"):
        dataset.prepare(data, tokenizer, work / "prepared", max_length=32)


def open_prepared(work: Path) -> None:
    """Open the prepared rows, hold some out, take batches at the beginning and far away."""
    from kdlab.data.datamodules import GLUEDataModule
    from kdlab.data.tasks import dataset

    folder = next(iter([*work.glob("artifacts/task/????????????????"), work / "prepared"]))
    with measured("open"):
        dataset.rows_in_train(folder)
        data = GLUEDataModule(folder, 0, 32, 0, epochs=3)
    with measured("set rows aside"):
        data.set_aside(256)
    with measured("observed rows"):
        for _ in range(3):
            list(data.observed_batches(64))
    with measured("first batches"):
        data.coming_batches(0, 10)
    with measured("batches of epoch 1"):
        data.coming_batches(data.sampler().per_epoch + 7, 1000)


def run(work: Path, killed: bool) -> None:
    """A tiny run; `killed` in its last step. Prints what it took to the first step, and to the end."""
    from kdlab.runs import process
    from kdlab.testing.child_process import tiny_task
    from kdlab.testing.fault_points import before_each

    more = [f"trainer.max_steps={STEPS}", "trainer.checkpoint_every=1", "teachers.sanity=false", "hydra.run.dir=run"]
    arguments = tiny_task(work / "teacher", work / "rows", *more)
    for module in process.PRELOADED:
        __import__(module)
    begun, seen = Begun(), list[int]()

    def step(module: Any) -> None:
        if type(module).__name__ != "StudentModule":
            return
        if not seen:
            begun.report(f"{'begin' if killed else 'resume'}: to the first step")
        seen.append(module.trainer.global_step)
        if killed and seen[-1] == STEPS - 1:
            begun.report("begin: to the last step")
            os.kill(os.getpid(), signal.SIGKILL)

    before_each("training_step", step)
    os.chdir(work)
    code = process.run_command(arguments)
    begun.report("resume: to the end")
    sys.stdout.flush()
    os._exit(code)


PARTS: dict[str, Callable[[Path], None]] = {
    "prepare": prepare,
    "begin": partial(run, killed=True),
    "resume": partial(run, killed=False),
    "open": open_prepared,
}


def measure(part: str, work: Path) -> list[dict[str, Any]]:
    """What the parts of one child process took."""
    command = [sys.executable, "-m", "benchmarks.large_rows", "--part", part, "--work", str(work)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = done.stdout.splitlines()
    if done.returncode != (-signal.SIGKILL if part == "begin" else 0):
        raise SystemExit(f"{part} ended with {done.returncode}:\n" + "\n".join(lines[-30:]))
    return [json.loads(line.removeprefix("measured ")) for line in lines if line.startswith("measured ")]


def measure_all(work: Path, rows: int, kind: str, held_out: bool, parts: Iterable[str]) -> list[dict[str, Any]]:
    """Make the rows and a teacher in `work`, and measure the parts."""
    (work / "rows").mkdir(parents=True)
    make_rows(work / "rows", rows, kind, held_out)
    write_teacher(work / "teacher")
    return [found for part in parts for found in measure(part, work)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--format", choices=("tsv", "csv", "jsonl"), default="tsv")
    parser.add_argument("--held-out", action="store_true", help="no dev file")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--work", type=Path, help="a new folder for the files (default: a temporary one)")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.part:
        return PARTS[chosen.part](chosen.work)
    root = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as name:
        found = measure_all(
            chosen.work or Path(name, "work"), chosen.rows, chosen.format, chosen.held_out, chosen.parts
        )
    threads = int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1
    print(f"{machine(threads)}; load {os.getloadavg()[0]:.1f}; {chosen.rows:,} rows, {chosen.format}")
    cells = [
        [one["part"], *(f"{one[name] / 10**6:.0f}" for name in ("before", "peak"))]
        + [f"{one[name]:.1f}" for name in ("seconds", "cpu")]
        for one in found
    ]
    print(table(["part", "MB before", "MB at the peak", "s", "s of processor"], cells))


if __name__ == "__main__":
    main()
