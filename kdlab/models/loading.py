"""Load models, configs and tokenizers from a folder or the Hub, with the head they come with or a new one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
import transformers
from torch import nn
from transformers import conversion_mapping

from kdlab.errors import UserError
from kdlab.models import safe_loading
from kdlab.models.families import check_family
from kdlab.models.head import CAUSAL_LM, Head
from kdlab.models.safe_loading import first_line
from kdlab.runtime.progress import redirect_tqdm
from kdlab.types import TaskShape

_OFFSET = (
    "roberta", "xlm-roberta", "camembert", "mpnet", "roberta-prelayernorm", "xlm-roberta-xl", "data2vec-text", "ibert",
    "longformer", "xmod",
)  # fmt: skip


def load_masked_lm(
    source: str | Path, revision: str | None = None, new_head: bool = False
) -> transformers.PreTrainedModel:
    """Load a masked-LM model in float32 from a folder or the Hub (`revision` of it). Safetensors only, no remote code.

    UserError, naming the source, where transformers cannot load it or weights are missing. `new_head`: the head may be
    missing; it is then drawn from torch's global generator.
    """
    return _load(transformers.AutoModelForMaskedLM, "a masked-LM model", source, revision, new_head)


def fill_weight_names() -> None:
    """Fill transformers' tables of weight names, which the first model that is loaded fills else."""
    conversion_mapping.get_checkpoint_conversion_mapping("bert")


def load_classifier(source: str | Path, revision: str | None = None) -> transformers.PreTrainedModel:
    """Load a classifier in float32 with its own head. UserError as for `load_masked_lm`."""
    return _load(transformers.AutoModelForSequenceClassification, "a classifier", source, revision, False)


def load_causal_lm(source: str | Path, revision: str | None = None) -> transformers.PreTrainedModel:
    """Load a causal language model in float32 with its own head. UserError as for `load_masked_lm`."""
    return _load(transformers.AutoModelForCausalLM, "a causal language model", source, revision, False)


def load_with_head(source: str | Path, head: Head, revision: str | None = None) -> transformers.PreTrainedModel:
    """Load a model in float32 with its own head, of the kind `head`. UserError as for `load_masked_lm`."""
    if head is CAUSAL_LM:
        return load_causal_lm(source, revision)
    return load_classifier(source, revision) if head.per_row else load_masked_lm(source, revision)


def load_with_new_classifier(
    source: str | Path, revision: str | None, shape: TaskShape
) -> transformers.PreTrainedModel:
    """Load the encoder at `source` and give it a new classifier head for a task, in float32.

    A head that comes with the encoder is dropped: it may number the classes otherwise. The new head is drawn from torch's
    global generator: seed it first. UserError as for `load_masked_lm`.
    """
    names = shape.labels or ("score",)
    loaded = _load(
        transformers.AutoModelForSequenceClassification,
        "an encoder",
        source,
        revision,
        True,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        problem_type="regression" if shape.regression else "single_label_classification",
        ignore_mismatched_sizes=True,
    )
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "classifier_pooling"):
        config.classifier_pooling = "cls"
    model = type(loaded)(config).float()
    model.base_model.load_state_dict(loaded.base_model.state_dict())
    return model


redirect_tqdm(huggingface_hub.utils.tqdm, "downloading")  # downloads report progress as everything else does


def silence_transformers() -> None:
    """Silence transformers' messages below errors and its own bars; downloads still report their progress."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # also turns off the Hub's bars, which show the downloads
    if huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS is None:  # a user's variable has priority
        huggingface_hub.utils.enable_progress_bars()


def _load(
    kind: Any, what: str, source: str | Path, revision: str | None, new_head: bool, **more: Any
) -> transformers.PreTrainedModel:
    safe_loading.check(source)
    try:
        model, info = kind.from_pretrained(
            str(source), revision=revision, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True, **more,
        )  # fmt: skip
    except Exception as error:  # damaged files raise some thirty kinds
        raise UserError(f"cannot load {what} from {source}: {first_line(error)}") from error
    encoder = f"{model.base_model_prefix}."
    missing = sorted(info["missing_keys"])  # transformers fills them with random numbers, and only logs it
    if new_head:
        missing = [name for name in missing if name.startswith(encoder) and ".pooler." not in name]
    if missing:
        raise UserError(
            f"{source} is no whole {what.split(' ', 1)[1]}: {len(missing)} weights are missing, {missing[0]} for one"
        )
    _check_finite(model, source)
    return model


def _check_finite(model: nn.Module, source: str | Path) -> None:
    """UserError for weights that are NaN or infinite: no student can learn from such a model, or start from it."""
    named = list(model.named_parameters())
    bad = [name for name, weight in named if not torch.stack(torch.aminmax(weight.detach())).isfinite().all()]
    if bad:
        raise UserError(
            f"the model in {source} is damaged: {len(bad)} of its {len(named)} weights are NaN or infinite ({bad[0]} "
            "first), as after a training that diverged; take another model"
        )


def labels_of(config: Any) -> tuple[str, ...]:
    """Class names (C,) in a classifier's config, in the order of its logits."""
    return tuple(str(config.id2label[i]) for i in range(len(config.id2label)))


