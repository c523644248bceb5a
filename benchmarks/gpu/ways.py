"""Distillation steps that the GPU benchmark compares, their FLOPs, their memory, and turns of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils.import_utils import is_flash_attn_2_available

from benchmarks.gpu.figures import FLASH, LOOK, OURS, PLAIN, SOME, Measured
from benchmarks.gpu.subjects import Copies, Subject, originals
from benchmarks.measuring import in_turns, rise_of, wait_for
from benchmarks.steps import Ours, fastest_execution, looped
from kdlab.methods.selection.top_k import top_k
from kdlab.models import flops
from kdlab.types import Batch

RATIO, SHARE = 0.1, 0.3


@dataclass(frozen=True)
class Way:
    """A step on a batch, and the FLOPs that it takes."""

    step: Callable[[Batch], Any]
    flops: Callable[[Batch], int]


def plain_flops(subject: Subject, b: Batch, padded_attention: bool = True) -> int:
    """FLOPs of the plain loop on `b`, with its padding, which flash attention leaves out of the attention alone."""
    rows, length = b.input_ids.shape
    pairs = rows * length**2 if padded_attention else int(b.attention_mask.sum(1).square().sum())
    found = []
    for model in originals(subject.models):
        shape = flops.shape_of(model.config, model.config.num_labels if subject.labels == "class" else None)
        heads = flops.classifier_head(shape, rows, shape.outputs) if shape.outputs else flops.masked_lm_head(shape, rows * length)  # fmt: skip
        found.append(flops.encoder(shape, rows * length, pairs) + heads)
    student, teacher = found
    return student + flops.backward(student) + teacher


def plain_way(subject: Subject, attention: str | None = None) -> Way:
    """The loop that one writes with transformers: padded, sdpa or `attention`, autocast, fused AdamW."""
    step = looped(Copies(subject.models, attention), subject.loss, fused=True)
    return Way(step, lambda b: plain_flops(subject, b, attention is None))


def our_way(subject: Subject, ratio: float = 1.0, look: float = 1.0) -> Way:
    """kdlab's step without padding; below ratio 1 on the rows of the highest entropy, among a share `look`."""
    ours = Ours(Copies(subject.models), fastest_execution(subject.models.device))
    if ratio == 1:
        return Way(ours.learn, lambda b: sum(ours.module.plain_flops(b)))
    return Way(lambda b: ours.select(b, ratio, look), lambda b: selecting_flops(ours, b, ratio, look))


def selecting_flops(ours: Ours, b: Batch, ratio: float, look: float) -> int:
    """FLOPs of scoring rows of `b` and of learning from the best, as a run's ledger counts them."""
    units: list[int] = []
    drawn = ours.drawn(b, ratio, look)
    kept = drawn.take(top_k(ours.scores(drawn, units.append), ratio, len(b)))
    counter = ours.module.distillation.flops
    ours.student.eval()  # without dropout other kernels may run
    scoring = counter.student_layers(drawn) + counter.student_head(sum(units))
    ours.student.train()
    return scoring + sum(ours.module.plain_flops(kept))


def makers(subject: Subject) -> dict[str, Callable[[], Way]]:
    """The ways by name; flash attention in a plain loop where it is installed."""
    flash = subject.models.device != "cpu" and is_flash_attn_2_available()
    return {
        PLAIN: lambda: plain_way(subject),
        **({FLASH: lambda: plain_way(subject, "flash_attention_2")} if flash else {}),
        OURS: lambda: our_way(subject),
        SOME: lambda: our_way(subject, RATIO),
        LOOK: lambda: our_way(subject, RATIO, SHARE),
    }


def reason(error: BaseException) -> str:
    """One line of an exception."""
    text = str(error).strip().splitlines()
    kind = "out of memory" if isinstance(error, torch.OutOfMemoryError) else type(error).__name__
    return f"{kind}: {text[0][:200]}" if text else kind


def collect(device: str) -> None:
    """Give back a GPU's memory that nothing refers to."""
    if device != "cpu":
        gc.collect()
        torch.cuda.empty_cache()


def prepared(make: Callable[[], Way], rows: Sequence[Batch], device: str) -> tuple[Way, float]:
    """A way that has run its largest batch, and the gigabytes at the peak of that: models and optimizer, and the rise of
    memory in a step; on a CPU the rise alone."""
    collect(device)
    before = 0 if device == "cpu" else torch.cuda.memory_allocated()
    way = make()
    way.step(rows[0])
    wait_for(device)
    held = 0 if device == "cpu" else torch.cuda.memory_allocated() - before
    return way, held / 2**30 + rise_of(lambda: way.step(rows[0]), device)


def measured(
    made: Mapping[str, Callable[[], Way]], rows: Sequence[Batch], device: str, until: float, turns: int | None
) -> tuple[dict[str, Measured], dict[str, str]]:
    """The ways in turns until `until` (of time.monotonic), and by name why others have not run."""
    ways: dict[str, Way] = {}
    gb: dict[str, float] = {}
    lost: dict[str, str] = {}
    for name, make in made.items():
        try:
            ways[name], gb[name] = prepared(make, rows, device)
        except Exception as error:
            lost[name] = reason(error)
    counted = {name: [way.flops(b) for b in rows] for name, way in ways.items()}

    def taking(way: Way) -> Callable[[int], None]:
        def take(turn: int) -> None:
            way.step(rows[turn % len(rows)])
            wait_for(device)

        return take

    minutes = (until - time.monotonic()) / 60
    found = in_turns({name: taking(way) for name, way in ways.items()}, minutes, turns)
    return {
        name: Measured(s, [counted[name][turn % len(rows)] for turn in range(1, len(s) + 1)], gb[name])
        for name, s in found.items()
    }, lost
