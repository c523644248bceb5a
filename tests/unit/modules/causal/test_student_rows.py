"""Completions that the student writes: where they stand, what they are drawn from, what they cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdlab.models import flops
from kdlab.modules.causal.student_rows import generation_flops, written
from kdlab.types import IGNORE, Batch
from tests.unit.models.test_causal import decoder, texts

END = 0


def prompts(lengths: list[int], firsts: list[int]) -> Batch:
    """Rows whose first tokens, so many, are a prompt."""
    batch = texts(lengths)
    for row, first in enumerate(firsts):
        batch.labels[row, : first - 1] = IGNORE
    return batch


@pytest.fixture
def model() -> Any:
    return decoder("llama")


def test_prompts_stay_and_completions_are_the_students(model):
    batch = prompts([12, 8, 10, 5], [4, 6, 2, 4])
    found = written(model, batch, END, 7)
    for row, (first, length) in enumerate(zip([4, 6, 2, 4], [12, 8, 10, 5], strict=True)):
        assert torch.equal(found.input_ids[row, :first], batch.input_ids[row, :first])
        stop = int(found.attention_mask[row].sum())
        assert first < stop <= length and int(found.attention_mask[row, :stop].sum()) == stop
        labels = torch.full_like(found.labels[row], IGNORE)
        labels[first - 1 : stop - 1] = found.input_ids[row, first:stop]  # what the next position holds
        assert torch.equal(found.labels[row], labels)
        assert stop == length or found.input_ids[row, stop - 1] == END
        assert (found.input_ids[row, first : stop - 1] != END).all()
    assert not torch.equal(found.input_ids, batch.input_ids)


def test_draws_are_of_the_seed_alone_and_follow_the_models_distribution(model):
    batch = prompts([6] * 400, [5] * 400)
    batch.input_ids[:] = batch.input_ids[0]
    before = torch.random.get_rng_state()
    one, again, other = (written(model, batch, END, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one.input_ids, again.input_ids) and not torch.equal(one.input_ids, other.input_ids)
    with torch.no_grad():
        chances = model(input_ids=batch.input_ids[:1, :5]).logits[0, -1].softmax(-1)
    drawn = torch.cat([one.input_ids[:, 5], other.input_ids[:, 5]])
    counts = torch.bincount(drawn, minlength=len(chances)) / len(drawn)
    assert float((counts - chances).abs().max()) < 4 * float((chances * (1 - chances) / len(drawn)).sqrt().max())


def test_padding_of_the_prompts_changes_nothing(model):
    """A prompt among longer ones has the chances that it has alone: its most likely token comes, with logits far apart."""
    with torch.no_grad():
        model.lm_head.weight.mul_(1e5)
    batch = prompts([12, 8, 5], [8, 3, 2])
    together = written(model, batch, END, 0)
    for row in range(3):
        alone = written(model, batch.take(torch.tensor([row])), END, 1)
        stop = int(alone.attention_mask.sum())
        assert int(together.attention_mask[row].sum()) == stop
        assert torch.equal(together.input_ids[row, :stop], alone.input_ids[0, :stop])


def test_flops_are_those_of_torchs_counter(model):
    model.set_attn_implementation("eager")
    batch = prompts([12] * 3, [5] * 3)
    with FlopCounterMode(display=False) as counter:
        found = written(model, batch, END, 3)
    counted = generation_flops(flops.shape_of(model.config), 3, found.width, found.steps)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)
