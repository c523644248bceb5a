"""Attention on a CPU: every way has the numbers and gradients of torch's own, and is taken where it is meant to be."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from kdlab.models.attention import on_cpu, recomputed
from kdlab.models.encoder import Encoder
from tests.conftest import tiny_config

ROWS, HEADS, LENGTH, SIZE = 3, 4, 9, 8
MODULE = SimpleNamespace(is_causal=False, training=True)
CAUSAL = SimpleNamespace(is_causal=True, training=True)
GROUPED = SimpleNamespace(is_causal=True, training=True, num_key_value_groups=2)
FEWER = 5  # queries of a layer that runs for some tokens alone


def given(module: SimpleNamespace, length: int = LENGTH) -> list[torch.Tensor]:
    """Queries, keys and values in bfloat16, with gradients."""
    torch.manual_seed(0)
    heads = HEADS // getattr(module, "num_key_value_groups", 1)
    shapes = [(ROWS, HEADS, length, SIZE), *2 * [(ROWS, heads, length, SIZE)]]
    return [torch.randn(shape).to(torch.bfloat16).requires_grad_() for shape in shapes]


def mask_of(kind: str, length: int = LENGTH) -> torch.Tensor | None:
    """A mask under which the last tokens of each row but the first are hidden; "apart": of two segments a row."""
    if kind == "none":
        return None
    seen = torch.arange(length) < length - torch.arange(ROWS).unsqueeze(1)
    seen = seen[:, None, None, :].expand(ROWS, 1, length, length)
    if kind == "apart":
        seen = (torch.arange(length)[:, None] < 4) == (torch.arange(length)[None] < 4)
        seen = seen.expand(ROWS, 1, length, length)
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min) if kind == "float" else seen


def answers(attend, module, tensors, mask, **more) -> list[torch.Tensor]:
    """The result and the gradients of a weighted sum of it, in float32."""
    found = attend(module, *tensors, mask, **more)[0]
    weights = torch.arange(found.numel()).view_as(found).cos()
    return [one.float() for one in (found, *torch.autograd.grad((found.float() * weights).sum(), tensors))]


def exact(module, tensors, mask, **more) -> list[torch.Tensor]:
    """The same by torch's attention in float64."""
    doubled = [one.detach().double().requires_grad_() for one in tensors]
    mask = mask.double() if mask is not None and mask.is_floating_point() else mask
    return answers(sdpa_attention_forward, module, doubled, mask, **more)


