"""A step of distillation on a GPU, at BERT-base and SmolLM2-135M size, against a plain loop on transformers models.

    python -m benchmarks.gpu                                   # ten minutes on one GPU
    python -m benchmarks.gpu --minutes 30 --json gpu.json
    python -m benchmarks.gpu --parts steps --attention-dropout 0.1 --scale 0.5
    python -m benchmarks.gpu --device cpu --tiny               # all of it at tiny sizes, for its tests

Parts: "steps" of a 12-layer BERT-base and its 6-layer student as classifiers and as masked language models, and of SmolLM2-135M and
its 10-layer student, each on rows of the lengths of SST-2 and MNLI and on rows of 512 tokens; "small", the student on few kept
rows, eager against torch.compile and CUDA graphs; "ranks", two GPUs against one, where there are two. Weights are random. The
plain loop has padded rows, sdpa, bf16 autocast and fused AdamW, and another one flash-attention where it is installed. Ways take
turns, A B A B. Attention drops no weights by default (--attention-dropout), in any way: with it kdlab cannot use kernels without
padding. FLOPs are those that a way executes, as the ledger counts them: matrix products. "GB": models, optimizer and step
together, each way alone. Each part prints when it is done; what fails is a line, and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import figures, small_batches, two_gpus, ways
from benchmarks.gpu.peaks import peak_of_device
from benchmarks.gpu.subjects import LONGEST, PROFILES, Subject, rows_of, subjects
from benchmarks.measuring import machine, table
from kdlab.storage.files import atomic_write_text

PARTS = ("steps", "ranks", "small")


@dataclass
class Session:
    """One call: its arguments, the peak of its device, its figures and bars so far."""

    chosen: argparse.Namespace
    peak: float | None
    figures: dict[str, Any]
    bars: list[figures.Bar]

    def save(self) -> None:
        """Write the figures so far to the file of --json, if one was given."""
        if self.chosen.json is not None:
            whole = {**self.figures, "bars": [{**asdict(bar), "verdict": bar.verdict} for bar in self.bars]}
            atomic_write_text(self.chosen.json, json.dumps(whole, indent=1) + "\n")

    @property
    def turns(self) -> int | None:
        return self.chosen.turns or (2 if self.chosen.tiny else None)

    def steps(self, name: str, subject: Subject, profile: str, until: float) -> str:
        """Turns of the steps on rows of a profile; their table."""
        chosen = self.chosen
        rows = rows_of(subject, profile, subject.rows[profile], chosen.tiny, chosen.data)
        found, lost = ways.measured(ways.makers(subject), rows, chosen.device, until, self.turns)
        self.figures[name] = {
            "rows": subject.rows[profile],
            "ways": {k: asdict(v) for k, v in found.items()},
            "lost": lost,
        }
        self.bars += figures.bars(name, found, self.peak, profile == LONGEST)
        padding = 1 - sum(int(b.attention_mask.sum()) for b in rows) / sum(b.input_ids.numel() for b in rows)
        head = f"{subject.rows[profile]} rows, {padding:.0%} of a padded batch is padding, {turns_of(found)} turns"
        return "\n\n".join([head, *said(lost), table(figures.HEADER, figures.lines(found, self.peak))])

    def small(self, name: str, subject: Subject, until: float) -> str:
        """Turns of forward and backward on the rows that ratio 0.1 keeps of SST-2's; their table."""
        chosen = self.chosen
        kept = max(1, round(ways.RATIO * subject.rows["SST-2"]))
        rows = rows_of(subject, "SST-2", kept, chosen.tiny, chosen.data)
        backend = "aot_eager" if chosen.device == "cpu" else "inductor"  # no C++ compiler is needed for tests
        made = small_batches.makers(subject, rows, backend, until)
        found, lost = ways.measured(made, rows, chosen.device, until, self.turns)
        self.figures[name] = {"rows": kept, "ways": {k: asdict(v) for k, v in found.items()}, "lost": lost}
        head = f"{kept} rows, {turns_of(found)} turns"
        return "\n\n".join([head, *said(lost), table(small_batches.HEADER, small_batches.lines(found))])

    def ranks(self, name: str, subject: Subject) -> str:
        """Two processes against one; their table."""
        text, self.figures[name] = two_gpus.compared(subject, "MNLI", self.turns or 20, self.chosen.data)
        return text


Part = tuple[str, float, Callable[[float], str]]  # name, share of the time, and what runs until then and gives a text


