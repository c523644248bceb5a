"""Low-rank adapters of a student's linear layers (LoRA, Hu et al. 2022), through peft: they train, the matrices stay.

The adapters lie inside the transformers model, whose class and names stay as they are, so every execution mode and every
head runs unmodified. `merge` adds them to the matrices: the model is plain again.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from kdlab.errors import UserError, install, nearest
from kdlab.models.student import transformer_layers

ALL = "all"


def check_installed() -> None:
    """UserError without the package that makes the adapters."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"student.lora.rank: adapters are those of the package peft: {install('lora')}")


def targets_in(model: transformers.PreTrainedModel, targets: str | Sequence[str]) -> list[str]:
    """Full names of the linear layers that get adapters: in each transformer layer those whose name ends in one of
    `targets`, such as q_proj, or "all". UserError for a target that no layer has; the model may be on the meta device."""
    stack = transformer_layers(model)
    prefix = next(name for name, module in model.named_modules() if module is stack)
    linear = [name for name, module in stack.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    known = {name.rpartition(".")[2] for name in linear}
    if targets == ALL:
        return [f"{prefix}.{name}" for name in linear]
    wanted = [targets] if isinstance(targets, str) else list(targets)
    chosen = set()
    for target in wanted:
        found = [name for name in linear if name.endswith(f".{target}")]
        if not found:
            raise UserError(
                f"student.lora.targets={target}: the student's layers have no such linear layer; {nearest(target, known)}"
            )
        chosen.update(found)
    return [f"{prefix}.{name}" for name in linear if name in chosen]


def add(
    model: transformers.PreTrainedModel,
    rank: int,
    alpha: float | None = None,
    targets: str | Sequence[str] = ALL,
    dropout: float = 0.0,
) -> None:
    """Give a model adapters of `rank`, in place: W x becomes W x + alpha / rank B A x, with B = 0, and W is frozen.

    All other parameters are frozen too. `alpha`: None for 2 rank; `dropout`: of the adapters' inputs. A is drawn from torch's
    global generator: seed it first. UserError as `targets_in` raises it.
    """
    check_installed()
    from peft import LoraConfig, inject_adapter_in_model

    names = targets_in(model, targets)
    scale: Any = 2 * rank if alpha is None else alpha
    config = LoraConfig(
        r=rank, lora_alpha=scale, lora_dropout=dropout, target_modules=names,
        fan_in_fan_out=isinstance(model.get_submodule(names[0]), Conv1D),
    )  # fmt: skip
    inject_adapter_in_model(config, model)
    del model.peft_config  # pyright: ignore[reportAttributeAccessIssue]  # else transformers would save adapters alone


def merge(model: transformers.PreTrainedModel) -> None:
    """Add the adapters to the matrices, in float32, and remove them: the model is as it was before `add`, but trained."""
    for name, adapted in list(_adapted(model)):
        adapted.to(torch.float32)
        adapted.merge(safe_merge=True)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, adapted.base_layer)


def weights_per_layer(model: transformers.PreTrainedModel) -> int:
    """Number of the adapters' weights in a transformer layer, in the mean; 0 without adapters."""
    adapters = sum(p.numel() for _, adapted in _adapted(model) for p in _weights_of(adapted))
    return adapters // len(transformer_layers(model)) if adapters else 0


def frozen_hash(names: Sequence[str], module: nn.Module) -> str:
    """Sha256 of the parameters `names` of a module, which a checkpoint leaves out."""
    digest, parameters = hashlib.sha256(), dict(module.named_parameters())
    for name in names:
        weight = parameters[name].detach().cpu().contiguous().flatten()
        digest.update(name.encode())
        digest.update(weight.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The linear layers with adapters, by name."""
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "lora_A"))


def _weights_of(adapted: Any) -> Iterator[nn.Parameter]:
    for part in (adapted.lora_A, adapted.lora_B):
        yield from part.parameters()
