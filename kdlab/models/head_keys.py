"""Decide whether the weights of a model contain a head, by the class that they were saved from and by their names."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers

from kdlab.errors import UserError
from kdlab.models.head import HEADS, MASKED_LM
from kdlab.models.safe_loading import first_line

_PRETRAINING = "ForPreTraining"  # such a class has a masked-LM head (BERT, ALBERT) or another one (ELECTRA)
_FORMER = {"gamma": "weight", "beta": "bias"}  # last parts of names in BERT's first checkpoints


def has_head(source: str | Path, config: Any, kind: Any = transformers.AutoModelForMaskedLM) -> bool:
    """True where the weights at `source` contain the whole head of the auto class `kind`; an encoder alone has none.

    Two conditions. The class that the weights were saved from (`architectures` of `config`), where it is known, has that
    head: heads of several kinds share names within a family (ModernBERT's `head.dense`, BERT's `classifier`). And all of
    the head's parameters are there, tied ones under any of their names; of a Hub name, those of its class are. UserError
    for a damaged file.
    """
    if not _saved_with_head(config, kind):
        return False
    names = _names_in(Path(source))
    if names is None:
        names = frozenset(name for own in _own_classes(config) for name in _state_of(own, config))
    return all(names & parameter for parameter in _head_parameters(kind, config))


def _saved_with_head(config: Any, kind: Any) -> bool:
    """False if the class that a model was saved from has another head than `kind`, or none; True if it names none."""
    suffixes = next(head.class_suffixes for head in HEADS.values() if head.auto_class == kind.__name__)
    wanted = (*suffixes, _PRETRAINING) if suffixes == MASKED_LM.class_suffixes else suffixes
    own = [name for name in config.architectures or () if "For" in name or name.endswith(suffixes)]
    return not own or any(name.endswith(wanted) for name in own)


def _own_classes(config: Any) -> Iterator[Any]:
    for name in config.architectures or ():
        own = getattr(transformers, name, None)
        if own is not None and hasattr(own, "from_pretrained"):
            yield own


def _state_of(own: Any, config: Any) -> Collection[str]:
    """Names of the parameters of a model class; none where `config` does not suit it."""
    try:
        with torch.device("meta"):
            return set(own(copy.deepcopy(config)).state_dict())
    except Exception:  # a class of another family, named by mistake: transformers raises any kind
        return set()


def _head_parameters(kind: Any, config: Any) -> list[set[str]]:
    """Names of each parameter outside the encoder of the auto class `kind`, with all names that tied parameters have."""
    with torch.device("meta"):
        model = kind.from_config(copy.deepcopy(config))
    together: dict[int, set[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        together.setdefault(id(tensor), set()).add(name)
    encoder = f"{model.base_model_prefix}."
    heads = [names for names in together.values() if any(not name.startswith(encoder) for name in names)]
    if not heads:
        raise UserError(f"models of the family {config.model_type} have no head that can be found")
    return heads


def _names_in(folder: Path) -> frozenset[str] | None:
    """Names of the weights in a local folder, as transformers reads them; None without safetensors."""
    file, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    try:
        if file.is_file():
            with safetensors.safe_open(str(file), framework="pt") as weights:
                names = list(weights.keys())
        elif index.is_file():
            names = list(json.loads(index.read_bytes())["weight_map"])
        else:
            return None
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file if file.is_file() else index} is damaged or no safetensors file: {first_line(error)}; "
            "copy or download it again"
        ) from error
    return frozenset(map(_current_name, names))


def _current_name(key: str) -> str:
    """A key of a state_dict with today's name of its last part."""
    *owner, last = str(key).split(".")
    return ".".join([*owner, _FORMER.get(last, last)])
