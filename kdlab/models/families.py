"""Refuse models that are no text encoders by their config: decoders, encoder-decoders, models of images or sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.models.auto import modeling_auto as auto

from kdlab.errors import UserError

_CAUSAL = ("ForCausalLM", "LMHeadModel")  # ends of the names of classes that predict the next token


class NotAnEncoder(UserError):
    """A model of a family that can neither teach nor learn here."""


def check_encoder(source: str | Path, config: Any) -> None:
    """Raise NotAnEncoder, with the family and class, for a config of anything but an encoder with a masked-LM model."""
    if not (kind := _other_kind(config)):
        return
    name = next(iter(config.architectures or ()), type(config).__name__)
    raise NotAnEncoder(
        f"the model in {source} is {kind} ({config.model_type}: {name}), and teachers, assistants and students are text "
        "encoders: BERT, RoBERTa, DistilBERT, ELECTRA, ModernBERT and others that transformers loads as masked-LM models"
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
