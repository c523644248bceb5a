"""Execution in one row of all tokens equals padded execution: flattening on any device, the kernels on a GPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.models.attention import capture, varlen
from kdlab.models.encoder import Encoder
from kdlab.models.execution import VarlenExecution
from kdlab.models.student import set_dropout
from tests.unit.models.test_packing import LENGTHS, model, texts

STATES = frozenset({"states"})


def one_by_one(
    query: Tensor, key: Tensor, value: Tensor, query_bounds: Tensor, bounds: Tensor, most_queries: int, longest: int
) -> Tensor:
    """Reference of the kernels: attention of one sequence after another."""
    found = []
    for first, last, begin, end in zip(
        *(x.tolist() for x in (query_bounds[:-1], query_bounds[1:], bounds[:-1], bounds[1:])), strict=True
    ):
        assert end - begin <= longest and last - first <= most_queries
        q, k, v = (x[i:j].transpose(0, 1) for x, i, j in ((query, first, last), (key, begin, end), (value, begin, end)))
        found.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_hidden_states_of_one_row_equal_those_of_padded_rows(family, monkeypatch):
    monkeypatch.setattr(varlen, "attend", one_by_one)
    monkeypatch.setattr(VarlenExecution, "half_precision", True)
    b = texts(segments=True)
    given = model(family)
    padded = Encoder(given).encode(b, STATES)
    flat = Encoder(given, "varlen")
    mine = flat.encode(b, STATES)
    real = b.attention_mask.unsqueeze(-1)
    for a, c in zip((mine.hidden, *mine.states), (padded.hidden, *padded.states), strict=True):  # pyright: ignore
        torch.testing.assert_close(a, c * real, rtol=1e-5, atol=2e-6)
    assert flat.executed(b) == (sum(LENGTHS), sum(n * n for n in LENGTHS))


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_attention_with_dropout_is_packed_as_the_kernels_have_none(family):
    given = model(family)
    set_dropout(given, 0.1)
    encoder = Encoder(given, "varlen")
    b = texts()
    assert encoder.executed(b)[0] == sum(LENGTHS)
    given.train()
    assert encoder.executed(b) == Encoder(model(family), "packed").executed(b)
    set_dropout(given, 0.0)
    assert encoder.executed(b)[0] == sum(LENGTHS)


def test_recorded_attention_is_packed():
    given = model("bert")
    encoder = Encoder(given, "varlen")
    capture.prepare(given)
    assert encoder.executed(texts()) == Encoder(model("bert"), "packed").executed(texts())


def test_a_cpu_has_no_kernels():
    assert not varlen.available(torch.device("cpu"))


def test_a_family_without_position_ids_runs_in_buckets():
    assert Encoder(model("modernbert"), "varlen").execution == "bucketed"


@pytest.mark.skipif(not varlen.available(torch.device("cuda" if torch.cuda.is_available() else "cpu")), reason="no GPU")
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_values_and_gradients_of_the_kernels_equal_padded_attention(family):
    device = torch.device("cuda")
    b = texts(segments=True).to(device)
    results = {}
    for execution in ("padded", "varlen"):
        given = model(family).to(device)
        with torch.autocast("cuda", torch.bfloat16):
            hidden = Encoder(given, execution).encode(b).hidden
        (hidden.float() * b.attention_mask.unsqueeze(-1)).pow(2).mean().backward()  # pyright: ignore
        gradients = {name: p.grad.clone() for name, p in given.named_parameters() if p.grad is not None}
        results[execution] = hidden * b.attention_mask.unsqueeze(-1), gradients  # pyright: ignore
    torch.testing.assert_close(results["varlen"][0], results["padded"][0], rtol=0.05, atol=0.05)
    for name, expected in results["padded"][1].items():
        found = results["varlen"][1][name]
        assert float((found - expected).norm()) <= 0.05 * float(expected.norm()) + 1e-6, name
