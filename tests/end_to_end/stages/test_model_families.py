"""Models of other families and with other heads, as teachers and students of both stages; models that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from kdlab.errors import UserError
from kdlab.models import loading
from kdlab.stages.validation import check
from tests.conftest import tiny_tokenizer, write_teacher
from tests.end_to_end.stages.test_finetuning import OWN
from tests.end_to_end.stages.test_finetuning import make_stage as make_task_stage
from tests.end_to_end.stages.test_pretraining import make_stage as make_text_stage
from tests.support.runs import call, tiny_task

task_stage, text_stage = make_task_stage, make_text_stage  # fixtures
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (".*LeafSpec", ".*does not have many workers", ".*dataloader is not resumable")
]
SIZES = {
    "vocab_size": 126,
    "pad_token_id": 0,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
ENDS = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}


def modernbert(folder: Path, kind: str) -> Path:
    config = transformers.ModernBertConfig(**SIZES, **ENDS)
    config.id2label, config.label2id = dict(enumerate(OWN)), {name: i for i, name in enumerate(OWN)}
    torch.manual_seed(0)
    getattr(transformers, kind).from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def albert(folder: Path, **settings: int) -> Path:
    torch.manual_seed(0)
    config = transformers.AlbertConfig(**{**SIZES, "embedding_size": 16, "initializer_range": 0.2, **settings})
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


# ---- heads


def test_a_masked_lm_model_is_no_classifier_even_with_the_tasks_classes_in_its_config(task_stage, tmp_path):
    """ModernBERT's two heads share head.dense and head.norm."""
    made = task_stage(teacher=modernbert(tmp_path / "teacher", "AutoModelForMaskedLM"))
    check(made)
    assert not made.teacher_pool.is_classifier(made.teacher_pool.main)
    with pytest.raises(UserError, match="no classifier: give teachers.finetune"):
        check(task_stage("teachers.finetune=null", teacher=tmp_path / "teacher"))
    ready = task_stage(teacher=modernbert(tmp_path / "classifier", "AutoModelForSequenceClassification"))
    check(ready)
    assert ready.teacher_pool.is_classifier(ready.teacher_pool.main)


def test_a_classifier_is_no_masked_lm_model(text_stage, tmp_path):
    folder = modernbert(tmp_path / "teacher", "AutoModelForSequenceClassification")
    with pytest.raises(UserError, match="has no masked-LM head, and teachers.prepare"):
        check(text_stage("teachers.prepare=null", teacher=folder))
    made = text_stage(teacher=folder)
    check(made)
    assert not made.teacher_pool.has_head(made.teacher_pool.main)
    check(text_stage("teachers.prepare=null", teacher=modernbert(tmp_path / "whole", "AutoModelForMaskedLM")))


def test_a_modernbert_classifier_gets_a_masked_lm_head(tmp_path):
    """Its linear maps and normalisations have no biases."""
    folder = modernbert(tmp_path / "teacher", "AutoModelForSequenceClassification")
    tokenizer = tiny_tokenizer()
    model = loading.load_with_new_lm_head(folder, np.ones(len(tokenizer)), tokenizer.mask_token_id)
    assert torch.equal(model.head.dense.weight, torch.eye(SIZES["hidden_size"]))


# ---- repeated layers


def test_albert_teaches_a_student_of_fewer_repeats(task_folder, tmp_path):
    given = tiny_task(albert(tmp_path / "teacher"), task_folder, "trainer.max_steps=2", "teachers.sanity=false")
    more = ["student.layers=2", "teachers.finetune.max_steps=2", "trainer.probes=0", "hydra.run.dir=run"]
    done = call([*given, *more], tmp_path)
    assert done.code == 0, done.output
    config = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"]) == ("albert", 2)


@pytest.mark.parametrize(
    ("settings", "more", "words"),
    [
        ({"num_hidden_groups": 2}, ["student.layers=2"], "no list of 4 layers found in a model of the family albert"),
        ({}, ["select=entropy", "select.ratio=0.5", "select.scoring=early_exit"], "no list of 4 layers"),
        ({}, ["trainer.shard_student=true", "trainer.devices=2", "exec=padded"], "no list of 4 layers"),
    ],
    ids=["groups", "early exit", "sharded student"],
)
def test_layers_that_cannot_be_taken_are_refused_before_anything_is_made(settings, more, words, task_stage, tmp_path):
    with pytest.raises(UserError, match=words):
        check(task_stage(*more, "student.layers=2", teacher=albert(tmp_path / "teacher", **settings)))
    assert not (tmp_path / "artifacts").exists()


