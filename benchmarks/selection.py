"""Speed-up by selection: ratio 0.1 against our own ratio 1 on the same packed kernels, and against the peers' way.

    python -m benchmarks.selection [--data FOLDER] [--task SST-2] [--batch 64] [--in-batch 256] [--ratio 0.1] [--minutes 9]

"pooled": a pool of N / ratio rows is scored, a full batch of the N best is learnt. "in-batch": a batch is scored, its
best rows are learnt; with "look 0.3" (--look) a random share is scored, and the best of it are learnt. All have turns with our ratio 1 on batches of N rows and of the in-batch size, with a plain padded
loop, and with the way public code selects ("reference"); seconds are compared per row that was offered. The phase model
(Fs + Bs + Ft) / (Fs + r (Fs + Bs + Ft)) takes the phases of our ratio 1, measured in the same turns; the update counts
with Bs. Its forecast is given with Fs as in training, and with the scoring forward as it is: no gradient, no dropout.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from benchmarks.measuring import batches, clock_of, in_turns, lengths_of, machine, parser_of, quartiles, table, times
from benchmarks.steps import Ours, Sizes, plain


@dataclass(frozen=True)
class Phases:
    """Seconds a row of the phases: student forward, backward with update, teacher forward, scoring forward."""

    forward: float
    backward: float
    teacher: float
    scoring: float

    @classmethod
    def of(cls, turns: Sequence[Mapping[str, float]], rows: int) -> Phases:
        """Medians of the ledger's seconds of steps on `rows` rows."""

        def median(*parts: str) -> float:
            return statistics.median(sum(turn[part] for part in parts) for turn in turns) / rows

        return cls(
            median("student_forward"), median("student_backward", "optimizer"), median("teacher_forward"), median("scoring")
        )  # fmt: skip

    def forecast(self, ratio: float, look: float | None = None) -> float:
        """Cost reduction per row when all are scored, `look` seconds each (None: `forward`), and the share
        `ratio` is learnt from (METHODS: Fs + r (Fs + Bs + Ft))."""
        whole = self.forward + self.backward + self.teacher
        return whole / ((self.forward if look is None else look) + ratio * whole)


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, minutes=9)
    parser.add_argument("--batch", type=int, default=64, help="rows that a pooled step learns from")
    parser.add_argument(
        "--in-batch", type=int, default=256, help="rows of a batch that in-batch selection chooses from"
    )
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--look", type=float, default=0.3)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    clock = clock_of(arguments.clock)
    ratio, look, sizes = arguments.ratio, arguments.look, Sizes.of(arguments)
    small, large, whole = arguments.batch, arguments.in_batch, round(arguments.batch / arguments.ratio)
    lengths = lengths_of(arguments.data, arguments.max_length, arguments.task)
    rows = {size: batches(lengths, size, 16, arguments.vocab) for size in {small, large, whole}}

    def row_of(size: int, turn: int):
        return rows[size][turn % 16]

    ours = Ours(sizes)
    loop, reference = plain(sizes), plain(sizes, ratio)
    phases: dict[int, list[dict[str, float]]] = {small: [], large: []}
    offered = {
        "plain, ratio 1": large,
        f"reference, ratio {ratio:g}": large,
        f"ours, ratio 1, {small} rows": small,
        f"ours, ratio 1, {large} rows": large,
        f"ours, pooled {whole} to {small}": whole,
        f"ours, in-batch, {large} rows": large,
        f"ours, pooled {whole} to {small}, look {look:g}": whole,
        f"ours, in-batch, {large} rows, look {look:g}": large,
    }
    peers, peer, own_small, own_large, pooled, in_batch, few_pooled, few_in_batch = offered
    ways = {
        peers: lambda turn: loop(row_of(large, turn)),
        peer: lambda turn: reference(row_of(large, turn)),
        own_small: lambda turn: phases[small].append(ours.phases(row_of(small, turn))),
        own_large: lambda turn: phases[large].append(ours.phases(row_of(large, turn))),
        pooled: lambda turn: ours.select(row_of(whole, turn), ratio),
        in_batch: lambda turn: ours.select(row_of(large, turn), ratio),
        few_pooled: lambda turn: ours.select(row_of(whole, turn), ratio, look),
        few_in_batch: lambda turn: ours.select(row_of(large, turn), ratio, look),
    }
    found = in_turns(ways, arguments.minutes, arguments.turns, clock)
    for own, size in ((own_small, small), (own_large, large)):  # the phases of a turn hold a scoring too
        phases[size] = phases[size][1:]
        found[own] = [turn["total"] - turn["scoring"] for turn in phases[size]]
    each = {name: [s / offered[name] for s in seconds] for name, seconds in found.items()}

    print(machine(arguments.threads, arguments.clock))
    print(f"{len(found[peers])} turns; milliseconds per row that was offered, medians and quartiles\n")
    bases = {own_small: f"our ratio 1, {small}", own_large: f"our ratio 1, {large}", peers: "plain", peer: "reference"}
    body = []
    for name, seconds in each.items():
        low, middle, high = (1000 * q for q in quartiles(seconds))
        cells = (f"{times(each[base], seconds):.2f}x" for base in bases)
        body.append([name, f"{middle:.2f}", f"{low:.2f} to {high:.2f}", *cells])
    print(table(["way", "ms", "quartiles", *(f"times faster than {base}" for base in bases.values())], body))

    models = {name: Phases.of(phases[size], size) for name, size in ((pooled, small), (in_batch, large))}
    realised = {pooled: times(each[own_small], each[pooled]), in_batch: times(each[own_large], each[in_batch])}
    print(f"\n{forecasts(models, realised, ratio)}")
    print("first line of a way: Fs is the training forward; second: the scoring forward as it is")


def forecasts(models: Mapping[str, Phases], realised: Mapping[str, float], ratio: float) -> str:
    """A table of what the phase model forecasts for each way, beside what was `realised`."""
    body = []
    for name, model in models.items():
        parts = (model.forward, model.backward, model.teacher, model.scoring)
        for forecast in (model.forecast(ratio), model.forecast(ratio, model.scoring)):
            milliseconds = (f"{1000 * p:.2f}" for p in parts)
            body.append(
                [name, *milliseconds, f"{forecast:.2f}x", f"{realised[name]:.2f}x", f"{realised[name] / forecast:.0%}"]
            )
    return table(["way", "Fs ms", "Bs ms", "Ft ms", "scoring ms", "forecast", "realised", "share"], body)


if __name__ == "__main__":
    main()
