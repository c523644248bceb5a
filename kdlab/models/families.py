"""Refuse models of another kind than a stage has, by their config: text encoders, decoders, and all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.models.auto import modeling_auto as auto

from kdlab.errors import UserError

_BIDIRECTIONAL = {"xlnet"}  # language models whose tokens read later ones unless they are told not to
_CAUSAL = ("ForCausalLM", "LMHeadModel")  # ends of the names of classes that predict the next token


class WrongFamily(UserError):
    """A model of a family that can neither teach nor learn in this stage."""


def check_family(source: str | Path, config: Any, causal: bool) -> None:
    """Raise WrongFamily for a config of anything but a decoder (`causal`) or but an encoder with a masked-LM model."""
    (check_decoder if causal else check_encoder)(source, config)


def check_decoder(source: str | Path, config: Any) -> None:
    """Raise WrongFamily, with the family and class, for a config of anything but a decoder with a language-model head."""
    if is_decoder(config):
        return
    kind = _other_kind(config) or "a text encoder"
    remedy = "; for encoders: +exp=adads_pretrain, +exp=adads_finetune" if kind == "a text encoder" else ""
    raise WrongFamily(
        f"the model in {source} is {kind} ({config.model_type}: {_class_of(config)}), and the causal stage has decoders: "
        f"Llama, Qwen, GPT-2, GPT-NeoX, Gemma and others that transformers loads as causal language models{remedy}"
    )


def is_decoder(config: Any) -> bool:
    """True for a config of a family whose tokens read only those before them, with a language-model head."""
    family = config.model_type
    encoder = family in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES or family in _BIDIRECTIONAL
    return _other_kind(config) == "a decoder" and family in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not encoder


def _class_of(config: Any) -> str:
    return next(iter(config.architectures or ()), type(config).__name__)


def check_encoder(source: str | Path, config: Any) -> None:
    """Raise WrongFamily, with the family and class, for a config of anything but an encoder with a masked-LM model."""
    if not (kind := _other_kind(config)):
        return
    remedy = "; a decoder: +exp=causal_pretrain, +exp=causal_finetune" if kind == "a decoder" else ""
    raise WrongFamily(
        f"the model in {source} is {kind} ({config.model_type}: {_class_of(config)}), and teachers, assistants and students are text "
        "encoders: BERT, RoBERTa, DistilBERT, ELECTRA, ModernBERT and others that transformers loads as masked-LM models"
        f"{remedy}"
    )


def _other_kind(config: Any) -> str:
    """The kind of a model that is no text encoder; "" for an encoder."""
    family, masked = str(config.model_type), auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if family in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES or getattr(config, "is_encoder_decoder", False):
        return "an encoder-decoder"
    if _reads_images(config):
        return "a model of images"
    if family in masked:
        own = masked[family]
        causal = any(name.endswith(_CAUSAL) and name != own for name in config.architectures or ())
        return "a decoder" if causal or getattr(config, "is_decoder", False) else ""
    decoder = any(name.endswith(_CAUSAL) for name in config.architectures or ())
    return "a decoder" if decoder or family in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "no text encoder"


def _reads_images(config: Any) -> bool:
    """True for vision models and for models of images and text."""
    vision = (auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    return any(config.model_type in names for names in vision) or hasattr(config, "vision_config")
