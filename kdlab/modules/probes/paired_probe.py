"""Paired probes: every arm for a few steps from the same weights, on the same batches; what each does to the observed loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdlab.modules.student import StudentModule
from kdlab.runtime import distributed
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.seeding import preserved
from kdlab.types import Batch, Plan

PART = "paired_probe"  # of the ledger
COLUMNS = ("step", "arm", "steps", "before", "after", "fall")

# arm, batch, micro-step, optimizer step: a block in which the batch has its plan
Under = Callable[[str, Batch, int, int], AbstractContextManager[None]]


class PairedProbe:
    """Tries arms side by side: `steps` optimizer steps of each, from the weights of now, and the observed loss after them.

    Student, optimizer, learning rate, batches, dropout and draws of selection are those of the run's coming steps; terms
    and strategies see the progress of the probe's first step. Everything is put back bit for bit: a run with probes trains
    the same student as one without. Teachers answer without caches, so that these stay as they were. `batches` returns
    micro-batches by the number of the first and how many; `observe` the observed loss; `under` plans a batch under an arm;
    `memory` holds a state that scoring changes (`state_dict`, `load_state_dict`). The cost is the part "paired_probe" of
    the ledger, its queries those of "TEACHER (paired_probe)". `write` receives a row of probe.csv for each arm.
    """

    def __init__(
        self,
        module: StudentModule,
        batches: Callable[[int, int], Sequence[Batch]],
        observe: Callable[[], float],
        under: Under,
        steps: int,
        write: Callable[[dict[str, Any]], None] = lambda row: None,
        memory: Any = None,
    ) -> None:
        self.module, self.batches, self.observe, self.under = module, batches, observe, under
        self.steps, self.write, self.memory = steps, write, memory

    def __call__(self, step: int, arms: Sequence[str]) -> dict[str, float]:
        """The fall of the log of the observed loss that each arm brings, from optimizer step `step` on (collective). NaN
        for an arm that diverges."""
        module, per_step = self.module, self.module.trainer.accumulate_grad_batches
        with module.timed(PART), preserved():
            with self._counted():
                before = self.observe()
            batches = self.batches(step * per_step, self.steps * per_step)
            after: dict[str, float] = {}
            for arm in arms:
                with self._restored(), self._counted():
                    self._train(arm, step, batches, per_step)
                    after[arm] = self.observe()
        for arm, loss in after.items():
            row = {"step": step, "arm": arm, "steps": self.steps, "before": before, "after": loss}
            self.write({**row, "fall": before - loss})
        return {arm: _log_fall(before, loss) for arm, loss in after.items()}

    def _train(self, arm: str, step: int, batches: Sequence[Batch], per_step: int) -> None:
        """Take the coming steps under `arm`, as the trainer would."""
        module = self.module
        parameters, optimizer = module.optimization.trained, module.optimization.adamw()
        optimizer.load_state_dict(copy.deepcopy(_optimizer_of(module).state_dict()))
        for number in range(len(batches) // per_step):
            for group in optimizer.param_groups:
                group["lr"] = module.optimization.settings.lr * module.optimization.share_of_peak(step + number)
            sums: list[Tensor | None] = [None] * len(parameters)
            for micro in range(number * per_step, (number + 1) * per_step):
                self._add_gradients(sums, arm, batches[micro], step * per_step + micro, step + number, per_step)
            for parameter, gradient in zip(parameters, _mean_over_ranks(sums, parameters), strict=True):
                parameter.grad = gradient
            norm = torch.nn.utils.clip_grad_norm_(
                [p for p in parameters if p.grad is not None], module.optimization.settings.clip
            )
            if bool(norm.isfinite()):
                optimizer.step()

    def _add_gradients(
        self, sums: list[Tensor | None], arm: str, batch: Batch, micro: int, step: int, per_step: int
    ) -> None:
        """Add the gradients of a micro-batch under `arm` to `sums`, one of each trained parameter."""
        module = self.module
        batch = replace(batch.to(module.device), plan=Plan())  # selection over ranks changes its batch
        module.micro_step = micro
        with self.under(arm, batch, micro, step):
            assert batch.plan is not None
            module.optimization.begin_batch(micro)
            rows = batch.plan.rows
            trained = batch if rows is None or module.labels_on_all else batch.take(rows)
            with module.trainer.precision_plugin.forward_context():
                loss = module.loss(trained, queried=rows if module.labels_on_all else None, plan=batch.plan)
        # not backward(): under DDP its hooks would start to reduce
        found = torch.autograd.grad(loss / per_step, module.optimization.trained, allow_unused=True)
        for i, gradient in enumerate(found):
            if gradient is not None:
                sums[i] = gradient if (so_far := sums[i]) is None else so_far + gradient

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count what the block costs in one part of the run's ledger, without caches."""
        module, ledger = self.module, self.module.ledger
        own = None if ledger is None else Ledger(ledger.rows, ledger.fixed_inputs)
        module.ledger = own
        try:
            with ExitStack() as stack:
                for teacher in module.teachers:
                    stack.enter_context(teacher.apart(own.count_queries if own is not None else _uncounted))
                yield
        finally:
            module.ledger = ledger
        if ledger is not None and own is not None:
            ledger.add_part(PART, own)

    @contextmanager
    def _restored(self) -> Iterator[None]:
        """Put the student, what its last step has left, and the memory of scores back as they were before the block."""
        module, rules = self.module, self.module.distillation.term_weights
        tensors = [*module.parameters(), *module.buffers()]
        saved = [tensor.detach().clone() for tensor in tensors]
        gradients = [parameter.grad for parameter in module.parameters()]
        step = module.losses, module.trained_rows, module.micro_step, rules.decisions
        memory = None if self.memory is None else copy.deepcopy(self.memory.state_dict())
        training = module.training
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(tensors, saved, strict=True):
                    tensor.copy_(value)
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter.grad = gradient
            module.losses, module.trained_rows, module.micro_step, rules.decisions = step
            module.train(training)
            if self.memory is not None:
                self.memory.load_state_dict(memory)


def _log_fall(before: float, after: float) -> float:
    if not (before > 0 and after > 0 and math.isfinite(before) and math.isfinite(after)):
        return math.nan
    return math.log(before / after)


def _optimizer_of(module: StudentModule) -> torch.optim.Optimizer:
    optimizer: Any = module.optimizers(use_pl_optimizer=False)
    return optimizer


def _mean_over_ranks(sums: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients as DDP would make them (collective); of one rank as they are."""
    world = distributed.world()
    if world == 1:
        return list(sums)
    own = [torch.zeros_like(p) if one is None else one for one, p in zip(sums, parameters, strict=True)]
    return [distributed.all_sum(one) / world for one in own]


def _uncounted(name: str, rows: Tensor, epoch: int) -> None:
    """Count nothing."""
