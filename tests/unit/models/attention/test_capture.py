"""Recorded attention against transformers' own eager attention and against products computed by hand."""

from __future__ import annotations

import copy
import json
import threading

import numpy as np
import pytest
import torch
import transformers

from kdlab.errors import UserError
from kdlab.models.attention import capture
from tests.conftest import tiny_config

LAYERS, HEADS, LENGTH = 3, 4, 9
FAMILIES = ["bert", "roberta", "distilbert", "electra", "modernbert", "albert", "eurobert"]
BLOCKS = {"vocab_size": 126, "pad_token_id": 0, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 64}  # fmt: skip


def config(family: str) -> transformers.PreTrainedConfig:
    if family == "modernbert":
        return transformers.ModernBertConfig(**BLOCKS, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
    if family == "albert":
        return transformers.AlbertConfig(**BLOCKS, embedding_size=16)
    if family == "eurobert":  # two heads share their keys and values
        return transformers.EuroBertConfig(**BLOCKS, num_key_value_heads=2, mask_token_id=4)
    return tiny_config(family, LAYERS)


def models(family: str) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedModel]:
    """Two copies of a random model: with transformers' eager attention, and prepared."""
    torch.manual_seed(0)
    eager = transformers.AutoModelForMaskedLM.from_config(config(family), attn_implementation="eager").eval()
    for parameter in eager.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(5)  # attention far from uniform
    ours = copy.deepcopy(eager)
    capture.prepare(ours)
    return eager, ours


