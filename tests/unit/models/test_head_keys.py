"""Whether weights contain a head: every family, every class that it can be saved from, as a folder and as a Hub name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import transformers

from kdlab.errors import UserError
from kdlab.models import loading
from kdlab.models.head_keys import has_head
from tests.conftest import tiny_config

MASKED_LM, CLASSIFIER = transformers.AutoModelForMaskedLM, transformers.AutoModelForSequenceClassification
SIZES: dict[str, Any] = {
    "vocab_size": 126,
    "pad_token_id": 0,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
ENDS = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
FAMILIES = {
    **{family: tiny_config(family, 2) for family in ("bert", "roberta", "distilbert", "electra")},
    "modernbert": transformers.ModernBertConfig(**SIZES, **ENDS),
    "mpnet": transformers.MPNetConfig(**SIZES),
    "deberta-v2": transformers.DebertaV2Config(**SIZES),
    "xlm-roberta": transformers.XLMRobertaConfig(**SIZES),
    "albert": transformers.AlbertConfig(**SIZES, embedding_size=16),
}
# the class that weights are saved from, and the heads that they have
SAVED = {
    "AutoModelForMaskedLM": (True, False),
    "AutoModelForSequenceClassification": (False, True),
    "AutoModelForTokenClassification": (False, False),
    "AutoModelForQuestionAnswering": (False, False),
    "AutoModel": (False, False),
}


def save(folder: Path, family: str, kind: str) -> Path:
    getattr(transformers, kind).from_config(FAMILIES[family]).save_pretrained(folder)
    return folder


def heads(folder: Path) -> tuple[bool, bool]:
    config = loading.load_config(folder)
    return has_head(folder, config, MASKED_LM), has_head(folder, config, CLASSIFIER)


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_has_the_head_that_it_was_saved_with_and_no_other(family, kind, tmp_path):
    assert heads(save(tmp_path, family, kind)) == SAVED[kind]
    (tmp_path / "model.safetensors").unlink()  # a Hub name: there is only the config to read
    assert heads(tmp_path) == SAVED[kind]


@pytest.mark.parametrize(("family", "masked_lm"), [("bert", True), ("electra", False)])
def test_a_class_for_pretraining_has_a_masked_lm_head_in_some_families(family, masked_lm, tmp_path):
    """ELECTRA's is the discriminator, which predicts replaced tokens."""
    save(tmp_path, family, "AutoModelForPreTraining")
    assert heads(tmp_path) == (masked_lm, False)
    (tmp_path / "model.safetensors").unlink()
    assert heads(tmp_path) == (masked_lm, False)


@pytest.mark.parametrize("kind", ["AutoModelForMaskedLM", "AutoModelForSequenceClassification", "AutoModel"])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_class_in_the_config_the_names_of_the_weights_decide(family, kind, tmp_path):
    config = save(tmp_path, family, kind) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "architectures": None}))
    assert heads(tmp_path) == SAVED[kind]


def test_names_of_the_first_checkpoints_and_of_shards_are_read(tmp_path):
    file = save(tmp_path, "bert", "AutoModelForMaskedLM") / "model.safetensors"
    former = {"weight": "gamma", "bias": "beta"}
    weights = {
        f"{name.rpartition('.')[0]}.{former[name.rpartition('.')[2]]}" if "LayerNorm" in name else name: tensor
        for name, tensor in safetensors.torch.load_file(file).items()
    }
    safetensors.torch.save_file(weights, file, {"format": "pt"})
    assert heads(tmp_path) == (True, False)
    file.rename(tmp_path / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert heads(tmp_path) == (True, False)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged or no safetensors file"):
        heads(tmp_path)


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("AutoModelForMaskedLM", "cls.predictions.transform.dense.weight"),
        ("AutoModelForSequenceClassification", "classifier.weight"),
        ("AutoModelForSequenceClassification", "bert.encoder.layer.1.output.dense.weight"),
    ],
)
def test_a_model_with_missing_weights_is_no_whole_one(kind, lost, tmp_path):
    """transformers draws what is missing at random, and only logs it."""
    file = save(tmp_path, "bert", kind) / "model.safetensors"
    weights = {name: tensor for name, tensor in safetensors.torch.load_file(file).items() if name != lost}
    safetensors.torch.save_file(weights, file, {"format": "pt"})
    assert heads(tmp_path) == ((False, False) if not lost.startswith("bert.") else SAVED[kind])
    load = loading.load_masked_lm if kind == "AutoModelForMaskedLM" else loading.load_classifier
    with pytest.raises(UserError, match=rf"is no whole .*: 1 weights are missing, {lost} for one"):
        load(tmp_path)
    if lost.startswith("bert."):
        with pytest.raises(UserError, match=lost):
            loading.load_masked_lm(tmp_path, new_head=True)
