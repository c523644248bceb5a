"""Time of one distillation step: kdlab's ways to run it against a plain loop on transformers models.

    python -m benchmarks.kd_step [--data FOLDER] [--task SST-2] [--batch 64,256] [--minutes 8] [--threads 1] [--device cuda]

FOLDER holds GLUE-style sets (made texts of SST-2's lengths without it). Every way takes the same random batches (as they
come, not sorted by length), the same student, teacher, dropout, trained embeddings and AdamW (`benchmarks.steps`). The
ways take turns, so that all see the same machine; the table has medians, quartiles, and medians of the quotients within
a turn. "plain": one padded batch through `model(...)` under autocast, student and teacher. "reference": how public code
selects: student forward and backward on the whole batch, the teacher on the selected rows. On a GPU packed batches are one row
without padding or masks ("varlen") where attention has no dropout (--dropout 0).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch

from benchmarks.measuring import (
    batches,
    clock_of,
    in_turns,
    lengths_of,
    machine,
    milliseconds,
    parser_of,
    table,
    times,
    wait_for,
)
from benchmarks.steps import Ours, Sizes, plain
from kdlab.models.attention import varlen
from kdlab.models.packing import layout
from kdlab.types import Batch

RATIO = 0.1
BASES = {
    "plain, ratio 1": "times faster than plain",
    "reference, ratio 0.1": "than reference",
    "kdlab packed, ratio 1": "than our packed ratio 1",
}


def ways_of(sizes: Sizes) -> dict[str, Callable[[Batch], object]]:
    """The steps that are compared, each with models of its own."""
    gpu = ["varlen"] if varlen.available(torch.device(sizes.device)) else []
    whole = {name: Ours(sizes, name) for name in ("padded", "bucketed", "packed", *gpu)}
    some = {name: Ours(sizes, name) for name in ("padded", "packed", *gpu)}

    def selecting(ours: Ours) -> Callable[[Batch], object]:
        return lambda b: ours.select(b, RATIO)

    return {
        "plain, ratio 1": plain(sizes),
        "reference, ratio 0.1": plain(sizes, RATIO),
        **{f"kdlab {name}, ratio 1": ours.learn for name, ours in whole.items()},
        **{f"kdlab {name}, ratio 0.1": selecting(ours) for name, ours in some.items()},
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, minutes=8)
    parser.add_argument("--batch", default="64,256")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    clock = clock_of(arguments.clock)
    lengths = lengths_of(arguments.data, arguments.max_length, arguments.task)
    print(machine(arguments.threads, arguments.clock, arguments.device))
    sizes = [int(size) for size in arguments.batch.split(",")]
    for size in sizes:
        rows = [b.to(torch.device(arguments.device)) for b in batches(lengths, size, 16, arguments.vocab)]
        padding = 1 - sum(int(b.attention_mask.sum()) for b in rows) / sum(b.attention_mask.numel() for b in rows)
        fill = statistics.mean(
            int(b.attention_mask.sum()) / layout(tuple(b.attention_mask.sum(1).tolist())).tokens for b in rows
        )
        print(f"\nbatch {size}: {padding:.0%} of a padded batch is padding; packed rows are {fill:.0%} full\n")
        steps = ways_of(Sizes.of(arguments, arguments.device))

        def taking(step: Callable[[Batch], object], rows: list[Batch] = rows) -> Callable[[int], None]:
            def take(turn: int) -> None:
                step(rows[turn % len(rows)])
                wait_for(arguments.device)

            return take

        ways = {name: taking(step) for name, step in steps.items()}
        found = in_turns(ways, arguments.minutes / len(sizes), arguments.turns, clock)
        turns = len(found["plain, ratio 1"])
        body = [
            [name, *milliseconds(seconds), *(f"{times(found[base], seconds):.2f}x" for base in BASES)]
            for name, seconds in found.items()
        ]
        print(table([f"way, {turns} turns", "ms", "quartiles", *BASES.values()], body), flush=True)


if __name__ == "__main__":
    main()
