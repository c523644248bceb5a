"""A decoder's layers over two ranks (gloo): equal answers, logits and runs, also where embeddings and head are one matrix."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from kdlab.models.encoder import Encoder
from kdlab.models.student import transformer_layers
from kdlab.teachers.teacher import Teacher
from kdlab.testing.tiny import write_decoder
from kdlab.types import Batch
from tests.ddp.test_sharding import held
from tests.support.cadence import each_time
from tests.support.ranks import results_of_two
from tests.support.runs import call, outcome, tiny_causal
from tests.unit.models.test_causal import decoder, texts, together

FAMILIES = {"llama": "packed", "gpt2": "packed", "gemma3_text": "padded", "qwen3": "padded", "opt": "bucketed"}
STATES = frozenset({"states"})


def asked(number: int) -> Batch:
    """The rows of a rank: several documents in a row for the first."""
    return together(texts(), [[3, 2], [0, 6, 1, 7]]) if number == 0 else texts([5, 9, 2])


def answer(teacher: Teacher, batch: Batch) -> dict[str, Any]:
    outputs = teacher.answer(batch, needed=STATES).outputs
    row, token = batch.labelled().nonzero(as_tuple=True)
    return {
        "logits": teacher.project(teacher.encoder.vectors(outputs, row, token)),
        "states": [state[batch.attention_mask.bool()] for state in outputs.states or ()],
    }


def on_rank(number: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for family, execution in FAMILIES.items():
        teacher = Teacher("t", Encoder(decoder(family), execution), shared=True).to(torch.device("cpu"))
        found[family] = answer(teacher, asked(number))
        if number == 0:
            answer(teacher, asked(0))  # rank 1 runs along
        else:
            teacher.catch_up()
        found[f"held {family}"] = held(transformer_layers(teacher.encoder.model))
        half = Teacher("t", Encoder(decoder(family), execution), shared=True).hold("bf16-mixed").to(torch.device("cpu"))
        found[f"half {family}"] = answer(half, asked(number))
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> list[dict[str, Any]]:
    return results_of_two(on_rank, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_the_whole_teacher(family, half, both):
    alone = Teacher("t", Encoder(decoder(family), FAMILIES[family]))
    if half:
        alone.hold("bf16-mixed")
    layers = sum(p.numel() for p in transformer_layers(alone.encoder.model).parameters())
    for number, found in enumerate(both):
        wanted, shown = answer(alone, asked(number)), found[f"half {family}" if half else family]
        assert torch.equal(shown["logits"], wanted["logits"]), family
        assert len(shown["states"]) == len(wanted["states"]) == 4
        assert all(torch.equal(a, b) for a, b in zip(shown["states"], wanted["states"], strict=True))
        assert found[f"held {family}"] == pytest.approx(layers / 2, rel=0.02)  # rows of odd matrices fall to one rank


@pytest.mark.parametrize("family", each_time(["llama", "gemma3_text"], "gemma3_text"))
def test_a_run_with_a_shared_teacher_is_the_run_with_a_whole_one(family, text_folder, tmp_path):
    """Of gemma the embeddings are the head."""
    teacher = write_decoder(tmp_path / "teacher", family)
    found = []
    for name in ("ddp", "fsdp_teacher"):
        shutil.rmtree(tmp_path / "artifacts" / "heldout", ignore_errors=True)
        more = [
            "data.batch_size=8",
            "trainer.devices=2",
            "trainer.accelerator=cpu",
            "select=entropy",
            "knowledge=causal_states",
        ]
        given = [*tiny_causal(teacher, text_folder, *more), f"trainer={name}", f"hydra.run.dir={name}"]
        done = call(given, tmp_path, ranks=2)
        assert done.code == 0, done.output
        found.append(outcome(tmp_path / name))
    assert found[0] == found[1]