def load_with_new_lm_head(source: str | Path, counts: np.ndarray, mask_id: int) -> transformers.PreTrainedModel:
    """Load an encoder and give it a masked-LM head that a short training can finish.

    `counts` (V,) occurrences of each token in the training text; `mask_id` the mask token. Instead of noise: the output
    bias is the tokens' log frequency, the head's square layer is the identity (gelu(x + 3) is about x + 3, and the
    normalisation removes the constant), and the embedding of the mask token, which such encoders have never seen in
    training, is the mean embedding of the text. Our own choices, each measured to help on its own. UserError as for
    `load_masked_lm`.
    """
    model = load_masked_lm(source, new_head=True)
    embeddings: Any = model.get_input_embeddings().weight
    output: Any = model.get_output_embeddings()
    head = [m for name, module in model._modules.items() if module and name != model.base_model_prefix
            for m in module.modules()]  # fmt: skip
    frequency = torch.from_numpy(counts[: len(embeddings)].astype(np.float32))
    with torch.no_grad():
        if getattr(output, "bias", None) is not None:
            output.bias.copy_(((frequency + 0.1) / (frequency + 0.1).sum()).log())
        embeddings[mask_id] = (frequency / frequency.sum()) @ embeddings
        for module in head:
            if isinstance(module, nn.Linear) and module is not output and module.in_features == module.out_features:
                nn.init.eye_(module.weight)
                if module.bias is not None:  # ModernBERT has none
                    nn.init.constant_(module.bias, 3.0)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    model.tie_weights()
    return model


def load_config(source: str | Path, revision: str | None = None, causal: bool | None = False) -> Any:
    """Load the config of a model folder or Hub name; UserError where there is none or it needs remote code, and as
    `check_family` raises it, for a decoder (`causal`) or an encoder (None: either)."""
    safe_loading.check(source)
    try:
        config = transformers.AutoConfig.from_pretrained(str(source), revision=revision, trust_remote_code=False)
    except Exception as error:  # any kind, where a value is not of the type that its family expects
        raise UserError(f"cannot load a model's config from {source}: {first_line(error)}") from error
    safe_loading.check_config(source, config)
    if causal is not None:
        check_family(source, config, causal)
    return config


def load_tokenizer(
    source: str | Path, revision: str | None = None, masks: bool = True
) -> transformers.PreTrainedTokenizerFast:
    """Load the fast tokenizer of a model folder or Hub name; UserError where there is none or, if `masks`, it has no mask
    token."""
    safe_loading.check(source, weights=False)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(source), revision=revision, use_fast=True, trust_remote_code=False
        )
    except Exception as error:  # any kind, also plain `Exception` from the tokenizers library
        raise UserError(f"cannot load a tokenizer from {source}: {first_line(error)}") from error
    if not getattr(tokenizer, "is_fast", False) or (masks and tokenizer.mask_token_id is None):
        raise UserError(f"the tokenizer in {source} must be a fast one{' with a mask token' if masks else ''}")
    return tokenizer


def check_embeddings(tokenizer: Any, config: Any, who: str) -> None:
    """UserError for a tokenizer with a token that the model of `config` has no embedding for; `who` is its title."""
    last = max(tokenizer.get_vocab().values())
    if last >= config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, numbered up to {last}, and {who}'s model has embeddings of "
            f"{config.vocab_size}: one of them belongs to another model, or tokens were added without resizing the embeddings"
        )


def longest_input(config: Any) -> int | None:
    """Tokens of the longest row that a model reads; None without a bound. RoBERTa's positions begin after the padding id."""
    positions = getattr(config, "max_position_embeddings", None)
    if not positions:
        return None
    offset = config.model_type in _OFFSET and config.pad_token_id is not None
    return positions - config.pad_token_id - 1 if offset else positions


def check_safetensors(source: str | Path, revision: str | None, key: str) -> None:
    """UserError for a fixed `revision` of a Hub name that has its weights in pickles only; `key` is the configuration's.

    Passes for folders, for default branches (transformers looks for a converted copy of these), and without the Hub.
    """
    if revision is None or Path(source).exists():
        return
    try:
        files = set(huggingface_hub.list_repo_files(str(source), revision=revision))
    except Exception:  # offline, or no such revision: what loads it says so
        return
    if not files & set(safe_loading.WEIGHTS):
        raise UserError(
            f"{key}={source}: the revision {revision[:12]} has no weights in safetensors, and pickles are not read, for they "
            "can run any code; where you trust it, convert it once (docs/tasks.md, Students) and give the folder"
        )
