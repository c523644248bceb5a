"""A last layer run for chosen tokens only equals the full layer, and its FLOPs equal the counted ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch.utils.flop_counter import FlopCounterMode

from kdlab.models import flops, last_layer
from kdlab.models.attention import capture, varlen
from kdlab.models.encoder import Encoder
from kdlab.models.execution import VarlenExecution
from kdlab.models.student import set_dropout, transformer_layers
from kdlab.types import IGNORE, Batch
from tests.conftest import tiny_config
from tests.unit.models.attention.test_varlen import one_by_one
from tests.unit.models.test_packing import LENGTHS, texts

FAMILIES = ["bert", "roberta", "distilbert", "electra", "xlm-roberta", "camembert"]
CLASSES = 3


def model(family: str, text: bool, how: str = "sdpa") -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    kinds = {"xlm-roberta": transformers.XLMRobertaConfig, "camembert": transformers.CamembertConfig}
    config = tiny_config("roberta" if family in kinds else family)
    config = (
        kinds[family](**{k: v for k, v in config.to_dict().items() if k != "model_type"}) if family in kinds else config
    )
    config.initializer_range, config.num_labels = 0.2, CLASSES
    auto = transformers.AutoModelForMaskedLM if text else transformers.AutoModelForSequenceClassification
    return auto.from_config(config, attn_implementation=how).eval()


def batch(text: bool) -> Batch:
    """Rows of 1 to 30 tokens; in text every third token is masked: none in the shortest row, never a first token."""
    b = texts(segments=True)
    if text:
        b.labels = torch.where((torch.arange(30) % 3 == 1) & b.attention_mask.bool(), b.input_ids, IGNORE)
    return b


def predictions(b: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    if b.labels.ndim == 2:
        row, place = b.labelled().nonzero(as_tuple=True)
        return row, place
    return b.rows, torch.zeros_like(b.rows)


def reference_logits(one: transformers.PreTrainedModel, b: Batch) -> torch.Tensor:
    """Logits (U, C) of the unmodified transformers model on the padded batch."""
    given = {"input_ids": b.input_ids, "attention_mask": b.attention_mask}
    if one.config.model_type != "distilbert" and one.config.type_vocab_size > 1:
        given["token_type_ids"] = b.token_types
    logits = one(**given).logits
    return logits[predictions(b)] if b.labels.ndim == 2 else logits


def ours(encoder: Encoder, b: Batch) -> torch.Tensor:
    return encoder.project(encoder.vectors(encoder.encode(b), *predictions(b)))


def close(mine: torch.Tensor, theirs: torch.Tensor, within: float = 1e-6) -> None:
    assert float((mine - theirs).norm()) <= within * float(theirs.norm()) + 1e-9


@pytest.fixture
def counted(monkeypatch):
    """List with one element for each last layer that ran for chosen tokens only."""
    found = []
    run = last_layer.run
    monkeypatch.setattr(last_layer, "run", lambda *given: found.append(1) or run(*given))
    return found


@pytest.mark.parametrize("execution", ["packed", "varlen"])
@pytest.mark.parametrize("text", [False, True], ids=["classes", "text"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_all_gradients_are_those_of_the_unmodified_model(family, text, execution, counted, monkeypatch):
    monkeypatch.setattr(varlen, "attend", one_by_one)
    monkeypatch.setattr(VarlenExecution, "half_precision", True)  # else one row of tokens, in float32, is not tried
    b, found = batch(text), {}
    for way in ("plain", execution):
        one = model(family, text)
        logits = reference_logits(one, b) if way == "plain" else ours(Encoder(one, way), b)
        F.cross_entropy(logits, b.labels[predictions(b)] % logits.shape[-1] if text else b.rows % CLASSES).backward()
        found[way] = logits.detach(), {n: p.grad for n, p in one.named_parameters() if p.grad is not None}
    assert counted == [1]
    close(found[execution][0], found["plain"][0])
    assert found[execution][1].keys() == found["plain"][1].keys()
    for name, gradient in found["plain"][1].items():
        if "key.bias" in name or "k_lin.bias" in name:  # 0 but for rounding: softmax takes constants out
            assert float(gradient.abs().max()) < 1e-6 > float(found[execution][1][name].abs().max())
        else:
            close(found[execution][1][name], gradient, 1e-5)


@pytest.mark.parametrize("how", ["eager", capture.NAME])
def test_any_attention_function_of_the_model_is_used(how, counted):
    b, one = batch(False), model("bert", False, "eager")
    if how == capture.NAME:
        capture.prepare(one)
    with torch.no_grad():
        close(ours(Encoder(one, "packed"), b), reference_logits(one, b))
    assert counted == [1]


@pytest.mark.parametrize("text", [False, True], ids=["classes", "text"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "electra"])
def test_flops_equal_those_that_torch_counts(family, text):
    b, encoder = batch(text), Encoder(model(family, text, "eager"), "packed")
    with FlopCounterMode(display=False) as counter:
        logits = ours(encoder, b)
    with FlopCounterMode(display=False) as back:
        logits.sum().backward()
    shape = flops.shape_of(encoder.model.config)
    head = flops.masked_lm_head(shape, len(logits)) if text else flops.classifier_head(shape, len(b), CLASSES)
    assert counter.get_total_flops() == flops.encoder(shape, *encoder.executed(b)) + head
    assert back.get_total_flops() == flops.backward(counter.get_total_flops())
    assert flops.encoder(shape, *encoder.executed(b)) < flops.encoder(
        shape, *encoder.executed(b, frozenset({"hidden"}))
    )


def test_cost_computed_by_hand():
    shape = flops.EncoderShape(layers=2, hidden=4, intermediate=8, heads=2, vocab=10)
    # 3 rows of 5 tokens: a layer is 8 x 15 x 16 projections, 4 x 75 x 4 attention, 4 x 15 x 4 x 8 feed-forward
    whole = 1920 + 1200 + 1920
    last = (
        4 * 15 * 16 + 4 * 3 * 16 + 4 * (3 * 5) * 4 + 4 * 3 * 4 * 8
    )  # keys, values; query, output; pairs; feed-forward
    assert flops.encoder(shape, 15, 75) == 2 * whole
    assert flops.encoder(shape, 15, 75, 3, 15) == whole + last


def test_tokens_of_one_row_attend_within_their_sequence(monkeypatch):
    b, encoder = batch(True), Encoder(model("bert", True), "varlen")
    queries = [1 + sum(place % 3 == 1 for place in range(n)) for n in LENGTHS]  # the first token, and the masked ones
    assert encoder.executed(b)[2:] == (sum(queries), sum(u * n for u, n in zip(queries, LENGTHS, strict=True)))


@pytest.mark.parametrize("output", ["hidden", "states", "scores", "values"])
def test_the_full_layer_runs_if_other_outputs_are_needed(output, counted):
    b, one = batch(False), model("bert", False)
    capture.prepare(one)
    encoder, wants = Encoder(one, "packed"), frozenset({output})
    with torch.no_grad():
        mine, theirs = encoder.encode(b, wants), Encoder(one).encode(b)
    real = b.attention_mask.unsqueeze(-1)
    torch.testing.assert_close(mine.hidden, theirs.hidden * real, rtol=1e-5, atol=2e-6)
    assert not counted and len(encoder.executed(b, wants)) == 2


def test_the_full_layer_runs_if_a_hook_reads_it(counted):
    b, one = batch(False), model("bert", False)
    encoder = Encoder(one, "packed")
    encoder.encode(b, frozenset({"states"}))  # leaves hooks of transformers' own behind, which are no reason
    encoder.encode(b)
    assert counted == [1]
    layer = transformer_layers(one)[-1]
    for module in (layer, layer.get_submodule("output"), one.base_model):
        seen = []
        hook = module.register_forward_hook(lambda *given, seen=seen: seen.append(given[2]))
        encoder.encode(b)
        assert len(seen) == 1 and counted == [1]
        hook.remove()
    one.config.output_hidden_states = True
    encoder.encode(b)
    assert counted == [1]


@pytest.mark.parametrize("execution", ["bucketed", "padded"])
def test_padded_rows_run_the_unmodified_model(execution, counted):
    encoder = Encoder(model("bert", False), execution)
    assert encoder.encode(batch(False)).hidden.shape[1] == 30 and not counted  # pyright: ignore


def test_states_of_other_tokens_of_text_are_nan():
    b = batch(True)
    shown = Encoder(model("bert", True), "packed").encode(b)
    assert shown.hidden is not None
    read = b.labelled()
    read[:, 0] = True
    assert torch.equal(shown.hidden.isnan().all(-1), ~read) and torch.equal(shown.hidden.isnan().any(-1), ~read)


def test_dropout_draws_for_the_chosen_tokens(counted):
    b, one = batch(False), model("bert", False)
    set_dropout(one, 0.3)
    encoder = Encoder(one, "packed").train()
    torch.manual_seed(1)
    first = ours(encoder, b)
    torch.manual_seed(1)
    assert torch.equal(ours(encoder, b), first)
    assert not torch.equal(ours(encoder, b), first)
    layer = transformer_layers(one)[-1]
    set_dropout(one.base_model.embeddings, 0.0)  # pyright: ignore
    for other in transformer_layers(one)[:-1]:
        set_dropout(other, 0.0)
    many = torch.stack([ours(encoder, b) for _ in range(3)])
    assert many.std(0).min() > 0  # of the last layer alone
    set_dropout(layer, 0.0)
    assert torch.equal(ours(encoder.eval(), b), ours(encoder, b)) and len(counted) == 8


def test_a_copy_of_a_student_has_parameters_of_its_own():
    import copy

    b, encoder = batch(False), Encoder(model("bert", False), "packed")
    with torch.no_grad():
        before = ours(encoder, b)
        other = copy.deepcopy(encoder)
        for parameter in transformer_layers(other.model)[-1].parameters():
            parameter.add_(0.5)
        assert torch.equal(ours(encoder, b), before) and not torch.allclose(ours(other, b), before)


def test_outputs_of_first_tokens_can_be_split_by_rows():
    b = batch(False)
    shown = Encoder(model("bert", False), "packed").encode(b)
    some = shown.take(torch.tensor([2, 4]), 5)
    assert some.hidden is not None and some.mask is not None and shown.hidden is not None
    assert torch.equal(some.hidden, shown.hidden[[2, 4]]) and some.hidden.shape[1] == 1 and some.mask.shape == (2, 5)
    assert dataclasses.replace(some).states is None
