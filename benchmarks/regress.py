"""Has anything become slower? Ten numbers of this checkout against those of another commit of it.

    python -m benchmarks.regress HEAD~10
    python -m benchmarks.regress $(git rev-list -1 --before=yesterday HEAD) --turns 3

Each number is of a command that a user types, in a process of its own, so that any commit whose command line is the same can be
measured. The commit is checked out beside this one, and both take turns, A B A B. A number is slower if it is by more than
a tenth in the median of the turns, and slower in every turn; then the exit code is 1. Models are random, of hidden 384.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from benchmarks.measuring import lengths_of, machine, table, times
from benchmarks.steps import Sizes
from benchmarks.trainer import write_rows, write_teacher
from kdlab.errors import UserError

LIMIT = 1.1  # a number that grows by more than this factor has become slower
SIZES = Sizes(student=3, teacher=6, hidden=384, vocab=8000)


@dataclass(frozen=True)
class Command:
    """A command whose cost is measured: `python -m kdlab.run` with `overrides`.

    `numbers`: the names of what is read from it, and how (`NUMBERS`).
    """

    name: str
    overrides: tuple[str, ...]
    numbers: Mapping[str, str]

    @property
    def prepares(self) -> bool:
        """True for a command that only prepares, as that of a sweep does."""
        return self.overrides[:1] == ("--prepare",)


@dataclass(frozen=True)
class Measured:
    """What one command cost: `wall` seconds, `rss` bytes at the peak, `result` its result.json (empty: it wrote none)."""

    wall: float
    rss: int
    result: dict[str, Any]


def step_milliseconds(found: Measured) -> float:
    """Milliseconds of a step, evaluations left out."""
    seconds = found.result["ledger"]["seconds"]
    return 1000 * (seconds["total"] - seconds.get("evaluation", 0.0)) / found.result["steps"]


NUMBERS = {
    "ms a step": step_milliseconds,
    "loop, ms a step": lambda found: 1000 * found.result["ledger"]["seconds"]["loop"] / found.result["steps"],
    "s": lambda found: found.wall,
    "GB": lambda found: found.rss / 1e9,
}


def commands(folder: Path, steps: int) -> list[Command]:
    """The commands, on the inputs in `folder`, whose runs have `steps` steps."""
    common = (
        f"trainer.max_steps={steps}", f"trainer.evaluate_every={steps}", "trainer.probes=0", "trainer.threads=1",
        "trainer.accelerator=cpu", "teachers.sanity=false",
    )  # fmt: skip
    task = (
        "+exp=adads_finetune", f"teachers.path={folder / 'teacher'}", f"data.path={folder / 'rows'}", "data.max_length=64",
        "no_kd_baseline=false", *common,
    )  # fmt: skip
    text = (
        "+exp=adads_pretrain",
        f"teachers.path={folder / 'language_model'}",
        f"data.path={folder / 'text'}",
        *common,
    )
    encoder = f"teachers.path={folder / 'language_model'}"
    return [
        Command("all rows", (*task, "select=all"), {"ratio 1": "ms a step"}),
        Command("random rows", (*task, "select=random"), {"ratio 0.1, random": "ms a step", "the loop": "loop, ms a step"}),
        Command("entropy", (*task, "select=entropy"), {"ratio 0.1, entropy": "ms a step"}),
        Command("looking at less", (*task, "select=entropy", "select.look=0.3"), {"ratio 0.1, entropy, look 0.3": "ms a step"}),
        Command("masked text", (*text, "select=adads"), {"masked LM, adads": "ms a step", "masked LM, memory": "GB"}),
        Command("start", (*task, "select=all", "trainer.max_steps=1", "trainer.evaluate_every=1"), {"a run of one step": "s"}),
        Command("tokenised text", ("--prepare", *text, f"artifacts={folder / 'new'}"), {"tokenised text": "s"}),
        Command(
            "fine-tuned teacher", ("--prepare", *task, encoder, f"teachers.finetune.max_steps={steps}", f"artifacts={folder / 'new'}"),
            {"fine-tuned teacher": "s"},
        ),
    ]  # fmt: skip


NAMES = tuple(command.name for command in commands(Path(), 1))


def write_inputs(folder: Path, files: int = 400) -> None:
    """Write random models, rows of SST-2's lengths, and `files` of 10 KB of text."""
    write_teacher(folder / "teacher", SIZES)
    write_rows(folder / "rows", lengths_of(None, 64), SIZES.vocab, 3000)
    shutil.copytree(folder / "teacher", folder / "language_model")
    transformers.BertForMaskedLM(SIZES.config(SIZES.teacher)).save_pretrained(folder / "language_model")
    (folder / "text").mkdir()
    rng = np.random.default_rng(0)
    for i in range(files):
        words = rng.integers(0, SIZES.vocab - 5, 1700)
        (folder / "text" / f"{i:03}.txt").write_text(" ".join(f"w{word}" for word in words) + "\n")


