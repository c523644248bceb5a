"""Runs of decoders: selection, results, students, kills, ranks, own rows, bad input."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
import transformers

from kdlab.testing.tiny import WORDS, tiny_decoder_tokenizer, write_decoder
from tests.support.cadence import each_time
from tests.support.runs import assert_resumed, call, in_fork, on_two_ranks, tiny, tiny_causal

RUN = "hydra.run.dir=run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, decoder_folder, text_folder) -> Path:
    """A folder with a finished run of AdaDS, `run`, and its artifacts."""
    folder = tmp_path_factory.mktemp("whole")
    done = call([*tiny_causal(decoder_folder, text_folder, "select=adads"), RUN], folder)
    assert done.code == 0, done.output
    return folder


def result_in(folder: Path, name: str = "run") -> dict:
    return json.loads((folder / name / "result.json").read_text())


def test_a_bandit_chooses_rows_and_the_scores_are_those_of_transformers(whole, decoder_folder, text_folder, tmp_path):
    result = result_in(whole)
    assert (result["stage"], result["head"], result["status"]) == ("causal", "causal_lm", "finished")
    assert result["ledger"]["teacher_queries"]["total"] < result["ledger"]["rows_seen"]
    scores = result["metrics"]["student"]
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"])) and 0 <= scores["agreement"] <= 1
    assert result["metrics"]["teacher"].keys() == {"loss", "perplexity", "accuracy"}
    student = transformers.AutoModelForCausalLM.from_pretrained(whole / "run" / "student", dtype=torch.float32)
    assert student.config.num_hidden_layers == 2
    given = tiny_causal(decoder_folder, text_folder, "select=adads")
    from kdlab.config.schema import checked
    from kdlab.stages.registry import stage_of
    from tests.end_to_end.stages.test_finetuning import composed

    stage = stage_of(checked(composed([*given, f"artifacts={whole / 'artifacts'}"])), print)
    losses, agreed, count = 0.0, 0, 0
    teacher = transformers.AutoModelForCausalLM.from_pretrained(decoder_folder, dtype=torch.float32)
    for batch in stage.inputs.data_module(1, None).heldout_splits(final=True)[""]:
        for i in range(len(batch)):
            documents = batch.documents[i] if batch.documents is not None else torch.zeros_like(batch.input_ids[i])
            for number in documents.unique():
                ids = batch.input_ids[i][(documents == number) & batch.attention_mask[i].bool()].unsqueeze(0)
                if ids.shape[1] < 2:
                    continue
                with torch.no_grad():
                    found, wanted = student(input_ids=ids, labels=ids), teacher(input_ids=ids)
                losses += float(found.loss) * (ids.shape[1] - 1)
                agreed += int((found.logits.argmax(-1) == wanted.logits.argmax(-1))[:, :-1].sum())
                count += ids.shape[1] - 1
    assert scores["loss"] == pytest.approx(losses / count, rel=1e-4)
    assert scores["agreement"] == pytest.approx(agreed / count, abs=2 / count)


def test_the_exported_student_is_the_runs_and_writes_text(whole, tmp_path):
    done = in_fork("kdlab.export", [str(whole / "run"), str(tmp_path / "out")], whole)
    assert done.code == 0 and "AutoModelForCausalLM" in done.output, done.output
    models = [
        transformers.AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32)
        for f in (whole / "run" / "student", tmp_path / "out")
    ]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer(" ".join(WORDS[:6]), return_tensors="pt", return_token_type_ids=False)
    logits = [model(**ids).logits for model in models]
    assert torch.equal(*logits)
    assert models[1].generate(**ids, max_new_tokens=3, do_sample=False).shape[1] == ids["input_ids"].shape[1] + 3
    again = in_fork("kdlab.evaluate", [str(whole / "run")], whole)
    assert again.code == 0 and "perplexity" in again.output, again.output


def test_killed_runs_go_on_bit_for_bit(whole, tmp_path, decoder_folder, text_folder):
    given = [*tiny_causal(decoder_folder, text_folder, "select=adads"), RUN]
    assert_resumed(given, tmp_path, whole / "run", (2, "end"), (7, "end"))


def test_two_ranks_equal_one_process(tmp_path, decoder_folder, text_folder):
    given = tiny_causal(decoder_folder, text_folder, "select=adads", "trainer.accelerator=cpu", "trainer.probes=0")
    left, right = on_two_ranks(given, tmp_path)
    assert left["ledger"]["teacher_queries"] == right["ledger"]["teacher_queries"]
    for name, value in left["metrics"]["student"].items():
        assert right["metrics"]["student"][name] == pytest.approx(value, rel=2e-3, abs=2e-3), name


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    """JSONL of prompts and completions."""
    file = tmp_path_factory.mktemp("prompts") / "rows.jsonl"
    rows = [
        {"prompt": " ".join(WORDS[i : i + 5]) + " ", "completion": " ".join(WORDS[i + 5 : i + 9])} for i in range(80)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


COMPLETIONS = {
    "entropy": ["select=entropy", "knowledge=gkd"],  # by day in test_student_rows.py
    "narrow": ["select=all", "select.ratio=1", "knowledge=causal_states", "student.hidden=16", "student.layers=2"],
    "cached": ["select=random", "knowledge=taid", "teachers.cache=memory", "trainer.max_epochs=3", "exec=padded"],
    # by day in the test of a second student
    "sampled": ["select=random", "teachers.cache=disk", "teachers.cache_vocabulary=sampled", "teachers.cache_k=8"],
}


@pytest.mark.parametrize("what", each_time(COMPLETIONS, "narrow", "cached"))
def test_completions_are_learnt_with_other_knowledge(what, prompts, decoder_folder, tmp_path):
    more = COMPLETIONS[what]
    given = tiny_causal(decoder_folder, prompts, "+exp=causal_finetune", "trainer.max_steps=4", *more)
    done = call([*(a for a in given if a != "+exp=causal_pretrain"), RUN], tmp_path)
    assert done.code == 0, done.output
    result = result_in(tmp_path)
    assert math.isfinite(result["metrics"]["student"]["loss"])
    assert (result["data"]["labels"], result["data"]["sequences"]) == (80 * 5, 80)  # four words and the end


def test_a_plan_writes_nothing(decoder_folder, text_folder, tmp_path):
    planned = call(["--plan", "--dry-run", *tiny_causal(decoder_folder, text_folder, "select=entropy"), RUN], tmp_path)
    assert planned.code == 0 and "plan of 8 steps" in planned.output, planned.output
    assert "perplexity" not in planned.output and not (tmp_path / "run").exists()


def test_a_second_student_asks_nothing_of_answers_that_were_sampled(prompts, decoder_folder, tmp_path):
    more = ["teachers.cache=disk", "teachers.cache_vocabulary=sampled", "teachers.cache_k=50", "select=all"]
    more += ["trainer.max_steps=null", "trainer.max_epochs=1", "trainer.probes=0"]
    given = [one for one in tiny_causal(decoder_folder, prompts, *more) if one != "+exp=causal_pretrain"]
    given = ["+exp=causal_finetune", *given]
    first = call([*given, "hydra.run.dir=first"], tmp_path)
    assert first.code == 0, first.output
    second = call([*given, "student.layers=[1]", "hydra.run.dir=second"], tmp_path)
    assert second.code == 0 and "already stored" in second.output, second.output
    ledgers = [result_in(tmp_path, name)["ledger"] for name in ("first", "second")]
    rows = ledgers[0]["teacher_queries"]["total"]
    assert rows > 60 and ledgers[1]["teacher_queries"]["total"] == 0 == ledgers[1]["flops"]["teacher_forward"]
    assert ledgers[1]["teacher_queries"]["cached"] == rows
    (folder,) = (tmp_path / "artifacts" / "answers").glob("*.answers")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.suffix != ".json")
    printed = re.search(r"teacher cache: about (.+?) for", first.output)
    number, unit = printed[1].split()  # type: ignore[index]
    assert unit == "KB" and size / 1000 == pytest.approx(
        float(number), rel=0.12
    )  # of short rows the estimate of their heads counts
    assert (
        100 <= size / (5 * rows) < 125
    )  # five tokens a row; longer rows share the 64 and 32 bytes of a row among more


def test_an_assistant_is_distilled_first_and_answers_half_of_the_rows(decoder_folder, text_folder, tmp_path):
    more = ["adopt=causal_assistant", "select=all", "trainer.max_steps=2", "data.batch_size=8"]
    done = call([*tiny_causal(decoder_folder, text_folder, *more), RUN], tmp_path)
    assert done.code == 0, done.output
    (folder,) = (one for one in (tmp_path / "artifacts" / "assistant").iterdir() if one.is_dir())
    assert transformers.AutoConfig.from_pretrained(folder).num_hidden_layers == 3
    queries = result_in(tmp_path)["ledger"]["teacher_queries"]["per_teacher"]
    assert {name: one["total"] for name, one in queries.items()} == {"assistant": 8, decoder_folder.name: 8}


def other_tokenizer(folder: Path) -> Path:
    write_decoder(folder)
    tokenizer = tiny_decoder_tokenizer()
    tokenizer.add_tokens(["another"])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def short_context(folder: Path) -> Path:
    write_decoder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 32}))
    return folder


def test_bad_input_is_one_line(decoder_folder, teacher_folder, text_folder, prompts, tmp_path):
    other, short = other_tokenizer(tmp_path / "other"), short_context(tmp_path / "short")
    causal = lambda *more: tiny_causal(decoder_folder, text_folder, *more)  # noqa: E731
    cases = [
        (causal(f"student.path={other}"), "different tokenizers"),
        (causal(f"student.path={teacher_folder}"), "is a text encoder (bert"),
        (causal("adopt=hard", f"+teachers.others.other.path={other}"), "has another tokenizer than the main teacher"),
        (causal("adopt=hard", "+teachers.others.small.layers=2"), "some layers of a decoder are no teacher"),
        (tiny_causal(teacher_folder, text_folder), "and the causal stage has decoders"),
        (tiny(decoder_folder, text_folder), "+exp=causal_pretrain"),
        (causal("data.max_length=1000"), "reads at most 128 tokens"),
        (causal(f"student.path={short}"), "the student reads at most 32 tokens"),
        (causal("adopt=hard", f"+teachers.others.short.path={short}"), "the teacher short reads at most 32 tokens"),
        (causal("adopt=hard", f"+teachers.others.bert.path={teacher_folder}"), "and the causal stage has decoders"),
        (
            causal("adopt=causal_assistant", f"adopt.assistant.path={teacher_folder}"),
            "and the causal stage has decoders",
        ),
        (
            causal("knowledge=minilm", "student.gradient_checkpointing=true"),
            "reads the attention of the student's layers",
        ),
        (causal("trainer.precision=bf16-true"), "trainer.precision=bf16-true: did you mean bf16-mixed"),
        (tiny(teacher_folder, prompts), "no field 'text'"),
        (causal("knowledge=pkd"), "a decoder's first token reads no other"),
        (causal("teachers.cache=disk", "teachers.cache_vocabulary=sampled", "knowledge=gkd"), "compares all logits"),
        (causal("select=forgetting"), "goes by the class of a row"),
        (causal("select.balance=predicted"), "select.balance=predicted"),
        (causal("data.stage=causl"), "data.stage"),
    ]
    for given, message in cases:
        done = call([*given, RUN], tmp_path)
        assert done.code == 2 and message in done.output, (given, done.output)
        assert not (tmp_path / "run").exists() and "Traceback" not in done.output
