"""Models that are no text encoders are refused by their config alone, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import transformers

from kdlab.errors import UserError
from kdlab.models import loading
from kdlab.teachers.specs import source_of

DECODER, BOTH, IMAGES = "a decoder", "an encoder-decoder", "a model of images"
OTHERS: dict[str, tuple[str, Any]] = {
    "LlamaForCausalLM": (DECODER, transformers.LlamaConfig),
    "GPT2LMHeadModel": (DECODER, transformers.GPT2Config),
    "Qwen2ForSequenceClassification": (DECODER, transformers.Qwen2Config),
    "XLNetLMHeadModel": (DECODER, transformers.XLNetConfig),
    "OPTForCausalLM": (DECODER, transformers.OPTConfig),
    "BertLMHeadModel": (DECODER, transformers.BertConfig),
    "T5ForConditionalGeneration": (BOTH, transformers.T5Config),
    "T5EncoderModel": (BOTH, transformers.T5Config),
    "BartForConditionalGeneration": (BOTH, transformers.BartConfig),
    "ViTForImageClassification": (IMAGES, transformers.ViTConfig),
    "CLIPModel": (IMAGES, transformers.CLIPConfig),
}
ENCODERS = {
    "BertForMaskedLM": transformers.BertConfig,
    "BertForPreTraining": transformers.BertConfig,
    "RobertaForSequenceClassification": transformers.RobertaConfig,
    "XLMRobertaModel": transformers.XLMRobertaConfig,
    "DistilBertForMaskedLM": transformers.DistilBertConfig,
    "ElectraForPreTraining": transformers.ElectraConfig,
    "ModernBertForMaskedLM": transformers.ModernBertConfig,
    "DebertaV2Model": transformers.DebertaV2Config,
    "MPNetForMaskedLM": transformers.MPNetConfig,
    "AlbertForMaskedLM": transformers.AlbertConfig,
    "XLMWithLMHeadModel": transformers.XLMConfig,
}


def config_folder(folder: Path, architecture: str, kind: Any, **more: Any) -> Path:
    """A folder with a config.json alone: nothing else of the model may be needed."""
    kind(architectures=[architecture], **more).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", OTHERS)
def test_what_is_no_encoder_is_refused_by_name(architecture, tmp_path):
    what, kind = OTHERS[architecture]
    folder = config_folder(tmp_path, architecture, kind)
    with pytest.raises(UserError) as refused:
        source_of(None, str(folder), None, "teachers")
    line = str(refused.value)
    assert line.startswith(f"the model in {folder} is {what} ({kind.model_type}: {architecture})") and "Hub" not in line


def test_an_encoder_that_was_made_a_decoder_is_refused(tmp_path):
    folder = config_folder(tmp_path, "BertModel", transformers.BertConfig, is_decoder=True)
    with pytest.raises(UserError, match=r"is a decoder \(bert: BertModel\)"):
        loading.load_config(folder)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_encoders_pass(architecture, tmp_path):
    assert loading.load_config(config_folder(tmp_path, architecture, ENCODERS[architecture])).architectures


def test_a_name_in_the_cache_of_the_hub_is_refused(tmp_path, monkeypatch):
    home = tmp_path / "models--acme--tiny-llama"
    config_folder(home / "snapshots" / ("1" * 40), "LlamaForCausalLM", transformers.LlamaConfig)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("1" * 40)
    for module in (huggingface_hub.constants, transformers.utils.hub):
        for name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"the model in acme/tiny-llama is a decoder \(llama: LlamaForCausalLM\)"):
        source_of("acme/tiny-llama", None, None, "teachers")


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "GPT2LMHeadModel", "OPTForCausalLM"])
def test_the_causal_stage_takes_decoders(architecture, tmp_path):
    folder = config_folder(tmp_path, architecture, OTHERS[architecture][1])
    assert loading.load_config(folder, causal=True).architectures == [architecture]
    with pytest.raises(UserError, match=r"is a decoder .*\+exp=causal_pretrain"):
        loading.load_config(folder)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        *ENCODERS.items(),
        *((name, kind) for name, (_, kind) in OTHERS.items() if name[:3] in ("T5F", "ViT", "XLN", "Ber", "Bar")),
    ],
)
def test_the_causal_stage_refuses_what_is_no_decoder(architecture, kind, tmp_path):
    folder = config_folder(tmp_path, architecture, kind)
    with pytest.raises(UserError, match=rf"\({kind.model_type}: {architecture}\), and the causal stage has decoders"):
        loading.load_config(folder, causal=True)
