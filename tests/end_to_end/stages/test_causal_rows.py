"""Runs of the causal stage on prompts and conversations of one's own: samples, scores afterwards, bad input in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kdlab import evaluate
from kdlab.runs.decoding.samples import read
from tests.support.causal import characters, decoder, write_rows
from tests.support.runs import call

WORDS = ["red", "green", "blue", "black", "white"]
PAIRS = [{"prompt": f"{a} and {b}: ", "completion": f"{b} {a}."} for a in WORDS for b in WORDS for _ in range(2)]
CHATS = [
    {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
    for row in PAIRS
]


def arguments(teacher: Path, *more: str) -> list[str]:
    return [
        "+exp=causal_finetune", f"teachers.path={teacher}", "student.layers=2", "data.max_length=64", "data.batch_size=8",
        "data.heldout=0.2", "trainer.max_steps=4", "trainer.evaluate_every=2", "trainer.precision=32-true",
        "trainer.measure_speed=false", "trainer.probes=0", "figures=false", "hydra.run.dir=run", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    decoder(4).save_pretrained(folder)
    characters().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_rows(home / "rows.jsonl", [*PAIRS, *CHATS])
    done = call(arguments(teacher, "data.path=rows.jsonl", "select=random", "select.ratio=0.5", "data.samples=3"), home)
    assert done.code == 0, done.output
    return home / "run"


def test_a_run_on_prompts_and_conversations_writes_scores_and_samples(run):
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "finished" and not result["warnings"]
    assert result["data"]["name"] == "rows.jsonl" and result["data"]["documents"] == 100
    assert 0 < result["data"]["heldout_sequences"] < result["data"]["sequences"] == 100
    assert result["metrics"]["student"]["perplexity"] > 1
    samples = read(run)
    assert len(samples) == 3
    for sample in samples:
        assert sample["prompt"].endswith((": ", ": <|end|>\n<|assistant|>")) and sample["reference"].endswith(".")


def test_the_student_is_scored_again_on_held_out_and_other_rows(run, capsys, tmp_path):
    assert evaluate.main([str(run)]) == 0
    assert "as recorded" in capsys.readouterr().out
    other = write_rows(tmp_path / "other.jsonl", PAIRS[:7])
    assert evaluate.main([str(run), "--data", str(other)]) == 0
    assert "other.jsonl, 7 rows" in capsys.readouterr().out


def test_questions_and_exact_match_of_the_student(run, capsys, tmp_path):
    asked = [{"question": "red and blue:", "choices": ["blue red.", "red red."], "answer": "A"}] * 2
    assert evaluate.main([str(run), "--questions", str(write_rows(tmp_path / "q.jsonl", asked))]) == 0
    assert "2 questions" in (said := capsys.readouterr().out) and "by guessing 0.5000" in said
    rows = write_rows(tmp_path / "p.jsonl", [PAIRS[0], CHATS[1]])
    assert evaluate.main([str(run), "--exact-match", str(rows)]) == 0
    assert "2 prompts\nexact match " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--questions", "none.jsonl"], "--questions none.jsonl: there is no such file"),
        (["--exact-match", "none.jsonl"], "--exact-match none.jsonl: there is no such file"),
        (["--predictions", "out.csv"], "whose student predicts tokens, not rows"),
    ],
)
def test_options_of_evaluate_that_are_wrong_are_one_line(run, capsys, option, message):
    assert evaluate.main([str(run), *option]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


BAD = {
    "no completion": ([{"prompt": "p"}], [], r"line 1: no field 'completion'; its fields: prompt"),
    "other columns": ([{"q": "p", "a": "c"}], [], "line 1: no field 'messages', 'prompt', 'completion' or 'text'"),
    "long prompt": ([*PAIRS[:3], {"prompt": "x" * 70, "completion": "y"}], [], "line 4: the prompt has 70 tokens"),
    "no reply": ([{"messages": [{"role": "user", "content": "hi"}]}], [], "no message of the assistant"),
    "no such encoding": (PAIRS, ["data.encoding=klingon"], "data.encoding=klingon: no such text encoding"),
    "no such choice": (PAIRS, ["data.long_prompts=keep"], "data.long_prompts"),
    "one row": (PAIRS[:1], [], "the text is too short: 1 documents"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_one_line_and_leave_no_run(teacher, tmp_path, case):
    rows, more, message = BAD[case]
    write_rows(tmp_path / "rows.jsonl", rows)
    done = call(arguments(teacher, "data.path=rows.jsonl", *more), tmp_path)
    assert done.code == 2 and message in done.output, done.output
    assert not (tmp_path / "run" / "result.json").exists()


def test_files_that_are_no_rows_are_one_line(teacher, tmp_path):
    for content, message in (
        (b"", "has no text: "),
        (b'{"prompt": "p"\n', "line 1: not JSON"),
        (b'{"prompt": "\xff\xfe"}\n', "line 1: not UTF-8"),
    ):
        (tmp_path / "rows.jsonl").write_bytes(content)
        done = call(arguments(teacher, "data.path=rows.jsonl"), tmp_path)
        assert done.code == 2 and message in done.output, done.output


def test_conversations_without_a_chat_template_are_one_line(teacher, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(teacher, plain)
    (plain / "chat_template.jinja").unlink()
    write_rows(tmp_path / "rows.jsonl", CHATS)
    done = call(arguments(plain, "data.path=rows.jsonl"), tmp_path)
    assert done.code == 2 and "the teacher's tokenizer has no chat template" in done.output, done.output
