"""Time that a teacher cache saves, and the cost of a large one: python -m benchmarks.cache [--data FOLDER] [--minutes 8]

Jobs: one fine-tuning job (the embedded 6-layer teacher, a 3-layer student, all rows asked) as a user runs it, in a
process of its own: without a cache, with an empty one, with the one that the run before has filled. They take turns
until the minutes are over, and the table has medians, least and most. FOLDER holds a GLUE-style train.tsv and dev.tsv
(made texts of SST-2's lengths without it). The teacher is prepared in one step: time does not depend on what it knows.

Rows: a cache of a million rows is written in one process, then opened and read at random in another, whose resident
memory is read from the kernel (Linux): its own, and the pages of mapped files, which the kernel may take back any time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

KEY = "0123456789abcdef"
PART = 10_000  # rows written at once


def made_task(folder: Path) -> None:
    """A folder with rows of words, of SST-2's lengths."""
    rng = np.random.default_rng(0)
    words = np.array([f"{a}{b}" for a in ("go", "ba", "fi", "mo") for b in ("od", "d", "lm", "ve", "st", "ry")])
    folder.mkdir()
    for split, rows in (("train", 20_000), ("dev", 400)):
        lengths = np.clip(rng.lognormal(2.1, 0.75, rows).astype(int) + 1, 1, 60)
        lines = (f"{' '.join(rng.choice(words, n))}\t{int(rng.integers(2))}" for n in lengths)
        (folder / f"{split}.tsv").write_text("sentence\tlabel\n" + "\n".join(lines) + "\n")


def job(folder: Path, data: Path, name: str, cache: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One run of the job; its seconds as a whole, its result's ledger."""
    command = [
        sys.executable, "-m", "kdlab.run", "+exp=adads_finetune", "select=all", f"data.path={data}", "exec=packed",
        "student.layers=3", f"trainer.max_steps={arguments.steps}", f"data.batch_size={arguments.batch}",
        "trainer.evaluate_every=100000", "trainer.checkpoint_every=100000", "trainer.probes=0", "trainer.threads=1",
        "data.max_length=128", "teachers.finetune.max_steps=1", "teachers.sanity=false", "no_kd_baseline=false",
        f"teachers.cache={cache}", f"hydra.run.dir={folder / name}", "overwrite=true", f"artifacts={folder / 'artifacts'}",
    ]  # fmt: skip
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return {"whole": seconds, **json.loads((folder / name / "result.json").read_text())["ledger"]}


def jobs(folder: Path, data: Path, arguments: argparse.Namespace) -> None:
    answers = folder / "artifacts" / "answers"
    ways = {"no cache": "off", "first run, empty cache": "disk", "second run, filled cache": "disk"}
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    until, turn = time.monotonic() + 60 * arguments.minutes * 0.75, 0.0
    job(folder, data, "warm", "off", argparse.Namespace(steps=1, batch=8))  # makes the teacher
    while not found["no cache"] or time.monotonic() + turn < until:
        began = time.monotonic()
        for way, cache in ways.items():
            if way.startswith("first"):
                shutil.rmtree(answers, ignore_errors=True)
            found[way].append(job(folder, data, "run", cache, arguments))
        turn = time.monotonic() - began
    size = sum(path.stat().st_size for path in answers.rglob("*") if path.is_file())
    rounds = len(found["no cache"])
    print(f"{arguments.steps} steps of {arguments.batch} rows, {rounds} turns; the cache takes {size / 1e6:.1f} MB")
    print(
        "| way | training s | least to most | teacher s | cache s | whole run s | queried | from cache | of no cache |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    base = statistics.median(one["seconds"]["training"] for one in found["no cache"])
    for way, runs in found.items():
        training = [one["seconds"]["training"] for one in runs]
        parts = [
            statistics.median(one["seconds"].get(part, 0.0) for one in runs)
            for part in ("teacher_forward", "teacher_cache")
        ]
        queries = runs[-1]["teacher_queries"]
        print(
            f"| {way} | {statistics.median(training):.1f} | {min(training):.1f} to {max(training):.1f} | {parts[0]:.1f} | "
            f"{parts[1]:.2f} | {statistics.median(one['whole'] for one in runs):.1f} | {queries['total']:,} | "
            f"{queries['cached']:,} | {base / statistics.median(training):.2f}x |"
        )


def resident() -> dict[str, float]:
    """Megabytes of this process: VmRSS, of which RssAnon is its own and RssFile pages of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    names = ("VmRSS", "RssAnon", "RssFile")
    return {name: int(line.split()[1]) / 1024 for line in lines for name in names if line.startswith(f"{name}:")}


def stored(folder: Path, rows: int) -> Any:
    from kdlab.teachers.cache.disk_store import DiskStore

    store = DiskStore(folder / "million", KEY, rows, {"benchmark": "cache"})
    store.open(print)
    return store


def write(folder: Path, rows: int, size: int) -> None:
    store, started = stored(folder, rows), time.perf_counter()
    data = np.random.default_rng(0).bytes(size)
    for start in range(0, rows, PART):
        some = range(start, min(start + PART, rows))
        store.read(-1, some, some, print)
        store.write(-1, some, some, [row.to_bytes(8, "little") + data for row in some], 1, 0)
    seconds = time.perf_counter() - started
    print(f"{rows:,} rows written in {seconds:.1f} s ({rows / seconds:,.0f} a second), {store.size / 1e6:,.0f} MB")


def read(folder: Path, rows: int, batch: int = 256, reads: int = 1000) -> None:
    rng = np.random.default_rng(1)
    before, started = resident(), time.perf_counter()
    store = stored(folder, rows)
    store.read(-1, [0], [0], print)
    opened = time.perf_counter() - started
    print(f"opened, first row read in {1000 * opened:.1f} ms; then batches of {batch} random rows")
    print("| rows read | VmRSS MB | its own (RssAnon) | mapped files (RssFile) | a batch, median ms |")
    print("|---|---|---|---|---|")
    print(f"| 0, not open | {before['VmRSS']:.1f} | {before['RssAnon']:.1f} | {before['RssFile']:.1f} | |")
    times: list[float] = []
    for turn in range(1, reads + 1):
        some = rng.integers(0, rows, batch).tolist()
        begun = time.perf_counter()
        found = store.read(-1, some, some, print)
        times.append(time.perf_counter() - begun)
        wrong = [row for row, one in zip(some, found, strict=True) if int.from_bytes(one.payload[:8], "little") != row]
        if wrong:
            raise SystemExit(f"rows {wrong} came back as others")
        if turn % (reads // 5) == 0:
            now = resident()
            cells = " | ".join(f"{now[name]:.1f}" for name in ("VmRSS", "RssAnon", "RssFile"))
            print(f"| {turn * batch:,} | {cells} | {1000 * statistics.median(times):.2f} |")
            times = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=600, help="bytes of an answer")
    parser.add_argument("--part", choices=["jobs", "rows"], help="one of the two")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, folder = arguments.child
        return (
            write(Path(folder), arguments.rows, arguments.size)
            if what == "write"
            else read(Path(folder), arguments.rows)
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.part != "rows":
            data = arguments.data and arguments.data.absolute()
            if data is None:
                data = folder / "task"
                made_task(data)
            jobs(folder, data, arguments)
        for what in ("write", "read") if arguments.part != "jobs" else ():
            sizes = ["--rows", str(arguments.rows), "--size", str(arguments.size)]
            subprocess.run([sys.executable, "-m", "benchmarks.cache", "--child", what, name, *sizes], check=True)


if __name__ == "__main__":
    main()
