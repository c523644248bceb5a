"""Layers that run anew in the backward: the same gradients from fewer saved tensors, and an honest count of FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from kdlab.errors import UserError
from kdlab.methods.knowledge.hidden_states import hidden_mse
from kdlab.methods.knowledge.logits import label_cross_entropy, soft_cross_entropy
from kdlab.models.encoder import Encoder
from kdlab.models.student import recomputable, recompute_layers, recomputes, set_dropout
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.seeding import reseed
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch
from tests.unit.models.test_causal import decoder, gradients, texts
from tests.unit.models.test_packing import LARGE
from tests.unit.modules.test_student_tasks import batch as rows
from tests.unit.modules.test_student_tasks import classifier

SIZES: Any = LARGE
LABEL = WeightedTerm(label_cross_entropy, 0.5)
TERMS = {"label": LABEL, "soft": WeightedTerm(soft_cross_entropy, 0.5), "states": WeightedTerm(hidden_mse, 0.5)}


def module_of(student: transformers.PreTrainedModel, teacher: Any, execution: str, recompute: bool) -> StudentModule:
    set_dropout(student, 0.2)
    for part in student.modules():
        if isinstance(getattr(part, "attention_dropout", None), float):
            part.attention_dropout = 0.2  # pyright: ignore[reportAttributeAccessIssue]
    if recompute:
        recompute_layers(student)
    terms = {"label": LABEL} if teacher is None else TERMS
    pool = [] if teacher is None else [Teacher("teacher", Encoder(teacher, execution))]
    encoder = Encoder(student.train(), execution)
    return StudentModule(encoder, terms, OptimizerSettings(lr=1e-3), 1, pool, Ledger(8, True))


def step(module: StudentModule, batch: Batch) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss, gradients, and the bytes of the tensors that the graph of a step keeps."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    owned = {p.data_ptr() for p in [*module.parameters(), *module.buffers()]}
    reseed(0, "test")
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = module.training_step(batch, 0)
    loss.backward()
    return float(loss.detach()), gradients(module.student.model), sum(n for at, n in kept.items() if at not in owned)


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Any] | None, Callable[[], Batch]]] = {
    "llama": (lambda: decoder("llama"), lambda: decoder("llama"), texts),
    "gpt2": (lambda: decoder("gpt2"), lambda: decoder("gpt2"), texts),
    "gemma3_text": (lambda: decoder("gemma3_text"), None, texts),
    "classifier": (lambda: classifier("bert", 2), None, rows),
}


@pytest.mark.parametrize("execution", ["padded", "packed"])
@pytest.mark.parametrize("kind", sorted(MODELS))
def test_the_same_gradients_from_fewer_saved_tensors(kind, execution):
    student, teacher, data = MODELS[kind]
    plain, light = (
        module_of(student(), None if teacher is None else teacher(), execution, recompute)
        for recompute in (False, True)
    )
    assert [recomputes(recomputable(one.student.model)) for one in (light, plain)] == [True, False]
    (loss, wanted, much), (again, found, little) = step(plain, data()), step(light, data())
    assert loss == again and found.keys() == wanted.keys() and wanted
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)
    assert little < 0.6 * much, (little, much)


def test_the_ledger_counts_the_second_forward():
    """But for a layer's last products, whose output the backward does not need."""
    model = decoder("llama")
    model.set_attn_implementation("eager")
    module, batch = module_of(model, None, "padded", True), texts([16] * 4)
    plain = module.plain_flops(batch)
    with FlopCounterMode(display=False) as counter:
        module.training_step(batch, 0).backward()
    assert module.ledger is not None
    parts = module.ledger.totals()["flops"]
    assert parts["total"] == sum(plain)
    assert 0.9 * parts["total"] <= counter.get_total_flops() <= parts["total"]
    assert parts["student_backward"] > 2 * parts["student_forward"]


def test_a_family_whose_layers_cannot_is_refused():
    model = transformers.MPNetForMaskedLM(transformers.MPNetConfig(**SIZES))
    assert not model.supports_gradient_checkpointing
    with pytest.raises(UserError, match="mpnet cannot run anew"):
        recompute_layers(model)
