"""Runs whose student trains adapters: its checkpoints, kills, the written student, tasks, bad input."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers

from kdlab.models import lora
from kdlab.storage import checkpoints
from tests.support.runs import KillAt, assert_resumed, call, in_fork, on_two_ranks, tiny, tiny_causal, tiny_task

RUN = "hydra.run.dir=run"
HAS_PEFT = importlib.util.find_spec("peft") is not None
needs_peft = pytest.mark.skipif(not HAS_PEFT, reason="adapters are peft's: pip install 'kdlab[lora]'")


@needs_peft
def test_a_killed_run_goes_on_bit_for_bit_and_writes_a_plain_student(decoder_folder, text_folder, tmp_path: Path):
    given = [
        *tiny_causal(decoder_folder, text_folder, "select=adads", "student.lora.rank=4", "student.lora.dropout=0.1"),
        f"artifacts={tmp_path / 'artifacts'}",
        RUN,
    ]
    whole = call(given, tmp_path / "whole")
    assert whole.code == 0 and "student.lora.rank=4" in whole.output, whole.output
    assert call(given, tmp_path, KillAt(5, "start")).code == -9
    state = checkpoints.load(checkpoints.newest_valid(tmp_path / "run" / "checkpoints"))
    assert state["state_dict"] and all(".lora_" in name for name in state["state_dict"])
    assert len(state["optimizer_states"][0]["state"]) == len(state["state_dict"])
    assert_resumed(given, tmp_path, tmp_path / "whole" / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    flops = result["ledger"]["flops"]
    assert flops["student_backward"] < 2 * flops["student_forward"]

    exported = in_fork("kdlab.export", [str(tmp_path / "run"), str(tmp_path / "out")], tmp_path)
    assert exported.code == 0, exported.output
    student = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    start = transformers.AutoModelForCausalLM.from_pretrained(decoder_folder, dtype=torch.float32)
    weights, former = student.state_dict(), start.state_dict()
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert torch.equal(weights[name], former[name]), name
    moved = weights["model.layers.1.mlp.up_proj.weight"] - former["model.layers.2.mlp.up_proj.weight"]
    assert 0 < int(torch.linalg.matrix_rank(moved, rtol=1e-4)) <= 4


@needs_peft
def test_two_ranks_with_layers_that_run_anew_equal_one_process(decoder_folder, text_folder, tmp_path: Path):
    more = [
        "student.lora.rank=4",
        "select=entropy",
        "trainer.accelerator=cpu",
        "trainer.probes=0",
        "trainer.max_steps=4",
    ]
    given = tiny_causal(decoder_folder, text_folder, *more)
    results = on_two_ranks(given, tmp_path, "student.gradient_checkpointing=true")
    flops = [result["ledger"]["flops"] for result in results]
    assert flops[1]["student_backward"] > flops[0]["student_backward"]


@needs_peft
def test_a_classifier_trains_adapters_and_its_head(teacher_folder, task_folder, tmp_path: Path):
    done = call([*tiny_task(teacher_folder, task_folder, "student.lora.rank=2", "student.freeze=[]"), RUN], tmp_path)
    assert done.code == 0, done.output
    student = safetensors.torch.load_file(tmp_path / "run" / "student" / "model.safetensors")
    start = transformers.AutoModelForMaskedLM.from_pretrained(teacher_folder, dtype=torch.float32).state_dict()
    assert not any("lora" in name for name in student)
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(student[name], start[name])
    assert bool(student["classifier.bias"].abs().sum() > 0)  # it began as 0


def test_bad_input_is_one_line(decoder_folder, teacher_folder, text_folder, tmp_path: Path):
    causal = lambda *more: tiny_causal(decoder_folder, text_folder, *more)  # noqa: E731
    cases = [
        (causal("student.lora.rank=0"), "student.lora.rank=0: "),
        (causal("student.lora.alpha=8"), "without student.lora.rank there are no adapters"),
        (causal("student.lora.rank=4", "student.lora.targets=[]"), "student.lora.targets=[]"),
        (causal("student.lora.rank=4", "student.hidden=16", "student.layers=2"), "starts from random ones"),
    ]
    if HAS_PEFT:
        cases += [
            (causal("student.lora.rank=4", "student.lora.targets=[qproj]"), "did you mean q_proj"),
            (tiny(teacher_folder, text_folder, "student.lora.rank=4", "student.lora.targets=[q_proj]"), "known: "),
        ]
    for given, message in cases:
        done = call([*given, RUN], tmp_path)
        assert done.code == 2 and message in done.output, (given, done.output)
        assert not (tmp_path / "run").exists() and "Traceback" not in done.output


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(lora.UserError, match=r"pip install 'kdlab\[lora\]'"):
        lora.check_installed()
