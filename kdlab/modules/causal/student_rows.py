"""Rows that the student writes: a batch's prompts with completions sampled from the student, in the place of the data's.

GKD (Agarwal et al. 2024, Algorithm 1): with probability lambda a batch is learnt with the student's own completions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from kdlab.models import flops
from kdlab.modules.student import StudentModule
from kdlab.runtime import distributed
from kdlab.runtime.seeding import generator, stable
from kdlab.types import IGNORE, Batch

PART = "generation"  # of the ledger


@dataclass(frozen=True)
class Written:
    """Rows with new completions: `input_ids`, `attention_mask`, `labels` (B, L) as in `Batch`, and the sizes of their generation:
    `width` of the prompts, padded, and `steps`, tokens that were sampled for each."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    width: int
    steps: int


@torch.no_grad()
def written(model: Any, batch: Batch, end: int, seed: int) -> Written:
    """The rows of `batch` with completions that `model`, of transformers, samples after their prompts at temperature 1.

    A prompt is a row's tokens up to the first that is to be learnt. A completion ends at the token `end`, which is learnt too, or
    where it has as many tokens as the row's labels. Each row is one document and has a label. Draws are of `seed`; torch's
    global generators are as before.
    """
    from transformers import GenerationConfig

    labelled = batch.labelled()
    prompts = labelled.int().argmax(1) + 1  # tokens of each prompt
    most = labelled.sum(1)
    width, rows, length = int(prompts.max()), *batch.input_ids.shape
    places = torch.arange(width, device=prompts.device) - (width - prompts).unsqueeze(1)
    mask = (places >= 0).long()  # of the prompts, padded on the left
    ids = batch.input_ids.gather(1, places.clamp_min(0)) * mask + end * (1 - mask)
    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=int(most.max()), eos_token_id=end, pad_token_id=end
    )  # fmt: skip
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        new = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)[:, width:]
    steps = new.shape[1]
    ended = (new == end).int().cumsum(1)
    kept = (ended - (new == end).int() == 0).sum(1).minimum(most)  # through the first end
    input_ids, labels = torch.full_like(batch.input_ids, end), torch.full_like(batch.labels, IGNORE)
    place = torch.arange(length, device=prompts.device)
    for row in range(rows):
        first, count = int(prompts[row]), int(kept[row])
        input_ids[row, :first] = batch.input_ids[row, :first]
        input_ids[row, first : first + count] = new[row, :count]
        labels[row, first - 1 : first - 1 + count] = new[row, :count]
    used = (place < (prompts + kept).unsqueeze(1)).long()
    return Written(input_ids, used, labels, width, steps)


class StudentRows(pl.Callback):
    """Replaces the completions of a `share` of the batches by the student's own, before rows are selected.

    `end`: the tokenizer's end token; `seed`: of the batches and the draws. The same batches on all ranks, and after a resume.
    It stands before callbacks that read the batch. Its FLOPs and seconds are the ledger's part "generation". For other rows
    than these, a callback of your own that changes a batch in `on_train_batch_start` stands in its place.
    """

    def __init__(self, share: float, end: int, seed: int) -> None:
        self.share, self.end, self.seed = share, end, seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        batch.following = ()  # these rows may be replaced yet, so they are not scored ahead
        draw = torch.rand((), generator=generator(self.seed, "student rows", batch_idx))
        if float(draw) >= self.share:
            return
        module = cast(StudentModule, pl_module)
        with module.timed(PART), module.inference_mode():
            seed = stable(self.seed, "student rows", batch_idx, distributed.rank())
            found = written(module.student.model, batch, self.end, seed)
        batch.input_ids, batch.attention_mask, batch.labels = found.input_ids, found.attention_mask, found.labels
        module.count_flops(PART, generation_flops(module.shape, len(batch), found.width, found.steps))


def generation_flops(shape: flops.EncoderShape, rows: int, width: int, steps: int) -> int:
    """FLOPs of `steps` tokens for each of `rows` prompts of `width` tokens, with the keys and values of earlier tokens kept."""
    further = steps - 1  # the prompt's forward gives the first
    pairs = width * width + further * width + further * (further + 1) // 2
    return flops.encoder(shape, rows * (width + further), rows * pairs) + flops.masked_lm_head(shape, rows * steps)
