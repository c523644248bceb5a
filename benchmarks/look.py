"""What scoring costs, and how much of it each cheaper way saves: `select.look`, early exit, stale scores, one forward for both.

    python -m benchmarks.look [--data FOLDER] [--task SST-2] [--batch 64] [--ratio 0.1] [--looks 0.5,0.3,0.2] [--minutes 6]
    python -m benchmarks.look --accumulate 8 [--sizes 4,8,16,32]

A pool of N / ratio rows is offered, a batch of the N best is learnt, with the same packed kernels in turns A B C A B C. "fresh"
scores all rows; "look 0.3" a random 30 %; "early exit" runs half of the layers; "stale" scores the half of the rows whose
score is old; "random" scores none. With `--dropout 0` further ways ("one forward") keep the graph of the scoring forward and
send gradients back through the kept rows' losses alone, in place of a second forward. What choosing among fewer rows does to
the student's score is a matter of runs, not of this program.

With --accumulate: what it saves to score so many micro-batches of an optimizer step in one forward, by their size.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from benchmarks.measuring import batches, clock_of, in_turns, lengths_of, machine, milliseconds, parser_of, table, times
from benchmarks.steps import Ours, Sizes, soft
from kdlab.methods.selection import strategies
from kdlab.methods.selection.candidates import candidates
from kdlab.methods.selection.top_k import top_k
from kdlab.models.encoder import Encoder
from kdlab.modules.early_exit import first_layers
from kdlab.types import Batch, Evidence


class Looks:
    """Steps on a pool that differ in what is scored; `seconds` of scoring by way."""

    def __init__(self, ours: Ours, keep: int, clock: Callable[[], float]) -> None:
        self.ours, self.keep, self.clock = ours, keep, clock
        self.shallow = Encoder(
            first_layers(ours.student, (ours.student.config.num_hidden_layers + 1) // 2), ours.encoder.execution
        )
        self.seconds: dict[str, list[float]] = {}

    def step(self, name: str, pool: Batch, share: float, encoder: Encoder | None = None) -> None:
        """Score a random `share` of the pool's rows (0: none), learn from the best."""
        started = self.clock()
        drawn = pool.take(self._drawn(pool, share))
        if share:
            own, self.ours.encoder = self.ours.encoder, encoder or self.ours.encoder
            best = top_k(strategies.entropy(self.ours.evidence(drawn)), self.keep / len(pool), len(pool))
            self.ours.encoder = own
            drawn = drawn.take(best)
        self.seconds.setdefault(name, []).append(self.clock() - started)
        self.ours.learn(drawn)

    def one_forward(self, name: str, pool: Batch, share: float) -> None:
        """The same, without dropout: the scoring forward keeps its graph, and the losses of the best rows go back through
        it."""
        ours, started = self.ours, self.clock()
        drawn = pool.take(self._drawn(pool, share))
        with ours.sizes.autocast():
            every = torch.arange(len(drawn))
            logits = ours.encoder.project(ours.encoder.vectors(ours.encoder.encode(drawn), every, every))
            best = top_k(strategies.entropy(Evidence(logits=logits.detach())), self.keep / len(pool), len(pool))
            self.seconds.setdefault(name, []).append(self.clock() - started)
            kept, teacher = drawn.take(best), ours.module.teachers[0].encoder
            with torch.no_grad():
                rows = torch.arange(len(kept))
                told = teacher.project(teacher.vectors(teacher.encode(kept), rows, rows))
            loss = 0.5 * F.cross_entropy(logits[best].float(), kept.labels) + 0.5 * soft(logits[best], told)
        loss.backward()
        ours.update()

    def _drawn(self, pool: Batch, share: float) -> torch.Tensor:
        return candidates(len(pool), share or self.keep / len(pool), self.keep, torch.default_generator)


