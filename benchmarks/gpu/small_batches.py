"""Few kept rows: the student's forward and backward on them, eager against torch.compile and CUDA graphs at bucketed shapes.

A step at ratio 0.1 learns from some 25 short rows, for which a GPU computes less long than Python needs to launch the kernels.
torch.compile and graphs need fixed shapes: the rows are padded to the next power of two, and each such bucket is compiled, or
captured, once, before turns are taken. The loss is the labels' cross-entropy; there is no teacher and no update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.figures import Measured, multiple, pays
from benchmarks.gpu.subjects import Copies, Subject
from benchmarks.gpu.ways import Way
from benchmarks.measuring import milliseconds, times
from benchmarks.steps import fastest_execution
from kdlab.methods.knowledge.logits import label_cross_entropy
from kdlab.models.encoder import Encoder
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.types import IGNORE, Batch

EAGER, PADDED = "eager, as kdlab runs it", "eager, padded to the bucket"
COMPILED, GRAPH = "torch.compile, padded to the bucket", "CUDA graph, padded to the bucket"
FIRST_BUCKET = 16
Inputs = tuple[Tensor, Tensor, Tensor]  # token ids, mask, labels


def bucket(length: int) -> int:
    """The smallest bucket, a power of two times `FIRST_BUCKET`, that holds `length` tokens."""
    size = FIRST_BUCKET
    while size < length:
        size *= 2
    return size


def in_bucket(b: Batch) -> Batch:
    """The batch padded to its bucket."""
    more = bucket(b.input_ids.shape[1]) - b.input_ids.shape[1]
    labels = F.pad(b.labels, (0, more), value=IGNORE) if b.labels.ndim == 2 else b.labels
    return replace(b, input_ids=F.pad(b.input_ids, (0, more)), attention_mask=F.pad(b.attention_mask, (0, more)), labels=labels)  # fmt: skip


class PaddedRows:
    """Forward and backward of a student on padded rows; `student` has the gradients."""

    def __init__(self, subject: Subject) -> None:
        self.models = Copies(subject.models)
        self.student, _ = self.models.built()
        self.student.config.use_cache = False
        self.forward: Callable[..., Tensor] = self.loss

    def loss(self, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        logits = self.student(input_ids=ids, attention_mask=mask).logits
        return F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORE)

    def __call__(self, ids: Tensor, mask: Tensor, labels: Tensor) -> None:
        self.student.zero_grad(set_to_none=True)
        with self.models.autocast():
            loss = self.forward(ids, mask, labels)
        loss.backward()


class CompiledRows(PaddedRows):
    """The same by torch.compile, once for each shape."""

    def __init__(self, subject: Subject, backend: str) -> None:
        super().__init__(subject)
        torch.compiler.reset()  # an earlier student, and what was compiled for it
        self.forward = torch.compile(self.loss, dynamic=False, backend=backend)


class GraphedRows(PaddedRows):
    """The same by CUDA graphs of forward and backward, one for each shape (docs.pytorch.org, CUDA semantics,
    whole-network capture)."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self.graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Inputs, list[Tensor | None]]] = {}

    def captured(self, given: Inputs) -> tuple[torch.cuda.CUDAGraph, Inputs, list[Tensor | None]]:
        """The graph of a shape, its inputs, and the gradients that it fills."""
        static: Inputs = (given[0].clone(), given[1].clone(), given[2].clone())
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # libraries choose their kernels before they are captured
                super().__call__(*static)
        torch.cuda.current_stream().wait_stream(aside)
        self.student.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        # the cache of casted weights would be of tensors that live outside of the graph
        with torch.cuda.graph(graph):
            with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
                loss = self.loss(*static)
            loss.backward()
        return graph, static, [p.grad for p in self.student.parameters()]

    def __call__(self, ids: Tensor, mask: Tensor, labels: Tensor) -> None:
        if ids.shape not in self.graphs:
            self.graphs[ids.shape] = self.captured((ids, mask, labels))
        graph, static, gradients = self.graphs[ids.shape]
        for kept, new in zip(static, (ids, mask, labels), strict=True):
            kept.copy_(new)
        graph.replay()
        for p, gradient in zip(self.student.parameters(), gradients, strict=True):
            p.grad = gradient


class OurRows:
    """Forward and backward of a student by kdlab, without padding."""

    def __init__(self, subject: Subject) -> None:
        self.models = Copies(subject.models)
        self.student, _ = self.models.built()
        encoder = Encoder(self.student, fastest_execution(self.models.device))
        terms = {"label": WeightedTerm(label_cross_entropy, 1.0)}
        self.module = StudentModule(encoder, terms, OptimizerSettings(lr=1e-5), 10**6)

    def __call__(self, b: Batch) -> None:
        self.student.zero_grad(set_to_none=True)
        with self.models.autocast():
            loss = self.module.loss(b, local=True)
        loss.backward()


def makers(subject: Subject, rows: Sequence[Batch], backend: str, until: float) -> dict[str, Callable[[], Way]]:
    """The ways by name, each ready for the shapes of all `rows`; graphs on a GPU.

    TimeoutError where a shape is not ready at `until` (of time.monotonic), and more are left."""

    def padded(make: Callable[[], PaddedRows]) -> Way:
        run = make()

        def step(b: Batch) -> None:
            p = in_bucket(b)
            run(p.input_ids, p.attention_mask, p.labels)

        for length, b in {bucket(b.input_ids.shape[1]): b for b in rows}.items():
            if time.monotonic() > until:
                raise TimeoutError(f"no time was left to prepare it for rows of {length} tokens (--minutes)")
            step(b)
        return Way(step, lambda b: 0)

    graphs: dict[str, Callable[[], Way]] = {GRAPH: lambda: padded(lambda: GraphedRows(subject))}
    return {
        EAGER: lambda: Way(OurRows(subject), lambda b: 0),
        PADDED: lambda: padded(lambda: PaddedRows(subject)),
        COMPILED: lambda: padded(lambda: CompiledRows(subject, backend)),
        **(graphs if subject.models.device != "cpu" else {}),
    }


HEADER = ["forward and backward of the kept rows", "ms", "quartiles", "faster than eager", "verdict"]


def lines(found: dict[str, Measured]) -> list[list[str]]:
    """A line for each way, of `HEADER`. No memory: torch does not count what a graph holds for its kernels."""
    made: list[list[str]] = []
    base: Any = found.get(EAGER)
    for name, way in found.items():
        compared = ["-", "-"]
        if base is not None:
            verdict = "" if name == EAGER else pays(base.seconds, way.seconds)
            compared = [multiple(times(base.seconds, way.seconds)), verdict]
        made.append([name, *milliseconds(way.seconds, 2), *compared])
    return made