def measure(tree: Path, command: Command, folder: Path) -> Measured:
    """Run `command` with the code in `tree`. UserError for one that fails."""
    place = folder / "run"
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(folder / "new", ignore_errors=True)
    artifacts = (
        [] if any(part.startswith("artifacts=") for part in command.overrides) else [f"artifacts={folder / tree.name}"]
    )
    where = "sweep" if command.prepares else "run"
    given = [sys.executable, "-m", "kdlab.run", *command.overrides, *artifacts, f"hydra.{where}.dir={place}"]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with open(folder / "log.txt", "w+", encoding="utf-8") as log:
        began = time.perf_counter()
        process = subprocess.Popen(given, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
        log.seek(0)
        if process.returncode:
            last = (log.read().strip().splitlines() or [""])[-1]
            raise UserError(f"{command.name}: code {process.returncode} with the code in {tree}: {last}")
    result = place / "result.json"
    unit = 1 if sys.platform == "darwin" else 1024
    return Measured(wall, usage.ru_maxrss * unit, json.loads(result.read_text()) if result.is_file() else {})


def compare(
    trees: Mapping[str, Path], folder: Path, turns: int, steps: int, only: str = ""
) -> Iterator[dict[str, dict[str, list[float]]]]:
    """The numbers of each command in each turn, by the name of the tree. The first run of a command, which makes its artifacts,
    is left out. `only`: commands whose name contains it."""
    for command in commands(folder, steps):
        if only not in command.name:
            continue
        found: dict[str, dict[str, list[float]]] = {}
        for turn in range(turns + 1):
            if turn == 0 and command.prepares:
                continue  # nothing that it makes is kept
            for name, tree in trees.items():
                got = measure(tree, command, folder)
                for number, way in command.numbers.items() if turn else ():
                    found.setdefault(number, {}).setdefault(name, []).append(NUMBERS[way](got))
        yield found


def is_slower(before: Sequence[float], now: Sequence[float]) -> bool:
    """True for a number that has grown by more than `LIMIT` in the median of the turns, and in every turn."""
    return 1 / times(before, now) > LIMIT and all(b < n for b, n in zip(before, now, strict=True))


def lines(found: Mapping[str, Mapping[str, Sequence[float]]], before: str, now: str) -> list[list[str]]:
    """A line for each number: medians, their quotient (above 1: it has grown), the range of the turns, a verdict."""
    made = []
    for name, values in found.items():
        quotients = [n / b for b, n in zip(values[before], values[now], strict=True)]
        made.append(
            [
                name, *(f"{statistics.median(values[tree]):.3g}" for tree in (before, now)), f"{statistics.median(quotients):.2f}",
                f"{min(quotients):.2f} to {max(quotients):.2f}", "slower" if is_slower(values[before], values[now]) else "",
            ]
        )  # fmt: skip
    return made


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """The files of `commit` of this repository, in a folder that is removed again. UserError for an unknown commit."""
    root = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(root)]
    named = subprocess.run(
        [*git, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"], capture_output=True, text=True
    )
    if named.returncode:
        raise UserError(f"{commit} is no commit of {root}")
    place = folder / "before"
    subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(place), named.stdout.strip()], check=True)
    try:
        yield place
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(place)], check=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="what to compare with")
    parser.add_argument(
        "--turns", type=int, default=2, help="of each of both (default 2: 8 minutes on a quiet machine)"
    )
    parser.add_argument("--steps", type=int, default=20, help="of each run (default 20)")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="commands whose name contains it: " + ", ".join(NAMES)
    )
    chosen = parser.parse_args(argv)
    began, found = time.monotonic(), {}
    try:
        with tempfile.TemporaryDirectory() as name, checked_out(chosen.commit, Path(name)) as before:
            write_inputs(Path(name))
            trees = {"before": before, "now": Path(__file__).resolve().parent.parent}
            for numbers in compare(trees, Path(name), chosen.turns, chosen.steps, chosen.only):
                found |= numbers
                for row in lines(numbers, "before", "now"):
                    print(*row, flush=True)  # what was measured is not lost where a later command fails
    except UserError as error:
        parser.error(str(error))
    print(
        f"{machine(1)}; load {os.getloadavg()[0]:.1f}; {chosen.turns} turns, {(time.monotonic() - began) / 60:.0f} min"
    )
    rows = lines(found, "before", "now")
    print(table(["number", f"at {chosen.commit[:12]}", "now", "quotient", "of the turns", ""], rows))
    return int(any(row[-1] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