def together(arguments: argparse.Namespace, clock: Callable[[], float]) -> None:
    """Print the time to score the micro-batches of a step, each alone and all in one forward."""
    ours, micro, body = Ours(Sizes.of(arguments)), arguments.accumulate, []
    ours.encoder.eval()
    lengths, sizes = lengths_of(arguments.data, arguments.max_length, arguments.task), arguments.sizes.split(",")
    for size in map(int, sizes):
        rows = batches(lengths, size, 8 * micro, arguments.vocab)
        steps = [rows[first : first + micro] for first in range(0, len(rows), micro)]

        def alone(turn: int, steps: list[list[Batch]] = steps) -> None:
            for batch in steps[turn % 8]:
                ours.evidence(batch)

        def at_once(turn: int, steps: list[list[Batch]] = steps) -> None:
            ours.evidence(Batch.joined(steps[turn % 8]))

        ways = {"alone": alone, "together": at_once}
        found = in_turns(ways, arguments.minutes / len(sizes), arguments.turns, clock)
        gain = f"{times(found['alone'], found['together']):.2f}x"
        body.append([str(size), *milliseconds(found["alone"]), *milliseconds(found["together"]), gain])
    print(machine(arguments.threads, arguments.clock))
    print(f"scoring of {micro} micro-batches of a step\n")
    print(table(["rows each", "alone ms", "quartiles", "together ms", "quartiles", "faster"], body))


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, minutes=6)
    parser.add_argument("--batch", type=int, default=64, help="rows that a step learns from")
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--looks", default="0.5,0.3,0.2", help="shares of the pool that are scored")
    parser.add_argument("--accumulate", type=int, help="micro-batches of a step that are scored together")
    parser.add_argument("--sizes", default="4,8,16,32", help="rows of a micro-batch, with --accumulate")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    clock = clock_of(arguments.clock)
    if arguments.accumulate:
        together(arguments, clock)
        return
    pool = round(arguments.batch / arguments.ratio)
    rows = batches(lengths_of(arguments.data, arguments.max_length, arguments.task), pool, 16, arguments.vocab)
    looks = Looks(Ours(Sizes.of(arguments)), arguments.batch, clock)
    shares = [float(share) for share in arguments.looks.split(",")]

    ways: dict[str, Callable[[int], None]] = {}

    def add(name: str, step: Callable[..., None], share: float, *more: Encoder) -> None:
        ways[name] = lambda turn: step(name, rows[turn % 16], share, *more)

    add("fresh", looks.step, 1.0)
    for share in shares:
        add(f"look {share:g}", looks.step, share)
    add("stale, half of the rows due", looks.step, 0.5)
    add("early exit", looks.step, 1.0, looks.shallow)
    for share in shares:
        add(f"early exit, look {share:g}", looks.step, share, looks.shallow)
    add("random", looks.step, 0.0)
    for share in [1.0, *shares] if arguments.dropout == 0 else ():
        add(f"one forward, look {share:g}", looks.one_forward, share)
    began = time.monotonic()
    found = in_turns(ways, arguments.minutes, arguments.turns, clock)

    print(machine(arguments.threads, arguments.clock))
    print(
        f"{len(found['fresh'])} turns in {time.monotonic() - began:.0f} s; a step of {arguments.batch} rows of {pool:,}\n"
    )
    body = []
    for name, seconds in found.items():
        scoring = looks.seconds[name][1:]  # the first turn warms up
        share = statistics.median(s / whole for s, whole in zip(scoring, seconds, strict=True))
        body.append(
            [name, *milliseconds(seconds), *milliseconds(scoring), f"{share:.0%}",
             f"{times(looks.seconds['fresh'][1:], scoring):.2f}x", f"{times(found['fresh'], seconds):.2f}x"]
        )  # fmt: skip
    header = ["way", "step ms", "quartiles", "scoring ms", "quartiles", "of the step", "scoring faster", "step faster"]
    print(table(header, body))


if __name__ == "__main__":
    main()
