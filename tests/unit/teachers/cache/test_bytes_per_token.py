"""Bytes that a cache stores for a position of a vocabulary of 49,152 tokens, that of SmolLM2."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from kdlab.models.encoder import Encoder
from kdlab.teachers.cache.codec import CacheSpec, encode_rows, join_rows, unpacked
from kdlab.teachers.teacher import Teacher
from kdlab.testing.tiny import tiny_decoder_config
from tests.unit.models.test_causal import texts

VOCABULARY, LENGTH = 49_152, 128
DISTILLKIT = 114  # bytes a token of its compressed store
PAPER = 12 * 3  # Anshumann et al. 2025 keep 12 tokens, of 3 bytes each in their code's format


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    config = tiny_decoder_config("llama", layers=1, vocabulary=VOCABULARY)
    torch.manual_seed(0)
    return Teacher("t", Encoder(transformers.AutoModelForCausalLM.from_config(config)))


@pytest.mark.parametrize(
    ("vocabulary", "k", "most"),
    [
        ("sampled", 12, PAPER),
        ("sampled", 50, DISTILLKIT),
        ("topk", 50, 3 * DISTILLKIT),
        ("full", 0, 4 * VOCABULARY + 1),
    ],
)
def test_bytes_of_a_position(teacher, vocabulary, k, most):
    spec, batch = CacheSpec("labelled", vocabulary, k), texts([LENGTH] * 2, VOCABULARY)
    units = LENGTH - 1
    payloads = encode_rows(
        spec, teacher.encoder, teacher.project, batch, VOCABULARY,
        lambda row, count: np.random.default_rng(row).random((count, k)),
    )  # fmt: skip
    measured = len(payloads[0]) / units
    each = {"sampled": 2 * k, "topk": (4 + 2) * k, "full": 4 * VOCABULARY}[vocabulary]
    assert each <= measured < each + 1 and measured <= most
    planned = spec.bytes(units, LENGTH, LENGTH**2, VOCABULARY, (1, 32, 4), 4) / units
    assert planned == pytest.approx(measured, abs=0.5)  # what a run prints before
    arrays = [np.frombuffer(payload, dtype=np.uint8) for payload in payloads]
    assert unpacked(arrays[0])[1][0].shape[0] == units
    _, logits = join_rows(spec, batch, arrays, VOCABULARY, 1)
    assert logits is not None and logits.of(torch.arange(3)).shape == (3, VOCABULARY)