def assert_near(ours: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for a, b in zip(ours, expected, strict=True):
        assert a.isfinite().all()
        assert (a - b).abs().max() < 0.02 * b.abs().max()  # bfloat16 has 8 bits


@pytest.mark.parametrize("way", [on_cpu._by_products, on_cpu._in_float32])
@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize(
    ("module", "mask"),
    [(MODULE, "none"), (MODULE, "bool"), (MODULE, "float"), (MODULE, "apart"), (CAUSAL, "none"), (CAUSAL, "bool"), (GROUPED, "none"),
     (GROUPED, "bool")],
)  # fmt: skip
def test_every_way_has_the_numbers_and_gradients_of_float64(way, module, mask, scaling):
    tensors, mask = given(module), mask_of(mask)
    assert_near(answers(way, module, tensors, mask, scaling=scaling), exact(module, tensors, mask, scaling=scaling))


def test_causality_can_be_given_by_the_call():
    tensors = given(MODULE)
    ours = answers(on_cpu._by_products, MODULE, tensors, None, is_causal=True)
    assert_near(ours, exact(CAUSAL, tensors, None))
    assert (ours[0] - exact(MODULE, tensors, None)[0]).abs().max() > 0.1


def test_fewer_queries_than_keys():
    query, key, value = given(MODULE)
    query, mask = query.detach()[:, :, :FEWER].requires_grad_(), mask_of("bool")
    assert mask is not None
    mask = mask[:, :, :FEWER]
    assert_near(
        answers(on_cpu._by_products, MODULE, (query, key, value), mask), exact(MODULE, (query, key, value), mask)
    )


def test_a_row_of_padding_is_no_nan():
    mask = mask_of("bool")
    assert mask is not None
    mask = mask.clone()
    mask[1] = False
    assert all(one.isfinite().all() for one in answers(on_cpu._by_products, MODULE, given(MODULE), mask))


def test_dropout_drops_weights_and_scales_the_others():
    query, key, _ = given(MODULE)
    value = torch.eye(LENGTH).expand(ROWS, HEADS, LENGTH, LENGTH).to(torch.bfloat16)  # so the result is the weights
    torch.manual_seed(0)
    dropped = on_cpu._by_products(MODULE, query, key, value, None, dropout=0.25)[0].float()  # pyright: ignore
    whole = on_cpu._by_products(MODULE, query, key, value, None)[0].float()  # pyright: ignore
    kept = dropped != 0
    assert 0.15 < 1 - kept.float().mean() < 0.35
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75, rtol=0.01, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "length", "learns", "dropout", "more", "expected"),
    [
        (torch.bfloat16, 2 * SIZE, True, 0.0, {}, on_cpu._by_products),
        (torch.bfloat16, 2 * SIZE, False, 0.0, {}, on_cpu._by_products),
        (torch.bfloat16, 2 * SIZE, True, 0.1, {}, on_cpu._by_products),
        (torch.bfloat16, 2 * SIZE, True, 0.0, {"softcap": 30.0}, on_cpu._in_float32),
        (torch.bfloat16, 2 * SIZE + 1, True, 0.0, {}, on_cpu._in_float32),
        (torch.bfloat16, 2 * SIZE + 1, False, 0.0, {}, sdpa_attention_forward),
        (torch.bfloat16, 2 * SIZE + 1, True, 0.1, {}, sdpa_attention_forward),
        (torch.bfloat16, 8192 // SIZE + 1, True, 0.0, {}, sdpa_attention_forward),
        (torch.float32, 2 * SIZE, True, 0.0, {}, sdpa_attention_forward),
    ],
)
def test_which_way_is_taken(dtype, length, learns, dropout, more, expected):
    query, key, value = (one.to(dtype) for one in given(MODULE, length))
    assert on_cpu._way(query, key, value, learns, {"dropout": dropout, **more}) is expected


@pytest.mark.parametrize("length", [LENGTH, 3 * LENGTH])
def test_the_attention_of_a_model_takes_it(length, monkeypatch):
    calls = []
    for name in ("_by_products", "_in_float32"):
        way = getattr(on_cpu, name)
        monkeypatch.setattr(on_cpu, name, lambda *a, way=way, name=name, **k: calls.append(name) or way(*a, **k))
    tensors, mask = given(MODULE, length), mask_of("bool", length)
    assert_near(answers(on_cpu._attention, MODULE, tensors, mask), exact(MODULE, tensors, mask))
    assert calls == ["_by_products" if length == LENGTH else "_in_float32"]


def test_what_is_run_anew_in_the_backward(monkeypatch):
    calls = []
    monkeypatch.setattr(recomputed._Recomputed, "apply", lambda *given: calls.append(given) or given[1])
    monkeypatch.setattr(recomputed, "SCORES", 1)
    tensors = given(MODULE)

    def attend(dropout: float) -> int:
        on_cpu._attention(MODULE, *tensors, None, dropout=dropout)  # pyright: ignore
        return len(calls)

    assert attend(0.0) == 0
    with torch.no_grad():
        assert attend(0.3) == 0
    assert attend(0.3) == 1
    monkeypatch.setattr(recomputed, "SCORES", ROWS * HEADS * LENGTH**2)
    assert attend(0.3) == 1


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "electra"])
def test_a_model_learns_as_with_torchs_attention(family):
    torch.manual_seed(0)
    plain = transformers.AutoModelForMaskedLM.from_config(tiny_config(family, 2)).eval()  # no dropout
    ours = copy.deepcopy(plain)
    Encoder(ours)
    ids, found = torch.randint(6, 120, (4, 29)), []
    mask = (torch.arange(29) < torch.tensor([[29], [20], [7], [1]])).long()
    for model in (plain, ours):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=mask, labels=ids.where(mask.bool(), -100)).loss
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) > 10
    norm = torch.cat([one.flatten() for one in found[0]]).norm()
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() < 0.02 * norm


def test_a_saved_model_does_not_name_it(tmp_path):
    model = transformers.AutoModelForMaskedLM.from_config(tiny_config("bert", 1))
    Encoder(model)
    assert model.config._attn_implementation == on_cpu.NAME
    model.save_pretrained(tmp_path)
    assert on_cpu.NAME not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    assert transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
