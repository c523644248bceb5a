"""Two processes against one: the same global batch of the real distillation step, DDP over gloo, one thread each.

    python -m benchmarks.scaling [--data FOLDER] [--task SST-2] [--batch 64,256] [--world 2] [--turns 20]

Each rank takes its share of the rows, runs kdlab's packed step on it inside DistributedDataParallel (as Lightning does)
and sums losses and gradients with the others. In its turns the single process works alone while the others wait. "No
exchange" is the same step without the gradients' all-reduce: what is missing there is shared caches, memory and cores,
and rows that do not divide evenly; what is missing beyond is the exchange. Selection: each rank the best of its own rows.
With --clock cpu a turn counts the seconds that its busiest process computed, the exchange's included, and no waiting.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.measuring import batches, clock_of, in_turns, lengths_of, machine, milliseconds, parser_of, table, times
from benchmarks.steps import Ours, Sizes
from kdlab.runtime import distributed
from kdlab.types import Batch


class Loss(nn.Module):
    """The distiller's loss as a forward, which is what DistributedDataParallel wraps."""

    def __init__(self, ours: Ours) -> None:
        super().__init__()
        self.module = ours.module

    def forward(self, batch: Batch) -> Tensor:
        return self.module.loss(batch)


class Shared:
    """One rank's part of a step that all ranks take together."""

    def __init__(self, sizes: Sizes) -> None:
        self.ours = Ours(sizes)
        self.ddp = nn.parallel.DistributedDataParallel(Loss(self.ours))

    def learn(self, b: Batch, exchange: bool = True) -> None:
        with contextlib.nullcontext() if exchange else self.ddp.no_sync():
            with self.ours.sizes.autocast():
                loss = self.ddp(b)
            loss.backward()
        self.ours.update()


def share_of(b: Batch, rank: int, world: int) -> Batch:
    """The rows of a rank: contiguous, as even as can be."""
    return b.take(torch.tensor_split(torch.arange(len(b)), world)[rank])


def ways_of(sizes: Sizes, rows: list[Batch], rank: int, world: int, ratio: float) -> dict[str, Callable[[int], None]]:
    """The timed functions, from barrier to barrier."""
    alone, shared = Ours(sizes), Shared(sizes)

    def one(work: Callable[[Batch], None]) -> Callable[[int], None]:
        def way(turn: int) -> None:
            if rank == 0:
                work(rows[turn % len(rows)])
            dist.barrier()

        return way

    def all_of(work: Callable[[Batch], None]) -> Callable[[int], None]:
        def way(turn: int) -> None:
            work(share_of(rows[turn % len(rows)], rank, world))
            dist.barrier()

        return way

    return {
        "ratio 1, one process": one(alone.learn),
        f"ratio 1, {world} processes": all_of(shared.learn),
        f"ratio 1, {world} processes, no exchange": all_of(lambda b: shared.learn(b, exchange=False)),
        f"ratio {ratio:g}, one process": one(lambda b: alone.select(b, ratio)),
        f"ratio {ratio:g}, {world} processes": all_of(lambda b: shared.learn(shared.ours.best(b, ratio))),
    }


def work(rank: int, arguments: argparse.Namespace, meeting: str) -> None:
    """Body of each process; rank 0 prints."""
    torch.set_num_threads(arguments.threads)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=arguments.world)
    lengths = lengths_of(arguments.data, arguments.max_length, arguments.task)
    clock = clock_of(arguments.clock)
    if rank == 0:
        print(f"{arguments.world} processes; {machine(arguments.threads, arguments.clock)} each", flush=True)
    for size in (int(size) for size in arguments.batch.split(",")):
        rows = batches(lengths, size, 16, arguments.vocab)
        ways = ways_of(Sizes.of(arguments), rows, rank, arguments.world, arguments.ratio)
        found = slowest(distributed.gather_objects(in_turns(ways, 0, arguments.turns, clock)))
        if rank == 0:
            print(f"\n{size} rows in all, {arguments.turns} turns\n")
            print(table(["way", "ms", "quartiles", "times faster than one process"], lines(found)), flush=True)
    dist.destroy_process_group()


def slowest(found: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Seconds of the slowest rank, by way and turn."""
    return {name: [max(turn) for turn in zip(*(one[name] for one in found), strict=True)] for name in found[0]}


def lines(found: dict[str, list[float]]) -> list[list[str]]:
    """A line for each way, compared with the way of the same ratio in one process, which comes first."""
    made: list[list[str]] = []
    base: list[float] = []
    for name, seconds in found.items():
        base = seconds if name.endswith("one process") else base
        made.append([name, *milliseconds(seconds), f"{times(base, seconds):.2f}x"])
    return made


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, minutes=None)
    parser.set_defaults(turns=20)
    parser.add_argument("--batch", default="64,256", help="rows of the global batch")
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--ratio", type=float, default=0.1)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        given: tuple[Any, ...] = (arguments, str(Path(folder) / "meeting"))
        torch.multiprocessing.spawn(work, given, nprocs=arguments.world)  # pyright: ignore[reportPrivateImportUsage]


if __name__ == "__main__":
    main()
