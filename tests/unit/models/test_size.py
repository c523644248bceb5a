"""Parameters by hand and by transformers, bytes of the saved file, milliseconds of a clock that is set."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from kdlab.models import size
from kdlab.models.encoder import Encoder
from kdlab.types import IGNORE, Batch
from tests.conftest import tiny_config, write_teacher


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_parameters_are_those_that_transformers_counts(family):
    model = transformers.AutoModelForMaskedLM.from_config(tiny_config(family))
    every, rest = size.parameter_counts(model)
    assert every == model.num_parameters()
    assert rest == model.num_parameters(exclude_embeddings=True) < every


def test_parameters_of_a_tiny_bert_by_hand():
    config = tiny_config("bert", layers=2)  # V 126, H 32, feed-forward 64, 64 positions, 2 segments
    model = transformers.AutoModelForMaskedLM.from_config(config)
    attention, forward, norm = 4 * (32 * 32 + 32), 32 * 64 + 64 + 64 * 32 + 32, 2 * 32
    layers = 2 * (attention + norm + forward + norm)
    head = 32 * 32 + 32 + norm + 126  # dense, normalisation, bias of the tied vocabulary projection
    embeddings = (126 + 64 + 2) * 32
    assert size.parameter_counts(model) == (layers + head + norm + embeddings, layers + head + norm)


def test_saved_bytes_are_those_of_the_file(tmp_path):
    folder = write_teacher(tmp_path / "teacher")
    assert size.saved_bytes(folder) == (folder / "model.safetensors").stat().st_size
    (tmp_path / "empty").mkdir()
    assert size.saved_bytes(tmp_path / "empty") is None
    assert size.saved_bytes("nobody/of-this-name") is None


def timed(monkeypatch, seconds: list[float], budget: float, count: int = 2) -> tuple[float, int]:
    """Milliseconds per text of batches of `count` whose forwards take `seconds` in turn, and the number of forwards."""
    taken = itertools.chain(seconds, itertools.repeat(seconds[-1]))
    forwards = []

    def forward(encoder: Any, batch: Any, device: torch.device) -> float:
        forwards.append(batch)
        return next(taken)

    class Rows(list):
        def to(self, device: torch.device) -> Rows:
            return self

    monkeypatch.setattr(size, "_timed", forward)
    encoder: Any = SimpleNamespace(parameters=lambda: iter([torch.zeros(1)]))
    return size.milliseconds_per_text(encoder, [Rows(range(count))] * 3, budget), len(forwards)  # pyright: ignore


def test_the_median_is_taken_after_a_warm_up_and_within_the_budget(monkeypatch):
    assert timed(monkeypatch, [9.0, 8.0], budget=0.2) == (4000.0, 2)  # a slow model: one forward after the first
    assert timed(monkeypatch, [0.1, 0.004, 0.002, 0.3], budget=0.2) == (0.004 / 2 * 1000, 4)  # the third passes it
    assert timed(monkeypatch, [0.001, 0.001], budget=5.0) == (0.5, 1 + size.MOST)


def test_a_measurement_leaves_random_state_and_weights_alone():
    encoder = Encoder(transformers.AutoModelForMaskedLM.from_config(tiny_config("bert", 1))).eval()
    before = torch.get_rng_state()
    weights = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    words = torch.tensor([[2, 30, 31, 3], [2, 32, 4, 3]])
    labels = torch.full_like(words, IGNORE)
    labels[1, 2] = 33
    batch = Batch(torch.arange(2), 0, words, torch.ones_like(words), labels, torch.ones(2, dtype=torch.bool))
    assert size.milliseconds_per_text(encoder, [batch], 0.0) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in encoder.state_dict().items())
