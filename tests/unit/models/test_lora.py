"""Adapters: what trains, what a forward gives, what a checkpoint holds, the FLOPs, and the merged model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from kdlab.errors import UserError
from kdlab.methods.knowledge.logits import label_cross_entropy
from kdlab.models import lora
from kdlab.models.encoder import Encoder
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.types import Batch
from tests.unit.models.test_causal import decoder, gradients, loss_of, texts

pytest.importorskip("peft", reason="adapters are peft's: pip install 'kdlab[lora]'")
FAMILIES = ["llama", "gpt2", "gpt_neox", "gemma3_text", "phi3"]


def adapted(family: str = "llama", rank: int = 4, **more: Any) -> transformers.PreTrainedModel:
    model = decoder(family)
    lora.add(model, rank, **more)
    return model.train()


def stirred(model: torch.nn.Module) -> torch.nn.Module:
    """The model with adapters that change its outputs: B begins as 0."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.3)
    return model


def module_of(model: transformers.PreTrainedModel, execution: str = "packed") -> StudentModule:
    terms = {"label": WeightedTerm(label_cross_entropy, 1.0)}
    return StudentModule(Encoder(model, execution), terms, OptimizerSettings(lr=1e-2), 10, (), Ledger(8, True))


def logits(model: Any, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[
            batch.attention_mask.bool()
        ]


@pytest.mark.parametrize("family", FAMILIES)
def test_new_adapters_change_nothing_and_trained_ones_add_their_product(family):
    batch, plain, model = texts(), decoder(family), adapted(family, alpha=6.0)
    assert torch.equal(logits(plain, batch), logits(model, batch))
    stirred(model)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            path, _, kind = name.rpartition(".")
            down = weights.get(f"{path}.lora_A.default.weight")
            if kind == "weight" and down is not None:
                product = 6.0 / 4 * weights[f"{path}.lora_B.default.weight"] @ down
                parameter += product.T if family == "gpt2" else product  # whose matrices are stored transposed
    assert not torch.allclose(logits(plain, batch), logits(decoder(family), batch), atol=1e-2)
    torch.testing.assert_close(logits(model, batch), logits(plain, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_model_is_plain_and_gives_the_same_logits_when_it_is_loaded(family, tmp_path: Path):
    batch, module = texts(), module_of(stirred(adapted(family)))
    before = logits(module.student.model, batch)
    module.merge_adapters()
    assert {type(part).__module__.partition(".")[0] for part in module.student.model.modules()} <= {
        "torch",
        "transformers",
    }
    module.student.model.save_pretrained(tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert {name for name, _ in loaded.named_parameters()} == {name for name, _ in decoder(family).named_parameters()}
    torch.testing.assert_close(logits(loaded, batch), before, rtol=1e-4, atol=1e-4)
    row, token = batch.labelled().nonzero(as_tuple=True)
    encoder = module.student  # its two halves are those of the merged model, too
    with torch.no_grad():
        found = encoder.project(encoder.vectors(encoder.encode(batch), row, token))
        wanted = loaded(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[row, token]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("execution", ["padded", "packed"])
def test_only_adapters_train_and_their_gradients_are_those_of_the_matrices(execution):
    """By the chain rule: of W + B A, dB is dW A^T and dA is B^T dW."""
    batch, model = texts(), stirred(adapted(alpha=4.0))
    loss_of(Encoder(model, execution), batch).backward()
    found = gradients(model)
    assert found and all(".lora_" in name for name in found)
    plain = module_of(stirred(adapted(alpha=4.0)))
    plain.merge_adapters()
    plain.student.requires_grad_(True)
    loss_of(Encoder(plain.student.model, execution), batch).backward()
    whole, weights = gradients(plain.student.model), dict(model.named_parameters())
    for name, gradient in found.items():
        path, _, part = name.partition(".lora_")
        down, up = (weights[f"{path}.lora_{one}.default.weight"] for one in "AB")
        matrix = whole[f"{path}.weight"]
        wanted = up.T @ matrix if part.startswith("A") else matrix @ down.T
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)


def test_optimizer_and_checkpoint_hold_adapters_and_a_changed_base_is_refused():
    module = module_of(adapted())
    optimizer = module.configure_optimizers()["optimizer"]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for name, p in module.named_parameters() if ".lora_" in name}
    module.loss(texts()).backward()
    optimizer.step()
    checkpoint: dict[str, Any] = {"state_dict": dict(module.state_dict())}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["state_dict"].keys() == {name for name, _ in module.named_parameters() if ".lora_" in name}
    again = module_of(adapted())
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"])
    for (name, mine), theirs in zip(module.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    other = module_of(adapted())
    with torch.no_grad():
        next(p for p in other.parameters() if not p.requires_grad).add_(1e-3)
    with pytest.raises(UserError, match="has changed"):
        other.on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_the_ledger_counts_what_torch_counts(family):
    """But for the first layer's gradients of its input, which nobody needs: the token embeddings are frozen."""
    model = adapted(family)
    model.set_attn_implementation("eager")
    module, batch = module_of(model, "padded"), texts([16] * 4)
    plain = module.plain_flops(batch)
    with FlopCounterMode(display=False) as counter:
        module.training_step(batch, 0).backward()
    assert module.ledger is not None
    counted = module.ledger.totals()["flops"]["total"]
    assert counted == sum(plain)
    first = sum(
        2 * batch.input_ids.numel() * module_.base_layer.weight.numel()
        for name, module_ in model.named_modules()
        if hasattr(module_, "lora_A")
        and ".0." in name
        and any(x in name for x in ("q_proj", "k_proj", "v_proj", "c_attn"))
    )
    assert 0 <= counted - counter.get_total_flops() - first <= 0.02 * counted
    assert counted < 3 * module.ledger.totals()["flops"]["student_forward"]


def test_frozen_matrices_are_held_in_half_precision_beside_adapters_in_float32():
    batch, model = texts(), stirred(adapted("gpt2"))
    encoder, plain = Encoder(model), Encoder(stirred(adapted("gpt2")))
    encoder.cast_weights(torch.bfloat16)
    types = {name: p.dtype for name, p in model.named_parameters()}
    assert all((kind == torch.float32) for name, kind in types.items() if ".lora_" in name)
    matrices = [kind for name, kind in types.items() if name.endswith("base_layer.weight")]
    assert matrices and set(matrices) == {torch.bfloat16} == {types["transformer.wte.weight"]}
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = loss_of(encoder, batch), loss_of(plain, batch)
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)
    found.backward()
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients(model).values())


def test_targets_are_ends_of_names():
    model = decoder("llama")
    assert len(lora.targets_in(model, "all")) == 3 * 7
    assert lora.targets_in(model, ["self_attn.q_proj"]) == [f"model.layers.{i}.self_attn.q_proj" for i in range(3)]
    with pytest.raises(UserError, match=r"student.lora.targets=qproj: .* did you mean q_proj"):
        lora.targets_in(model, ["q_proj", "qproj"])
    with pytest.raises(UserError, match="lm_head"):
        lora.targets_in(model, ["lm_head"])
