"""Small things that stand in for large ones: a tokenizer, teachers of four families, text and labelled rows, all made here.

For whatever must run in seconds without a download: tests, `python -m kdlab.faults`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

SYLLABLES = ["ba", "ke", "lo", "mi", "nu", "ra", "se", "ti", "vo", "zu"]
WORDS = [a + b for a in SYLLABLES for b in SYLLABLES]


def generated_text(documents: int, seed: int = 0) -> list[str]:
    """Documents of sentences with some order in them: a word is mostly followed by its neighbour in the list."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(documents):
        word, words = int(rng.integers(len(WORDS))), []
        for _ in range(int(rng.integers(30, 90))):
            words.append(WORDS[word])
            word = (word + 1) % len(WORDS) if rng.random() < 0.7 else int(rng.integers(len(WORDS)))
        texts.append(" ".join(words) + ".")
    return texts


def tiny_tokenizer() -> Any:
    """A WordPiece tokenizer over the made words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *SYLLABLES, *("##" + s for s in SYLLABLES), *WORDS]
    inner = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


def tiny_config(family: str, layers: int = 4) -> Any:
    """A small random model's config: bert, roberta, distilbert or electra."""
    import transformers

    vocab = 6 + 2 * len(SYLLABLES) + len(WORDS)
    common: dict[str, Any] = {"vocab_size": vocab, "pad_token_id": 0}
    blocks: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    dropout: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    match family:
        case "bert":
            return transformers.BertConfig(**common, **blocks, **dropout, max_position_embeddings=64)
        case "roberta":
            return transformers.RobertaConfig(**common, **blocks, **dropout, max_position_embeddings=66)
        case "electra":
            return transformers.ElectraConfig(
                **common, **blocks, **dropout, embedding_size=16, max_position_embeddings=64
            )
        case "distilbert":
            return transformers.DistilBertConfig(
                **common, dim=32, n_layers=layers, n_heads=4, hidden_dim=64, dropout=0.0, attention_dropout=0.0,
                max_position_embeddings=64,
            )  # fmt: skip
    raise ValueError(family)


def tiny_decoder_config(family: str, layers: int = 4, vocabulary: int = 0) -> Any:
    """A small random decoder's config, of a family's name in transformers (llama, qwen3, gpt2, ...).

    `vocabulary`: number of its tokens (0: those of `tiny_decoder_tokenizer`).
    """
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "max_position_embeddings": 128}
    common: dict[str, Any] = {
        "vocab_size": vocabulary or len(_DECODED), "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None
    }  # fmt: skip
    wide: dict[str, Any] = {"num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    if family == "gpt2":
        return transformers.AutoConfig.for_model(
            family, **common, **dropout, n_embd=32, n_layer=layers, n_head=4, n_positions=128
        )
    if family == "gpt_neox":
        return transformers.AutoConfig.for_model(family, **common, **sizes, intermediate_size=64)
    if family in ("bloom", "opt"):
        return transformers.AutoConfig.for_model(family, **common, **sizes, word_embed_proj_dim=32, ffn_dim=64)
    return transformers.AutoConfig.for_model(family, **common, **sizes, **wide)


def tiny_decoder_tokenizer() -> Any:
    """A tokenizer over the made words for decoders: an end of text, no mask, no padding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordPiece({token: i for i, token in enumerate(_DECODED)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", unk_token="<unk>", model_max_length=128)


_DECODED = ["<end>", "<unk>", ".", *SYLLABLES, *("##" + s for s in SYLLABLES), *WORDS]


def write_decoder(folder: Path, family: str = "llama", layers: int = 4, seed: int = 0) -> Path:
    """A folder of a causal language model with random weights and the tiny tokenizer of decoders."""
    import transformers

    torch.manual_seed(seed)
    config = tiny_decoder_config(family, layers)
    config.initializer_range = 0.2
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_decoder_tokenizer().save_pretrained(folder)
    return folder


def write_teacher(folder: Path, family: str = "bert", layers: int = 4, seed: int = 0, dropout: float = 0.0) -> Path:
    """A teacher folder with random weights and the tiny tokenizer."""
    import transformers

    torch.manual_seed(seed)
    config = tiny_config(family, layers)
    config.initializer_range = 0.2  # rows differ clearly: no choice between them hangs on the last bit
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, dropout)
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_text(folder: Path, documents: int = 60, seed: int = 0) -> Path:
    """A folder of .txt files of made text, one document each."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, text in enumerate(generated_text(documents, seed)):
        (folder / f"{i:03}.txt").write_text(text + "\n")
    return folder


def task_rows(rows: int, classes: int = 3, pair: bool = False, seed: int = 0) -> list[tuple[tuple[str, ...], int]]:
    """Texts whose class is told by which third of the vocabulary most of their words come from."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(rows):
        label = int(rng.integers(classes))
        own = WORDS[label * 30 : label * 30 + 12]
        words = [str(rng.choice(own if rng.random() < 0.7 else WORDS)) for _ in range(int(rng.integers(4, 12)))]
        cut = max(1, len(words) // 2)
        found.append(((" ".join(words[:cut]), " ".join(words[cut:])) if pair else (" ".join(words),), label))
    return found


def write_task(
    folder: Path, rows: int = 240, classes: int = 3, pair: bool = False, regression: bool = False, seed: int = 0
) -> Path:
    """A folder with train.tsv and dev.tsv, and labels.txt where there are classes."""
    folder.mkdir(parents=True, exist_ok=True)
    header = ["sentence1", "sentence2"] if pair else ["sentence"]
    for split, count, add in (("train", rows, 0), ("dev", 60, 1)):
        lines = ["\t".join([*header, "label"])]
        for texts, label in task_rows(count, classes, pair, 2 * seed + add):
            lines.append("\t".join([*texts, f"{label + 0.25 * len(texts[0]) / 40:.3f}" if regression else str(label)]))
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    if not regression:
        lines = ["index\tvalue\tname", *(f"{i}\t{i}\tkind{i}" for i in range(classes))]
        (folder / "labels.txt").write_text("\n".join(lines) + "\n")
    return folder
