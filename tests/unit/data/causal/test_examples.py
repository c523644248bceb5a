"""Files of prompts with completions and of conversations: what is read, and each fault in one line."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import pytest

from kdlab.data.causal.examples import ExampleFolder, WikipediaParagraphs
from kdlab.errors import UserError
from tests.support.causal import write_rows

ROW = {"prompt": "p", "completion": "c"}
CHAT = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}


def test_rows_of_both_kinds_and_compressed_files_are_read_in_order(tmp_path):
    write_rows(tmp_path / "a.jsonl", [ROW, CHAT])
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps({"Prompt": "x", "completion": "y"}).encode()))
    found = list(ExampleFolder(str(tmp_path)).examples())
    assert [(e.prompt, e.completion, len(e.messages)) for e in found] == [("p", "c", 0), ("", "", 2), ("x", "y", 0)]
    assert [e.where.rpartition("/")[2] for e in found] == ["a.jsonl, line 1", "a.jsonl, line 2", "b.jsonl.gz, line 1"]


def test_own_columns(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}])
    (example,) = ExampleFolder(str(file), "question", "answer").examples()
    assert (example.prompt, example.completion) == ("q", "a")


@pytest.mark.parametrize(
    ("names", "sides"),
    [
        (["all"], [None]),
        (["dev"], [None]),
        (["a", "b"], [None, None]),
        (["train", "dev", "test"], [False, True]),
        (["test", "train"], [False, True]),
    ],
)
def test_names_of_files_decide_what_is_held_out(tmp_path, names, sides):
    for name in names:
        write_rows(tmp_path / f"{name}.jsonl", [{**ROW, "completion": name}])
    found = list(ExampleFolder(str(tmp_path)).examples())
    assert [example.heldout for example in found] == sides
    assert ("test" in {example.completion for example in found}) == ("dev" not in names and "test" in names)


def test_held_out_rows_alone_are_refused(tmp_path):
    for name in ("dev", "test"):
        write_rows(tmp_path / f"{name}.jsonl", [ROW])
    with pytest.raises(UserError, match="held-out rows alone"):
        ExampleFolder(str(tmp_path)).files()


def test_text_is_told_from_examples_by_the_first_row(tmp_path):
    assert ExampleFolder(str(write_rows(tmp_path / "a.jsonl", [ROW]))).is_given("text")
    assert ExampleFolder(str(write_rows(tmp_path / "b.jsonl", [{"completion": "c"}]))).is_given("text")
    assert not ExampleFolder(str(write_rows(tmp_path / "c.jsonl", [{"text": "t"}]))).is_given("text")
    (tmp_path / "d.txt").write_text("some text")
    assert not ExampleFolder(str(tmp_path / "d.txt")).is_given("text")
    with pytest.raises(
        UserError, match=r"line 1: no field 'messages', 'prompt', 'completion' or 'text'; its fields: q, a"
    ):
        ExampleFolder(str(write_rows(tmp_path / "e.jsonl", [{"q": 1, "a": 2}]))).is_given("text")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p"}, r"line 2: no field 'completion'; its fields: prompt"),
        ({"prompt": "p", "completion": ""}, "line 2: field 'completion' is empty"),
        ({"prompt": "p", "completion": 3}, "line 2: field 'completion' is int, not text"),
        ({"completion": "c"}, "line 2: no field 'prompt'"),
        ({"messages": "hi"}, "line 2: field 'messages' is no list of messages"),
        ({"messages": [{"role": "user"}]}, "line 2: field 'messages' is no list of messages"),
        ({"messages": [{"role": "user", "content": "u"}]}, r"no message of the assistant.*\(roles: user\)"),
        ({"messages": [{"role": "assistant", "content": "u"}]}, "the first message is the assistant's"),
        (["p", "c"], "line 2: list, not an object"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(tmp_path, row, message):
    file = write_rows(tmp_path / "a.jsonl", [ROW, row])
    with pytest.raises(UserError, match=message):
        list(ExampleFolder(str(file)).examples())


def test_bad_json_unknown_encodings_and_empty_files_are_one_line(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "p", "completion": "c"}\n{"prompt": \n')
    with pytest.raises(UserError, match=r"a.jsonl, line 2: not JSON"):
        list(ExampleFolder(str(file)).examples())
    with pytest.raises(UserError, match="data.encoding=klingon"):
        ExampleFolder(str(file), encoding="klingon").is_given("text")
    file.write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(UserError, match="line 1: not UTF-8"):
        ExampleFolder(str(file)).is_given("text")
    file.write_text("")
    with pytest.raises(UserError, match=r"has no text: .*a.jsonl is empty"):
        ExampleFolder(str(file)).is_given("text")


def test_other_files_beside_the_rows_are_refused(tmp_path):
    write_rows(tmp_path / "a.jsonl", [ROW])
    (tmp_path / "b.txt").write_text("text")
    with pytest.raises(UserError, match=r"b.txt is no .jsonl file"):
        ExampleFolder(str(tmp_path)).check()


def test_the_fingerprint_follows_contents_columns_and_names(tmp_path: Path):
    file = write_rows(tmp_path / "a.jsonl", [ROW])
    first = ExampleFolder(str(file)).fingerprint()
    assert ExampleFolder(str(file)).fingerprint() == first != ExampleFolder(str(file), "question").fingerprint()
    write_rows(file, [ROW, ROW])
    assert ExampleFolder(str(file)).fingerprint() != first


@pytest.mark.skipif(importlib.util.find_spec("gensim") is None, reason="the excerpt comes with gensim (extra demo)")
def test_paragraphs_of_the_excerpt_continue_their_first_sentence():
    first, second = (list(WikipediaParagraphs().examples()) for _ in range(2))
    assert first == second and len(first) > 500
    assert all(e.prompt.endswith(".") and e.completion.startswith(" ") and e.completion.strip() for e in first)
    assert all(len(e.prompt) + len(e.completion) < 1000 for e in first)