def inputs() -> dict[str, torch.Tensor]:
    """Three rows: whole, padded, and of one token."""
    ids = torch.randint(5, 120, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    mask[2, 1:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_those_of_eager_attention_and_scores_lead_to_its_weights(family):
    eager, ours = models(family)
    batch = inputs()
    for training in (False, True):
        eager.train(training)
        ours.train(training)
        with torch.no_grad():
            expected = eager(**batch, output_attentions=True, output_hidden_states=True)
            with capture.recording() as seen:
                found = ours(**batch, output_hidden_states=True)
        scores, values = capture.checked(seen, ours)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-6, atol=1e-6)
        for a, b in zip(found.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        padding = batch["attention_mask"][:, None, None, :] == 0
        for score, value, weights in zip(scores, values, expected.attentions, strict=True):
            assert score.shape == (3, HEADS, LENGTH, LENGTH) and value.shape == (3, HEADS, LENGTH, 8)
            assert float(weights.std()) > 0.05 and torch.isfinite(score).all()
            torch.testing.assert_close(score.masked_fill(padding, -torch.inf).softmax(-1), weights, rtol=1e-5, atol=1e-6)  # fmt: skip


def test_scores_and_values_are_the_scaled_products_of_the_layers_own_projections():
    _, model = models("bert")
    batch = inputs()
    with torch.no_grad(), capture.recording() as seen:
        states = model.bert(**batch, output_hidden_states=True).hidden_states
    scores, values = capture.checked(seen, model)
    for n, layer in enumerate(model.bert.encoder.layer):
        own, x = layer.attention.self, states[n].double().numpy()
        q, k, v = (
            x @ m.weight.detach().double().numpy().T + m.bias.detach().numpy() for m in (own.query, own.key, own.value)
        )
        for head in range(HEADS):
            part = slice(8 * head, 8 * head + 8)
            for row in range(3):
                expected = q[row, :, part] @ k[row, :, part].T / np.sqrt(8)
                np.testing.assert_allclose(scores[n][row, head].numpy(), expected, rtol=1e-4, atol=1e-4)
                np.testing.assert_allclose(values[n][row, head].numpy(), v[row, :, part], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_dropout_falls_as_in_eager_attention(family):
    eager, ours = models(family)
    batch = inputs()
    for model in (eager, ours):
        model.train()
        for module in model.modules():
            for name in ("p", "attention_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.4)
    found = []
    for model in (eager, ours):
        torch.manual_seed(3)
        with capture.recording() as seen:
            found.append(model(**batch).logits)
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)
    assert len(seen.scores) == LAYERS
    torch.manual_seed(4)
    assert not torch.allclose(ours(**batch).logits, found[1])


def test_gradients_flow_through_the_recording_and_are_unchanged_through_the_output():
    eager, ours = models("bert")
    batch = inputs()
    eager(**batch).logits.square().mean().backward()
    with capture.recording() as seen:
        logits = ours(**batch).logits
    scores, values = capture.checked(seen, ours)
    logits.square().mean().backward(retain_graph=True)
    for (name, a), b in zip(ours.named_parameters(), eager.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None, name
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)
    ours.zero_grad()
    scores[1].sum().backward(retain_graph=True)
    layers = ours.bert.encoder.layer
    assert float(layers[1].attention.self.key.weight.grad.abs().sum()) > 0
    assert float(layers[0].output.dense.weight.grad.abs().sum()) > 0 and layers[2].output.dense.weight.grad is None
    ours.zero_grad()
    values[2].sum().backward()
    assert float(layers[2].attention.self.value.weight.grad.abs().sum()) > 0
    assert layers[2].attention.self.query.weight.grad is None


def test_recordings_of_student_and_teacher_are_separate_nested_or_in_sequence():
    _, teacher = models("bert")
    _, student = models("roberta")
    batch = inputs()
    with torch.no_grad():
        with capture.recording() as alone:
            teacher(**batch)
        with capture.recording() as outer:
            with capture.recording() as inner:
                teacher(**batch)
            student(**batch)
        student(**batch)  # no recording is open
    for a, b in zip(inner.scores, alone.scores, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert len(capture.checked(outer, student)[0]) == len(capture.checked(inner, teacher)[0]) == LAYERS
    assert not torch.equal(outer.scores[0], inner.scores[0])


def test_recordings_are_local_to_a_thread():
    _, model = models("bert")
    with capture.recording() as seen:
        other = threading.Thread(target=lambda: model(**inputs()))
        other.start()
        other.join()
    assert seen.scores == []


def test_a_failed_forward_closes_its_recording():
    _, model = models("bert")
    with pytest.raises(IndexError), capture.recording() as seen:
        model(input_ids=torch.tensor([[10**6]]))
    model(**inputs())
    assert seen.scores == []


def test_too_few_or_too_many_layers_are_an_error():
    _, model = models("bert")
    untouched = transformers.AutoModelForMaskedLM.from_config(tiny_config("bert", LAYERS)).eval()
    with capture.recording() as none:
        untouched(**inputs())  # sdpa: nothing to see
    with pytest.raises(UserError, match="attention of 0 layers was read from a bert model of 3 layers"):
        capture.checked(none, untouched)
    with capture.recording() as twice:
        model(**inputs())
        model(**inputs())
    with pytest.raises(UserError, match="attention of 6 layers"):
        capture.checked(twice, model)


@pytest.mark.parametrize("kind", ["DebertaV2", "MPNet"])
def test_families_with_attention_of_their_own_are_refused_by_name(kind):
    made = getattr(transformers, f"{kind}Config")(**BLOCKS)
    model = transformers.AutoModelForMaskedLM.from_config(made)
    with pytest.raises(UserError, match=f"a {made.model_type} model") as error:
        capture.prepare(model)
    assert "\n" not in str(error.value)


def test_scores_that_are_more_than_scaled_products_are_refused():
    made = transformers.T5Config(vocab_size=126, d_model=32, d_kv=8, d_ff=64, num_layers=LAYERS, num_heads=HEADS)
    model = transformers.T5EncoderModel(made).eval()
    capture.prepare(model)
    with pytest.raises(UserError, match="position_bias"), capture.recording():
        model(**inputs())
    assert model(**inputs()).last_hidden_state.shape == (3, LENGTH, 32)  # without a recording it runs


def test_a_prepared_model_is_saved_and_copied_as_an_ordinary_one(tmp_path):
    eager, ours = models("bert")
    ours.save_pretrained(tmp_path)
    assert capture.NAME not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    again = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert again.config._attn_implementation != capture.NAME
    torch.testing.assert_close(again(**inputs()).logits, eager(**inputs()).logits, rtol=1e-4, atol=1e-4)
    copied = type(ours)(copy.deepcopy(ours.config)).eval()
    with capture.recording() as seen:
        copied(**inputs())
    assert len(capture.checked(seen, copied)[0]) == LAYERS


def test_under_bf16_autocast_it_is_eager_attention_too():
    eager, ours = models("bert")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), capture.recording() as seen:
        found, expected = ours(**inputs()).logits, eager(**inputs()).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert len(capture.checked(seen, ours)[0]) == LAYERS