def turns_of(found: dict[str, figures.Measured]) -> int:
    return min((len(way.seconds) for way in found.values()), default=0)


def said(lost: dict[str, str]) -> list[str]:
    """A line for each way that has not run."""
    return [f"{name} has not run: {reason}" for name, reason in lost.items()]


def parts_of(session: Session) -> list[Part]:
    """The parts that were chosen. Graphs come last: a capture that fails may leave the device unusable for others."""
    chosen = session.chosen
    given = (chosen.device, chosen.tiny, chosen.dropout, chosen.attention_dropout, chosen.scale)
    classifier, causal, masked = subjects(*given)

    def steps(subject: Subject) -> list[Part]:
        names = {profile: f"{subject.name}, rows of {profile}" for profile in PROFILES}
        return [
            (name, 3, lambda until, n=name, p=profile: session.steps(n, subject, p, until))
            for profile, name in names.items()
        ]

    def small(subject: Subject) -> Part:
        name = f"{subject.name}, few kept rows"
        return name, 6, lambda until: session.small(name, subject, until)

    ranks: list[Part] = []
    if chosen.device == "cpu" or torch.cuda.device_count() >= 2:
        name = f"{classifier.name}, two processes"
        ranks = [(name, 3, lambda until: session.ranks(name, classifier))]
    every: dict[str, list[Part]] = {
        "steps": [*steps(classifier), *steps(causal), *steps(masked)],
        "ranks": ranks,
        "small": [small(classifier), small(causal)],
    }
    return [part for kind, parts in every.items() if kind in chosen.parts for part in parts]


def run(parts: Sequence[Part], session: Session, deadline: float) -> None:
    """Run the parts, each for its share of the time that is left, and print what they give."""
    for i, (name, weight, part) in enumerate(parts):
        now = time.monotonic()
        left = deadline - now
        print(f"\n### {name}\n", flush=True)
        if left <= 0 and session.turns is None:
            print("left out: no time is left (--minutes)", flush=True)
            continue
        try:
            text = part(now + left * weight / sum(w for _, w, _ in parts[i:]))
        except Exception as error:
            text = f"failed: {ways.reason(error)}"
            session.figures[name] = {"failed": ways.reason(error)}
        print(text, flush=True)
        ways.collect(session.chosen.device)
        session.save()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    made.add_argument("--minutes", type=float, default=10, help="of all parts together (default 10)")
    made.add_argument("--turns", type=int, help="measure so many turns, however long they take")
    made.add_argument("--parts", nargs="+", choices=PARTS, help="some of the parts (default: all; on a CPU no ranks)")
    made.add_argument("--tiny", action="store_true", help="tiny models and rows, two turns")
    made.add_argument("--scale", type=float, default=1.0, help="factor on the rows of a batch (default 1)")
    made.add_argument("--dropout", type=float, default=0.1, help="of BERT's hidden states (default 0.1)")
    made.add_argument("--attention-dropout", type=float, default=0.0, help="of BERT's attention weights (default 0)")
    made.add_argument("--data", type=Path, help="a folder of GLUE's sets, for their lengths (default: made ones)")
    made.add_argument("--json", type=Path, help="a file for the figures, with the seconds of each turn")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(argv)
    deadline = time.monotonic() + 60 * chosen.minutes
    if chosen.device != "cpu" and not torch.cuda.is_available():
        print("benchmarks.gpu: torch finds no GPU; --device cpu --tiny runs every part at tiny sizes", file=sys.stderr)
        return 2
    chosen.parts = chosen.parts or [part for part in PARTS if part != "ranks" or chosen.device != "cpu"]
    peak = None if chosen.device == "cpu" else peak_of_device(torch.cuda.get_device_name())
    line = machine(torch.get_num_threads(), "wall", chosen.device)
    rate = "unknown" if peak is None else f"{peak / 1e12:g} TFLOP/s in bfloat16, dense"
    print(
        f"{line}\n\npeak of the device: {rate}; dropout {chosen.dropout:g}, of attention {chosen.attention_dropout:g}"
    )
    session = Session(chosen, peak, {"machine": line, "peak": peak}, [])
    run(parts_of(session), session, deadline)
    if session.bars:
        lines = [bar.line() for bar in session.bars]
        print(f"\n### Bars\n\n{table(['measure', 'bar', 'reached', 'verdict'], lines)}", flush=True)
    return 0
