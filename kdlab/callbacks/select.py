"""The Lightning callback that answers the first question: which rows of this batch query the teacher?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from kdlab.callbacks.decision import ArmSelector, DecisionCallback
from kdlab.callbacks.score_memory import ScoreMemory
from kdlab.methods.marks import FORWARD, marks_of, members_of
from kdlab.methods.selection.strategies import Strategy
from kdlab.methods.selection.top_k import selection_size, top_k
from kdlab.modules.distiller import Distiller
from kdlab.modules.scoring_pass import whole
from kdlab.runtime import distributed
from kdlab.runtime.seeding import generator
from kdlab.types import IGNORE, Batch, Evidence, Outputs


class Select(DecisionCallback):
    """Keeps the share `ratio` of each batch that the chosen arm scores highest.

    The `chooser`'s arms are strategies (`kdlab.methods.selection.strategies`). `scope` "global": the best rows of the whole global batch,
    then shared out evenly, so that any number of ranks keeps the same rows; "local": the best of each rank's own. At
    ratio 1 it does nothing at all, and the run is plain distillation bit for bit. `look` is how the student is looked at
    (`kdlab.modules.scoring_pass`); with a `memory`, at rows that it has no young score of alone, and strategies must score each row
    by itself.
    """

    def __init__(
        self,
        chooser: ArmSelector,
        ratio: float,
        scope: str = "global",
        look: Callable[[Distiller, Batch, frozenset[str]], Outputs] = whole,
        memory: ScoreMemory | None = None,
    ) -> None:
        super().__init__(chooser)
        self.ratio = ratio
        self.everywhere = scope == "global"
        self.look, self.memory = look, memory

    @property
    def state_key(self) -> str:
        return "Select"  # in checkpoints

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return state if self.memory is None else {**state, "memory": self.memory.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.memory is not None:
            self.memory.load_state_dict(state_dict["memory"])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.ratio < 1:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    # ---- the rows

    def answer(self, module: Distiller, batch: Batch, batch_idx: int) -> None:
        assert batch.plan is not None
        together = self.everywhere and distributed.world() > 1
        places = (distributed.gather_rows(batch.real) if together else batch.real).nonzero().flatten()
        if len(places):
            rank = () if self.everywhere else (distributed.rank(),)  # the same draw on any number of ranks
            rng = generator(self.chooser.seed, "select", batch_idx, *rank)
            chosen = places[top_k(self._scores(module, batch, together, places, rng), self.ratio).to(places.device)]
        else:
            chosen = torch.zeros(1, dtype=torch.long)  # an idle rank keeps its one unreal row
        if together and module.labels_on_all:  # every rank keeps its rows, for their labels
            first = sum(_heights(len(batch))[: distributed.rank()])
            mine = chosen[(chosen >= first) & (chosen < first + len(batch))] - first
            batch.plan.rows = mine.to(batch.input_ids.device)
        elif together:
            _share_out(batch, chosen)
        else:
            batch.plan.rows = chosen.to(batch.input_ids.device)

    def _scores(self, module: Distiller, batch: Batch, together: bool, places: Tensor, rng: torch.Generator) -> Tensor:
        """Scores (N,) by the current arm of the real rows, at `places` of the global batch (or of this rank's)."""
        arm = self.chooser.chosen
        members: Mapping[str, Strategy] = members_of(arm)

        def everyones(rows: Tensor, pad: float | None = None) -> Tensor:
            return (distributed.gather_rows(rows, pad) if together else rows)[places]

        common = {"keep": selection_size(len(places), self.ratio), "progress": module.progress, "rng": rng}
        needs = {name: marks_of(member).needs for name, member in members.items()}
        needed = frozenset().union(*needs.values())
        scored = {name: member for name, member in members.items() if needs[name] & FORWARD}
        evidence = Evidence(rows=everyones(batch.rows), **common)
        if "labels" in needed:
            labels, mask = _labels(batch)
            evidence.labels = everyones(labels, IGNORE)
            evidence.mask = None if mask is None else everyones(mask, 0)
        if not scored:
            return _combined(arm, [member(evidence.only(needs[name])) for name, member in members.items()])
        if self.memory is not None:
            self._remember(module, batch, scored, self.memory, common)
            # strategies that need no forward (a random draw) are not cached
            return _combined(
                arm,
                [
                    self.memory.recall(f"{self.chooser.arm} {name}", evidence.rows.cpu())  # pyright: ignore
                    if name in scored
                    else member(evidence.only(needs[name])).cpu().double()
                    for name, member in members.items()
                ],
            )

        by_row = [name for name, member in members.items() if marks_of(member).rowwise and "logits" in needs[name]]
        whole_logits = "logits" in frozenset().union(*(needs[name] for name in members if name not in by_row))
        scores: dict[str, list[Tensor]] = {name: [] for name in by_row}
        with module.metered("scoring"), module.quiet():
            featured = "features" in needed
            shown = self.look(module, batch, frozenset({"hidden"} if featured and not module.student.per_row else ()))
            if featured:
                evidence.features = everyones(module.student.features(shown))
            parts = []
            if by_row or whole_logits:
                for part in module.evidence(batch, shown, "scoring"):
                    part.keep, part.progress, part.rng = common["keep"], common["progress"], rng
                    for name in by_row:
                        scores[name].append(members[name](part.only(needs[name])))
                    parts += [part] if whole_logits else []
            if parts:
                evidence.logits = everyones(torch.cat([p.logits for p in parts]), 0.0)  # pyright: ignore
                if parts[0].mask is not None:
                    evidence.mask = everyones(torch.cat([p.mask for p in parts]), 0)  # pyright: ignore
            rows = [
                everyones(torch.cat(scores[name])) if name in by_row else member(evidence.only(needs[name]))
                for name, member in members.items()
            ]
        return _combined(arm, rows)

    def _remember(
        self,
        module: Distiller,
        batch: Batch,
        members: Mapping[str, Strategy],
        memory: ScoreMemory,
        common: dict[str, Any],
    ) -> None:
        """Score the rows of the global batch whose scores are missing or old; every rank keeps all of them (collective)."""
        names = {name: f"{self.chooser.arm} {name}" for name in members}
        real = batch.real.nonzero().flatten()
        due = real[memory.due(list(names.values()), batch.rows[real].cpu(), batch.epoch).to(real.device)]
        scores: dict[str, list[Tensor]] = {name: [batch.rows.new_zeros(0, dtype=torch.float64)] for name in members}
        if len(due):
            some = batch.take(due)
            with module.metered("scoring"), module.quiet():
                for part in module.evidence(some, self.look(module, some, frozenset()), "scoring"):
                    part.keep, part.progress, part.rng = common["keep"], common["progress"], common["rng"]
                    for name, member in members.items():
                        scores[name].append(member(part.only(marks_of(member).needs)).double())
        rows = distributed.gather_rows(batch.rows[due]).cpu()
        for name in members:
            memory.store(names[name], rows, batch.epoch, distributed.gather_rows(torch.cat(scores[name])))


def _labels(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The labels of `batch` as strategies get them: (B,), or (B, P) in masked-LM with the mask (B, P) of what exists."""
    if batch.labels.ndim == 1:
        return batch.labels, None
    places, exists = batch.label_places()
    return batch.labels.gather(1, places), exists


def _combined(arm: Strategy, scores: list[Tensor]) -> Tensor:
    combine = getattr(arm, "combine", None)
    return scores[0] if combine is None else combine(torch.stack(scores))


def _share_out(batch: Batch, chosen: Tensor) -> None:
    """Put the rows `chosen` of the global batch into `batch`, evenly over ranks, in place; collective."""
    first = sum(_heights(len(batch))[: distributed.rank()])
    mine = chosen[(chosen >= first) & (chosen < first + len(batch))] - first
    sub = batch.take(mine)
    whole = Batch(
        rows=distributed.gather_rows(sub.rows),
        epoch=batch.epoch,
        input_ids=distributed.gather_rows(sub.input_ids, pad=0),
        attention_mask=distributed.gather_rows(sub.attention_mask, pad=0),
        labels=distributed.gather_rows(sub.labels, pad=IGNORE if sub.labels.ndim == 2 else None),
        real=distributed.gather_rows(sub.real),
        token_types=None if sub.token_types is None else distributed.gather_rows(sub.token_types, pad=0),
    )
    part = torch.tensor_split(torch.arange(len(whole.rows)), distributed.world())[distributed.rank()]
    idle = len(part) == 0
    share = whole.take(torch.zeros(1, dtype=torch.long) if idle else part)
    batch.rows, batch.input_ids, batch.attention_mask = share.rows, share.input_ids, share.attention_mask
    batch.labels, batch.real, batch.token_types = share.labels, share.real & (not idle), share.token_types


def _heights(rows: int) -> list[int]:
    return distributed.gather_rows(torch.tensor([rows])).tolist()