# ---- tokenizers


def grown(folder: Path) -> Path:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["kdlab", "distil"])
    tokenizer.save_pretrained(folder)
    return folder


BOTH_SIZES = r"the tokenizer has 128 tokens, numbered up to 127, and {}'s model has embeddings of 126"


def test_a_tokenizer_with_more_tokens_than_embeddings_is_one_line(task_stage, text_stage, teacher_folder, tmp_path):
    folder = grown(write_teacher(tmp_path / "teacher"))
    for make in (task_stage, text_stage):
        with pytest.raises(UserError, match=BOTH_SIZES.format("the teacher")):
            check(make(teacher=folder))
    wide = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    wide.resize_token_embeddings(128)
    wide.save_pretrained(tmp_path / "wide")
    grown(tmp_path / "wide")
    with pytest.raises(UserError, match=BOTH_SIZES.format("the student")):
        check(task_stage(f"student.path={folder}", teacher=tmp_path / "wide"))
    with pytest.raises(UserError, match=BOTH_SIZES.format("the teacher small")):
        check(task_stage("adopt=hard", f"teachers.others.small.path={folder}", teacher=tmp_path / "wide"))
    assert not (tmp_path / "artifacts").exists()


def test_pairs_need_embeddings_of_two_segments(task_stage, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    for split in ("train", "dev"):
        lines = "".join(f"ba ke{i}\tlo mi\t{i % 2}\n" for i in range(8))
        (folder / f"{split}.tsv").write_text(f"sentence1\tsentence2\tlabel\n{lines}")
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, type_vocab_size=1)
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "teacher")
    tokenizer = transformers.BertTokenizer(vocab=tiny_tokenizer().get_vocab(), model_max_length=64)  # marks segments
    tokenizer.save_pretrained(tmp_path / "teacher")
    with pytest.raises(UserError, match="the teacher's model has embeddings of one segment"):
        check(task_stage(teacher=tmp_path / "teacher", rows=folder))


# ---- decoders

SMALL = {
    "vocab_size": 126,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@pytest.fixture
def llama(tmp_path) -> Path:
    """The config of a decoder, with the tokenizer of the encoders: nothing else distinguishes it."""
    folder = tmp_path / "llama"
    transformers.LlamaConfig(**SMALL, architectures=["LlamaForCausalLM"]).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


PLACES = {
    "teacher": ["teachers.path={}"],
    "student": ["student.path={}", "student.layers=null"],
    "other": ["adopt=hard", "teachers.others.small.path={}"],
    "assistant": ["adopt=assistant", "adopt.assistant.path={}"],
    "augment": ["data.augment={{model: {}}}"],
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("stage", ["task", "text"])
def test_a_decoder_is_refused_wherever_a_model_is_named(place, stage, llama, task_stage, text_stage, tmp_path):
    if (place, stage) == ("augment", "text"):
        pytest.skip("text is not augmented")
    make = task_stage if stage == "task" else text_stage
    *more, last = (one.format(llama) for one in PLACES[place])
    with pytest.raises(
        UserError, match=r"is a decoder \(llama: LlamaForCausalLM\), and teachers, assistants and students"
    ):
        check(make(*more, last, **({"teacher": llama} if place == "teacher" else {})))
    assert not (tmp_path / "artifacts").exists()


def test_the_command_refuses_a_decoder_in_one_line_and_writes_nothing(llama, teacher_folder, task_folder, tmp_path):
    for given in ([f"teachers.path={llama}"], ["+exp=glue", f"student.path={llama}", "suite.tasks=[rte]"]):
        where = tmp_path / f"try{len(given)}"
        where.mkdir()
        more = tiny_task(teacher_folder, task_folder, *given)
        done = call([one for one in more if len(given) == 1 or one != "+exp=adads_finetune"], where)
        lines = [line for line in done.output.splitlines() if "decoder" in line]
        assert done.code == 2 and len(lines) == 1 and "Traceback" not in done.output, done.output
        assert not [file for file in where.iterdir() if not file.name.startswith("log-")]
