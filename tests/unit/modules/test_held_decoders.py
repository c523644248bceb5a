"""Decoders held in bfloat16: teachers whole, students their frozen weights beside adapters; what trains stays float32."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from kdlab.methods.knowledge.logits import label_cross_entropy, soft_cross_entropy
from kdlab.models import lora
from kdlab.models.encoder import Encoder
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.stages.preparation import fit
from kdlab.teachers.teacher import Teacher
from tests.unit.models.test_causal import decoder, texts
from tests.unit.modules.test_held_teachers import HALF, assert_near, autocast, bytes_of, said

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        ".*LeafSpec",
        ".*does not have many workers",
        ".*dataloader is not resumable",
        "GPU available but not used",
    )
]
TERMS = {"label": WeightedTerm(label_cross_entropy, 0.5), "soft": WeightedTerm(soft_cross_entropy, 0.5)}


@pytest.mark.parametrize("execution", ["padded", "packed"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "gpt2", "gpt_neox"])
def test_a_held_decoder_answers_as_under_autocast_in_half_of_the_memory(family, execution):
    batch, wants = texts([12, 4, 11, 9]), frozenset({"states"})
    plain, held = (Teacher("t", Encoder(decoder(family), execution)) for _ in range(2))
    held.hold(HALF)
    with autocast():
        assert_near(said(held, batch, wants), said(plain, batch, wants))
    assert bytes_of(held) < 0.53 * bytes_of(plain)
    assert said(held, batch)["hidden"].dtype == torch.float32  # the sums between layers
    tied = [
        model.get_output_embeddings().weight is model.get_input_embeddings().weight  # type: ignore[union-attr]
        for model in (decoder(family), held.encoder.model)
    ]
    assert tied[0] == tied[1]


class Rows:
    """Two batches of text to train on."""

    def train_dataloader(self) -> Any:
        return DataLoader([texts([12, 4, 11, 9]) for _ in range(2)], batch_size=None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("adapters", [False, True])
def test_a_training_in_half_precision_holds_what_is_frozen_and_nothing_else(adapters):
    if adapters and importlib.util.find_spec("peft") is None:
        pytest.skip("adapters are peft's: pip install 'kdlab[lora]'")
    student, teacher = decoder("llama").train(), Teacher("t", Encoder(decoder("llama"), "packed"))
    if adapters:
        lora.add(student, 4)
    module = StudentModule(Encoder(student, "packed"), TERMS, OptimizerSettings(lr=1e-3), 2, [teacher], Ledger(8, True))
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    fit(module, Rows(), 2, "test", accelerator="cpu", precision=HALF)
    assert teacher.encoder.weight_dtype == torch.bfloat16
    for name, parameter in student.named_parameters():
        frozen_matrix = not parameter.requires_grad and parameter.ndim == 2
        assert parameter.dtype == (torch.bfloat16 if frozen_matrix else torch.float32), name
    moved = [name for name, p in student.named_parameters() if p.requires_grad and not torch.equal(p, before[name])]
    assert moved
    module.merge_adapters()
    assert {p.dtype for p in module.student.parameters()} == {torch.float32}
