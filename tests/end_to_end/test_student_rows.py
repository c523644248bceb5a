"""Runs whose student writes rows itself: kills, costs, other rows than the data's, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdlab.testing.tiny import WORDS
from tests.support.runs import assert_resumed, call, outcome, tiny_causal

RUN = "hydra.run.dir=run"
MORE = ["+exp=causal_finetune", "knowledge=gkd", "knowledge.terms.label.weight=0", "select=entropy", "trainer.probes=0"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "rows.jsonl"
    lines = [
        json.dumps({"prompt": " ".join(WORDS[i : i + 3 + i % 4]) + " ", "completion": " ".join(WORDS[i + 5 : i + 9])})
        for i in range(80)
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def given(teacher: Path, rows: Path, *more: str) -> list[str]:
    return [one for one in tiny_causal(teacher, rows, *MORE, *more) if one != "+exp=causal_pretrain"]


def test_a_killed_run_writes_the_same_rows_and_pays_for_them(decoder_folder, rows, tmp_path):
    command = [*given(decoder_folder, rows, "data.generated=0.5"), f"artifacts={tmp_path / 'artifacts'}", RUN]
    whole = call(command, tmp_path / "whole")
    assert whole.code == 0, whole.output
    assert_resumed(command, tmp_path, tmp_path / "whole" / "run", (5, "start"))
    plain = call([*command[:-1], "data.generated=0", "hydra.run.dir=plain"], tmp_path)
    assert plain.code == 0, plain.output
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("run", "plain")]
    flops = [one["ledger"]["flops"] for one in results]
    assert flops[0]["generation"] > 0 and "generation" not in flops[1]
    assert results[0]["ledger"]["seconds"]["generation"] > 0
    queries = [one["ledger"]["teacher_queries"] for one in results]
    assert queries[0]["total"] == queries[1]["total"]
    assert outcome(tmp_path / "plain")["student"] != outcome(tmp_path / "run")["student"]


def test_bad_input_is_one_line(decoder_folder, text_folder, rows, tmp_path):
    ours = lambda *more: given(decoder_folder, rows, "data.generated=0.5", *more)  # noqa: E731
    cases = [
        (ours("data.generated=1.5"), "data.generated=1.5: a number in [0, 1]"),
        (ours("data.pack=true"), "data.pack=false"),
        (ours("knowledge.terms.label.weight=0.5"), "knowledge.terms.label.weight=0"),
        (ours("teachers.cache=memory"), "teachers.cache=off"),
        (ours("select.scoring=stale"), "select.scoring=fresh"),
        (ours("budget.queries=100"), "no budget"),
        (given(decoder_folder, text_folder, "data.generated=0.5"), "plain text has no prompts"),
    ]
    for command, message in cases:
        done = call([*command, RUN], tmp_path)
        assert done.code == 2 and message in done.output, (command, done.output)
        assert not (tmp_path / "run").exists() and "Traceback" not in done.output
