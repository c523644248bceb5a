"""Attention that runs anew in the backward: equal to torch's own, gradients and dropout included; no matrix is kept."""

from __future__ import annotations

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from kdlab.models.attention import on_cpu, recomputed
from kdlab.models.encoder import Encoder
from kdlab.models.student import set_dropout
from kdlab.types import Batch
from tests.conftest import tiny_config

ROWS, HEADS, LENGTH, SIZE = 5, 2, 7, 4
MODULE = SimpleNamespace(is_causal=False, training=True)


in_pieces = functools.partial(recomputed.attend, sdpa_attention_forward)


@pytest.fixture
def given() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    query, key, value = (torch.randn(ROWS, HEADS, LENGTH, SIZE, requires_grad=True) for _ in range(3))
    mask = torch.zeros(ROWS, 1, LENGTH, LENGTH)
    for row in range(ROWS):
        mask[row, ..., LENGTH - row :] = torch.finfo(torch.float32).min
    return query, key, value, mask


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    """Tiny matrices run anew too."""
    monkeypatch.setattr(recomputed, "SCORES", 1)


def run(attend, given, half: bool = False, half_backward: bool = False) -> list[torch.Tensor]:
    """Result and gradients, and the state of torch's generator after them. `half`: the forward is under autocast."""
    query, key, value, mask = given
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        result = attend(MODULE, query, key, value, mask, dropout=0.3, scaling=0.4)[0]
    weights = torch.arange(result.numel()).view_as(result).cos()
    with torch.autocast("cpu", torch.bfloat16, enabled=half_backward):
        grads = torch.autograd.grad((result.float() * weights).sum(), (query, key, value))
    return [result, *grads, torch.get_rng_state()]


@pytest.mark.parametrize(("half", "half_backward"), [(False, False), (True, True), (True, False)])
def test_one_piece_equals_torch_bit_for_bit(given, half, half_backward, monkeypatch):
    monkeypatch.setattr(recomputed._Call, "parts", lambda *_: [slice(0, ROWS)])
    found, expected = (run(attend, given, half, half_backward) for attend in (in_pieces, sdpa_attention_forward))
    assert found[0].dtype == (torch.bfloat16 if half else torch.float32)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_rows_in_pieces_draw_one_after_the_other(given, monkeypatch):
    monkeypatch.setattr(recomputed, "SCORES", 2 * HEADS * LENGTH**2)  # two rows at a time

    def in_order(module, query, key, value, mask, **more):
        pieces = [slice(0, 2), slice(2, 4), slice(4, 5)]
        return (
            torch.cat([sdpa_attention_forward(module, query[p], key[p], value[p], mask[p], **more)[0] for p in pieces]),
        )

    for ours, theirs in zip(run(in_pieces, given), run(in_order, given), strict=True):
        assert torch.equal(ours, theirs)


def test_a_mask_for_all_rows_and_none(given, monkeypatch):
    monkeypatch.setattr(recomputed, "SCORES", 1)  # a row at a time
    query, key, value, mask = given
    for shared in (mask[2:3], None):
        for ours, row in zip(in_pieces(MODULE, query, key, value, shared, dropout=1e-9)[0], range(ROWS), strict=True):  # pyright: ignore  # fmt: skip
            alone = sdpa_attention_forward(MODULE, *(one[row : row + 1] for one in (query, key, value)), shared)[0]  # pyright: ignore
            torch.testing.assert_close(ours, alone[0])


def kept(model: transformers.PreTrainedModel, batch: Batch) -> list[int]:
    """Sizes of the last two dimensions' product of what a training forward keeps for the backward."""
    sizes = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    return [shape for shape in sizes if len(shape) >= 3 and shape[-1] == shape[-2] == batch.input_ids.shape[1]]  # type: ignore[misc]


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "electra"])
def test_a_student_keeps_no_scores_and_learns_the_same(family, monkeypatch):
    monkeypatch.setattr(recomputed._Call, "parts", lambda _, query, key: [slice(0, len(query))])
    torch.manual_seed(0)
    plain = transformers.AutoModelForMaskedLM.from_config(tiny_config(family, 2))
    set_dropout(plain, 0.2)
    plain.train()
    ours = copy.deepcopy(plain)
    Encoder(ours)
    assert ours.config._attn_implementation == on_cpu.NAME and plain.config._attn_implementation == "sdpa"
    ids = torch.randint(6, 120, (4, 29))
    rows = torch.ones(4, dtype=torch.bool)
    batch = Batch(torch.arange(4), 0, ids, torch.ones_like(ids), ids, rows)
    assert kept(plain, batch) and not kept(ours, batch)
    found = []
    for model in (plain, ours):
        torch.manual_seed(3)
        loss = model(input_ids=ids, attention_mask=batch.attention_mask, labels=ids).loss
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) > 10
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
