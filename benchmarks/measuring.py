"""Shared parts of the benchmarks: command line, machine, rows of real lengths, alternating timing, tables."""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.mlm_memory import peak_of
from kdlab.runs.environment import processor
from kdlab.runtime import ledger
from kdlab.types import Batch

SHORTEST = 1000  # ids below belong to special tokens in BERT's vocabulary
# lengths of made rows: mean and deviation of the logarithm of a log-normal number, and special tokens added to it; by task
MADE = {
    "SST-2": (2.3, 0.75, 3),
    "MNLI": (
        3.5,
        0.5,
        3,
    ),  # 40 tokens on average, an assumption: a premise of some 20 words, a hypothesis of some 10
}
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


# ---- the command line, and the machine


def parser_of(doc: str | None, minutes: float | None) -> argparse.ArgumentParser:
    """Options of every benchmark: where the rows come from, how long it takes, how large the models are. `minutes` of
    measuring, or None where turns of several processes are counted."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a task's folder with train.tsv, or a folder of such folders")
    parser.add_argument("--task", default="SST-2", help="which one of a folder of tasks (default SST-2)")
    parser.add_argument("--max-length", type=int, default=128)
    if minutes is not None:
        parser.add_argument("--minutes", type=float, default=minutes, help=f"of measuring (default {minutes:g})")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: on a shared machine, what the process itself computed"
    )
    parser.add_argument("--turns", type=int, help="measure so many turns, however long they take")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=384, help="width of student and teacher (default 384)")
    parser.add_argument("--head-width", type=int, default=32, help="of an attention head (default 32)")
    parser.add_argument("--layers", default="3,6", help="layers of student and teacher (default 3,6)")
    parser.add_argument(
        "--dropout", type=float, default=0.1, help="of student and teacher, in attention too (default 0.1)"
    )
    parser.add_argument("--attention-dropout", type=float, help="of attention weights, if it is not that of --dropout")
    parser.add_argument("--vocab", type=int, default=30522)
    parser.add_argument("--freeze", nargs="*", default=[], help="parts of the student that stay, as in student.freeze=")
    return parser


def clock_of(name: str) -> Callable[[], float]:
    """The clock that seconds are read from, the ledger's too."""
    ledger.perf_counter = CLOCKS[name]
    return CLOCKS[name]


def machine(threads: int, clock: str = "wall", device: str = "cpu") -> str:
    """One line: GPU where one is used, processor, cores, bfloat16, threads, what is timed, versions."""
    asks = {"avx512_bf16": "_is_avx512_bf16_supported", "amx": "_is_amx_tile_supported"}  # torch has no public way
    bf16 = [word for word, ask in asks.items() if getattr(torch.cpu, ask, bool)()]
    gpu = "" if device == "cpu" else f"{torch.cuda.get_device_name()}; "
    return (
        f"{gpu}{processor()}, {os.cpu_count()} cores, bfloat16 by {' and '.join(bf16) or 'emulation'}; {threads} thread"
        f"{'s' if threads > 1 else ''}, {clock} time; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


# ---- rows


def lengths_of(folder: Path | None, limit: int, task: str = "SST-2") -> np.ndarray:
    """Token counts of the rows of a task, cut to `limit`; without a folder made ones, distributed like the task's (`MADE`),
    of another task like SST-2's.

    One token for each word and sign, a little more for long words, two around the texts.
    """
    rng = np.random.default_rng(0)
    if folder is None:
        mean, deviation, special = MADE.get(task, MADE["SST-2"])
        return np.clip(np.round(rng.lognormal(mean, deviation, 20000)).astype(int) + special, 4, limit)
    folder = folder if (folder / "train.tsv").is_file() else folder / task
    with open(folder / "train.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    texts = [name for name in rows[0] if name.startswith(("sentence", "question", "premise", "hypothesis"))]
    counts = [2 + sum(1 + round(1.15 * len(row[name].split())) for name in texts) for row in rows[:50000]]
    return np.minimum(np.array(counts), limit)


def batches(lengths: np.ndarray, size: int, count: int, vocab: int = 30522) -> list[Batch]:
    """`count` batches of `size` random rows of these lengths, padded to the longest of each batch; two classes."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        chosen = rng.choice(lengths, size)
        mask = torch.arange(int(chosen.max())) < torch.from_numpy(chosen).unsqueeze(1)
        ids = torch.from_numpy(rng.integers(min(SHORTEST, vocab // 2), vocab, mask.shape)) * mask
        labels = torch.from_numpy(rng.integers(0, 2, size))
        found.append(Batch(torch.arange(size), 0, ids, mask.long(), labels, torch.ones(size, dtype=torch.bool)))
    return found


# ---- measuring


def in_turns(
    ways: Mapping[str, Callable[[int], Any]],
    minutes: float,
    turns: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
    least: int = 4,
) -> dict[str, list[float]]:
    """Seconds of each way in each turn: A B C A B C, so that all see the same machine.

    A way is called with the number of the turn. The first turn warms up and is left out. Turns are taken for `minutes`,
    and until there are `least`; or there are `turns` of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    until, turn = time.monotonic() + 60 * minutes, 0
    while turn <= turns if turns is not None else (time.monotonic() < until or turn <= least):
        for name, way in ways.items():
            torch.manual_seed(turn)
            started = clock()
            way(turn)
            if turn:
                seconds[name].append(clock() - started)
        turn += 1
    return seconds


def wait_for(device: str) -> None:
    """Wait until a GPU has done all that it was asked for."""
    if device != "cpu":
        torch.cuda.synchronize()


def rise_of(work: Callable[[], Any], device: str) -> float:
    """Gigabytes by which memory rises at its highest while `work()` runs: allocated by torch on a GPU, else resident."""
    if device == "cpu":
        return peak_of(work)
    wait_for(device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile, linear between neighbours (NumPy's default)."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def times(base: Sequence[float], way: Sequence[float]) -> float:
    """Speed-up of `way` over `base`: the median over turns of their quotient in the same turn."""
    return statistics.median(b / w for b, w in zip(base, way, strict=True))


def milliseconds(seconds: Sequence[float], digits: int = 0) -> tuple[str, str]:
    """Cells of a table: the median, and the quartiles."""
    low, middle, high = (1000 * q for q in quartiles(seconds))
    return f"{middle:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
