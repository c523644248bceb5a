"""The teacher of a row is the one that a column of the data names: queries of each teacher, and bad input."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import pytest

from kdlab.testing.tiny import WORDS, write_decoder
from tests.support.runs import call, tiny, tiny_causal, tiny_task

RUN = "hydra.run.dir=run"
ADOPT = [
    "adopt=by_column",
    "data.teacher_column=domain",
    "select=all",
    "trainer.max_steps=null",
    "trainer.max_epochs=1",
]


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """A second decoder, smaller than the first."""
    return write_decoder(tmp_path_factory.mktemp("code"), layers=2, seed=1)


def rows_of(names: list[str], count: int = 60) -> list[dict]:
    rows = []
    for i in range(count):
        words = [WORDS[(i * 7 + j) % len(WORDS)] for j in range(9)]
        rows.append(
            {"prompt": " ".join(words[:5]), "completion": " ".join(words[5:]), "domain": names[i % 3 % len(names)]}
        )
    return rows


def queries(run: Path) -> dict[str, int]:
    ledger = json.loads((run / "result.json").read_text())["ledger"]
    return {name: one["total"] for name, one in ledger["teacher_queries"]["per_teacher"].items()}


@pytest.mark.parametrize("cache", ["off", "memory"])
def test_each_row_of_prompts_queries_its_teacher(decoder_folder, other, tmp_path, cache):
    (tmp_path / "rows").mkdir()
    given = rows_of(["code", "1"])  # by name, and by number: the larger one
    for name, part in (("train", given), ("dev", given[:6])):
        (tmp_path / "rows" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    more = [*ADOPT, f"+teachers.others.code.path={other}", "data.pack=false", f"teachers.cache={cache}"]
    done = call([*tiny_causal(decoder_folder, tmp_path / "rows", *more), RUN], tmp_path)
    assert done.code == 0, done.output
    wanted = collections.Counter(row["domain"] for row in given)
    assert wanted["code"] != wanted["1"]
    assert queries(tmp_path / "run") == {"code": wanted["code"], decoder_folder.name: wanted["1"]}


def test_each_labelled_row_queries_its_teacher(teacher_folder, task_folder, tmp_path):
    wanted: collections.Counter = collections.Counter()
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "labels.txt").write_text((task_folder / "labels.txt").read_text())
    (tmp_path / "rows" / "dev.tsv").write_text((task_folder / "dev.tsv").read_text())
    header, *lines = (task_folder / "train.tsv").read_text().splitlines()
    for i, line in enumerate(lines):
        name = "half" if i % 3 else "1"
        wanted[name] += 1
        lines[i] = f"{line}\t{name}"
    (tmp_path / "rows" / "train.tsv").write_text("\n".join([f"{header}\tdomain", *lines]) + "\n")
    more = [*ADOPT, "+teachers.others.half.layers=2", "adopt.assistant=null", "data.columns=[sentence]"]
    done = call([*tiny_task(teacher_folder, tmp_path / "rows", *more), RUN], tmp_path)
    assert done.code == 0, done.output
    assert queries(tmp_path / "run") == {"half": wanted["half"], teacher_folder.name: wanted["1"]}


def test_bad_input_is_one_line(decoder_folder, teacher_folder, other, text_folder, task_folder, tmp_path):
    def file(name: str, rows: list[dict]) -> Path:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    good, late = file("good", rows_of(["code", "1"], 300)), rows_of(["code", "1"], 300)
    late[290]["domain"] = "cod"
    lacks = [dict(row) for row in rows_of(["code"])]
    del lacks[3]["domain"]
    causal = lambda rows, *more: tiny_causal(  # noqa: E731
        decoder_folder, rows, "data.pack=false", *ADOPT, f"+teachers.others.code.path={other}", *more
    )
    task = lambda *more: tiny_task(teacher_folder, task_folder, *ADOPT, "+teachers.others.half.layers=2", *more)  # noqa: E731
    cases = [
        (
            causal(file("late", late)),
            "no teacher is called 'cod', and it is no number from 0 (the smallest) to 1; did you mean code",
        ),
        (causal(file("lacks", lacks)), "line 4: no field 'domain'"),
        (causal(good, "data.teacher_column=null"), "data.teacher_column=NAME"),
        (causal(good, "adopt=hard"), "adopt=hard does not read it"),
        (causal(good, "data.pack=true"), "data.pack=false"),
        (causal(text_folder), "a teacher is named by rows of your own"),
        (task(), "no column 'domain'"),
        (tiny(teacher_folder, text_folder, "adopt=by_column", "+teachers.others.half.layers=2"), "data.teacher_column"),
    ]
    for given, message in cases:
        done = call([*given, RUN], tmp_path)
        assert done.code == 2 and message in done.output, (given, done.output)
        assert not (tmp_path / "run").exists() and "Traceback" not in done.output
