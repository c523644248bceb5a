"""Cost of selection: every strategy, without the scoring forward, as a share of a real step.

    python -m benchmarks.strategies [--data FOLDER] [--task SST-2] [--batch 256,2048] [--ratio 0.1] [--minutes 9]

The step is our own cheapest one, in-batch selection of the ratio on packed kernels: look at all rows, choose, learn from
the best. A strategy is given what the student shows of the same rows ([CLS] states and logits of two classes), and its
time holds the sorting of the scores as well. Steps and strategies take turns.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch

from benchmarks.measuring import batches, clock_of, in_turns, lengths_of, machine, parser_of, quartiles, table
from benchmarks.steps import Ours, Sizes
from kdlab.methods.selection import strategies
from kdlab.methods.selection.strategies import Ensemble, Strategy
from kdlab.methods.selection.top_k import selection_size, top_k
from kdlab.types import Batch, Evidence


def every() -> dict[str, Strategy]:
    """The strategies of `kdlab.methods.selection.strategies` without a history of rows, by name, and the ensemble of them all."""
    own = {name: found for name, found in inspect.getmembers(strategies, inspect.isfunction) if hasattr(found, "marks")}
    return {**own, "ensemble": Ensemble(own)}


def shares(way: Sequence[float], step: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile over turns of a way's seconds as a share of the step's in the same turn."""
    return quartiles([w / s for w, s in zip(way, step, strict=True)])


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, minutes=9)
    parser.add_argument("--batch", default="256,2048")
    parser.add_argument("--ratio", type=float, default=0.1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    clock = clock_of(arguments.clock)
    lengths = lengths_of(arguments.data, arguments.max_length, arguments.task)
    ours, ratio = Ours(Sizes.of(arguments)), arguments.ratio
    sizes = [int(size) for size in arguments.batch.split(",")]
    print(machine(arguments.threads, arguments.clock))
    for size in sizes:
        rows = batches(lengths, size, 4, arguments.vocab)
        shown: dict[int, Evidence] = {}

        def step(turn: int, rows: list[Batch] = rows, shown: dict[int, Evidence] = shown) -> None:
            seen = ours.evidence(rows[turn % 4])
            seen.keep = selection_size(len(rows[turn % 4]), ratio)
            assert seen.logits is not None
            # of the same size as those of a run; their values decide no time
            seen.teacher, seen.votes = seen.logits.roll(1, 0), torch.stack([seen.logits, seen.logits.roll(1, 0)])
            seen.reference_loss = seen.logits[..., 0].float()
            shown[turn] = seen
            ours.learn(rows[turn % 4].take(top_k(strategies.entropy(seen), ratio)))

        def choosing(strategy: Strategy, shown: dict[int, Evidence] = shown) -> Callable[[int], None]:
            return lambda turn: (top_k(strategy(shown[turn]), ratio), None)[1]

        ways = {"step": step, **{name: choosing(strategy) for name, strategy in every().items()}}
        found = in_turns(ways, arguments.minutes / len(sizes), arguments.turns, clock)
        taken = found.pop("step")
        low, middle, high = (1000 * q for q in quartiles(taken))
        print(
            f"\n{size} rows, ratio {ratio:g}, {len(taken)} turns: a step takes {middle:.0f} ms ({low:.0f} to {high:.0f})\n"
        )
        body = []
        for name, seconds in found.items():
            low, middle, high = shares(seconds, taken)
            ms = 1000 * quartiles(seconds)[1]
            body.append([name, f"{ms:.2f}", f"{middle:.2%}", f"{low:.2%} to {high:.2%}"])
        print(table(["strategy", "ms", "of a step", "quartiles"], body), flush=True)


if __name__ == "__main__":
    main()
