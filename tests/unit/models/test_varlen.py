"""One row of all tokens gives what padded rows give: the way there and back anywhere, the kernels on a GPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.models import attention_capture, varlen
from kdlab.models.encoder import Encoder
from kdlab.models.execution import VarlenExecution
from kdlab.models.student import set_dropout
from tests.unit.models.test_packing import LENGTHS, model, texts

STATES = frozenset({"states"})


def one_by_one(
    query: Tensor, key: Tensor, value: Tensor, asking: Tensor, bounds: Tensor, most: int, longest: int
) -> Tensor:
    """Reference for the kernels' contract, one sequence at a time."""
    found = []
    for first, last, begin, end in zip(
        *(x.tolist() for x in (asking[:-1], asking[1:], bounds[:-1], bounds[1:])), strict=True
    ):
        assert end - begin <= longest and last - first <= most
        q, k, v = (x[i:j].transpose(0, 1) for x, i, j in ((query, first, last), (key, begin, end), (value, begin, end)))
        found.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_one_row_of_all_tokens_shows_what_padded_rows_show(family, monkeypatch):
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
def test_the_kernels_know_no_dropout_so_attention_with_dropout_is_packed(family):
    given = model(family)
    set_dropout(given, 0.1)
    encoder = Encoder(given, "varlen")
    b = texts()
    assert encoder.executed(b)[0] == sum(LENGTHS)
    given.train()
    assert encoder.executed(b) == Encoder(model(family), "packed").executed(b)
    set_dropout(given, 0.0)
    assert encoder.executed(b)[0] == sum(LENGTHS)


def test_attention_that_is_read_is_packed():
    given = model("bert")
    encoder = Encoder(given, "varlen")
    attention_capture.prepare(given)
    assert encoder.executed(texts()) == Encoder(model("bert"), "packed").executed(texts())


def test_a_cpu_has_no_such_kernels():
    assert not varlen.available(torch.device("cpu"))


def test_a_family_without_given_positions_runs_in_buckets():
    assert Encoder(model("modernbert"), "varlen").execution == "bucketed"


@pytest.mark.skipif(not varlen.available(torch.device("cuda" if torch.cuda.is_available() else "cpu")), reason="no GPU")
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_the_kernels_give_values_and_gradients_of_padded_attention(family):
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
    for name, wanted in results["padded"][1].items():
        found = results["varlen"][1][name]
        assert float((found - wanted).norm()) <= 0.05 * float(wanted.norm()) + 1e-6, name
