"""Two processes against one: the same global batch of the real distillation step, DDP over gloo, one thread each; on GPUs
over NCCL, a GPU for each.

    python -m benchmarks.scaling [--data FOLDER] [--task SST-2] [--batch 64,256] [--world 2] [--turns 20] [--device cuda]

Each rank takes its share of the rows, runs kdlab's packed step on it inside DistributedDataParallel (as Lightning does)
and sums losses and gradients with the others. In its turns the single process works alone while the others wait. "No
exchange" is the same step without the gradients' all-reduce: what is missing there is shared caches, memory and cores,
and rows that do not divide evenly; what is missing beyond is the exchange. "Exchange after": one all-reduce when the backward
has ended, so that nothing of it is hidden behind the backward. Selection: each rank the best of its own rows.
With --clock cpu a turn counts the seconds that its busiest process computed, the exchange's included, and no waiting.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

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
from benchmarks.steps import Ours, Sizes, fastest_execution
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
        self.ours = Ours(sizes, fastest_execution(sizes.device))
        self.ddp = nn.parallel.DistributedDataParallel(Loss(self.ours))

    def learn(self, b: Batch, exchange: str = "overlapped") -> None:
        """`exchange` of gradients: "overlapped" with the backward, "after" it, or "none"."""
        with contextlib.nullcontext() if exchange == "overlapped" else self.ddp.no_sync():
            with self.ours.sizes.autocast():
                loss = self.ddp(b)
            loss.backward()
        if exchange == "after":
            self.average()
        self.ours.update()

    def average(self) -> None:
        """Replace the gradients by their mean over the ranks, in one exchange."""
        gradients = [p.grad for p in self.ddp.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        for g, mean in zip(
            gradients, (flat / dist.get_world_size()).split([g.numel() for g in gradients]), strict=True
        ):
            g.copy_(mean.view_as(g))


def share_of(b: Batch, rank: int, world: int) -> Batch:
    """The rows of a rank: contiguous, as even as can be."""
    return b.take(torch.tensor_split(torch.arange(len(b)), world)[rank])


def names_of(world: int) -> tuple[str, str, str, str]:
    """The ways at ratio 1: one process, several, without an exchange, with the exchange after the backward."""
    several = f"ratio 1, {world} processes"
    return "ratio 1, one process", several, f"{several}, no exchange", f"{several}, exchange after"


def ways_of(sizes: Sizes, rows: list[Batch], rank: int, world: int, ratio: float) -> dict[str, Callable[[int], None]]:
    """The timed functions, from barrier to barrier."""
    alone, shared = Ours(sizes, fastest_execution(sizes.device)), Shared(sizes)

    def one(work: Callable[[Batch], object]) -> Callable[[int], None]:
        def way(turn: int) -> None:
            if rank == 0:
                work(rows[turn % len(rows)])
                wait_for(sizes.device)
            dist.barrier()

        return way

    def all_of(work: Callable[[Batch], object]) -> Callable[[int], None]:
        def way(turn: int) -> None:
            work(share_of(rows[turn % len(rows)], rank, world))
            wait_for(sizes.device)
            dist.barrier()

        return way

    single, several, silent, after = names_of(world)
    return {
        single: one(alone.learn),
        several: all_of(shared.learn),
        silent: all_of(lambda b: shared.learn(b, "none")),
        after: all_of(lambda b: shared.learn(b, "after")),
        f"ratio {ratio:g}, one process": one(lambda b: alone.select(b, ratio)),
        f"ratio {ratio:g}, {world} processes": all_of(lambda b: shared.learn(shared.ours.best(b, ratio))),
    }


def hidden_share(shared: Sequence[float], silent: Sequence[float], after: Sequence[float]) -> float | None:
    """Share of the exchange's time that the backward hides: of the seconds by which an exchange after the backward
    lengthens the median step, those that an overlapped one does not. None if it lengthens nothing."""
    step, bare, whole = (statistics.median(seconds) for seconds in (shared, silent, after))
    return (whole - step) / (whole - bare) if whole > bare else None


def work(rank: int, arguments: argparse.Namespace, size: int, folder: str) -> None:
    """Body of each process; rank 0 leaves the seconds in `folder`."""
    torch.set_num_threads(arguments.threads)
    gpu = arguments.device != "cpu"
    if gpu:
        torch.cuda.set_device(rank)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("nccl" if gpu else "gloo", init_method=meeting, rank=rank, world_size=arguments.world)
    lengths = lengths_of(arguments.data, arguments.max_length, arguments.task)
    clock = clock_of(arguments.clock)
    rows = [b.to(torch.device(arguments.device)) for b in batches(lengths, size, 16, arguments.vocab)]
    ways = ways_of(Sizes.of(arguments, arguments.device), rows, rank, arguments.world, arguments.ratio)
    found = slowest(distributed.gather_objects(in_turns(ways, 0, arguments.turns, clock)))
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def slowest(found: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Seconds of the slowest rank, by way and turn."""
    return {name: [max(turn) for turn in zip(*(one[name] for one in found), strict=True)] for name in found[0]}


def lines(found: Mapping[str, Sequence[float]]) -> list[list[str]]:
    """A line for each way, compared with the way of the same ratio in one process, which comes first."""
    made: list[list[str]] = []
    base: Sequence[float] = []
    for name, seconds in found.items():
        base = seconds if name.endswith("one process") else base
        made.append([name, *milliseconds(seconds), f"{times(base, seconds):.2f}x"])
    return made


def measured(arguments: argparse.Namespace, size: int) -> dict[str, list[float]]:
    """Seconds of each way in each turn, on a global batch of `size` rows, in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        given: tuple[Any, ...] = (arguments, size, folder)
        torch.multiprocessing.spawn(work, given, nprocs=arguments.world)  # pyright: ignore[reportPrivateImportUsage]
        return json.loads((Path(folder) / "found.json").read_text())


def report(found: Mapping[str, Sequence[float]], size: int, world: int) -> str:
    """The table of a global batch of `size` rows, and how much of the exchange is hidden."""
    single, *several = names_of(world)
    hidden = hidden_share(*(found[name] for name in several))
    said = "takes no time" if hidden is None else f"is hidden behind the backward to {hidden:.0%}"
    return f"\n{size} rows in all, {len(found[single])} turns; the exchange of gradients {said}\n\n" + table(
        ["way", "ms", "quartiles", "times faster than one process"], lines(found)
    )


def parser() -> argparse.ArgumentParser:
    made = parser_of(__doc__, minutes=None)
    made.set_defaults(turns=20)
    made.add_argument("--batch", default="64,256", help="rows of the global batch")
    made.add_argument("--world", type=int, default=2)
    made.add_argument("--ratio", type=float, default=0.1)
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    line = machine(arguments.threads, arguments.clock, arguments.device)
    print(f"{arguments.world} processes; {line} each", flush=True)
    for size in (int(size) for size in arguments.batch.split(",")):
        print(report(measured(arguments, size), size, arguments.world), flush=True)


if __name__ == "__main__":
    main()
