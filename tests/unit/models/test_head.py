"""Heads of models: by class, by stage, by result.json; against transformers' own tables."""

from __future__ import annotations

import subprocess
import sys

import pytest
import transformers

from kdlab.errors import UserError
from kdlab.models.head import CAUSAL_LM, CLASSIFIER, HEADS, MASKED_LM, head_of_model, head_of_result
from kdlab.testing.tiny import tiny_config, tiny_decoder_config


@pytest.mark.parametrize("head", [MASKED_LM, CLASSIFIER], ids=lambda head: head.name)
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra"])
def test_a_loaded_encoder_has_the_head_of_its_auto_class(head, kind):
    model = head.model_class.from_config(tiny_config(kind))
    assert head_of_model(model) == head


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gpt_neox", "gemma3_text", "opt"])
def test_a_loaded_decoder_has_the_head_of_its_auto_class(kind):
    assert head_of_model(CAUSAL_LM.model_class.from_config(tiny_decoder_config(kind))) == CAUSAL_LM


@pytest.mark.parametrize("head", HEADS.values(), ids=lambda head: head.name)
def test_the_pipeline_tag_is_the_one_transformers_loads_the_class_for(head):
    classes = transformers.pipelines.PIPELINE_REGISTRY.check_task(head.pipeline_tag)[1]["pt"]
    assert head.model_class in classes


def test_results_name_a_head_a_stage_or_neither():
    assert head_of_result({"stage": "pretrain", "head": "sequence_classification"}) == CLASSIFIER
    assert head_of_result({"stage": "finetune"}) == CLASSIFIER
    assert head_of_result({"stage": "pretrain"}) == head_of_result({}) == MASKED_LM


@pytest.mark.parametrize("head", ["masked", 3, None, ["masked_lm"]])
def test_an_unknown_head_is_one_line(head):
    with pytest.raises(UserError, match="result.json names the head"):
        head_of_result({"stage": "pretrain", "head": head})


def test_heads_load_no_library_before_a_class_is_needed():
    code = "import sys, kdlab.models.head; assert not {'torch', 'transformers'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
