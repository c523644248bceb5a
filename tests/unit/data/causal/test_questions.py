"""Multiple-choice questions of files: three forms of an answer, each fault in one line."""

from __future__ import annotations

import pytest

from kdlab.data.causal import questions
from kdlab.errors import UserError
from tests.support.causal import write_rows

ROW = {"question": "q?", "choices": ["x", "y", "B"], "answer": 1}


@pytest.mark.parametrize(("answer", "index"), [(0, 0), (2, 2), ("y", 1), ("B", 2), ("A", 0), ("c", 2)])
def test_answers_are_indices_texts_or_letters_in_that_order(tmp_path, answer, index):
    (found,) = questions.read(write_rows(tmp_path / "q.jsonl", [{**ROW, "answer": answer}]))
    assert (found.text, found.choices, found.answer) == ("q?", ("x", "y", "B"), index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 3}, "line 2: the answer '3' is no choice: an index from 0 to 2"),
        ({"answer": True}, "line 2: the answer 'True' is no choice"),
        ({"answer": "z"}, "line 2: the answer 'z' is no choice"),
        ({"choices": ["x"]}, "line 2: field 'choices' is no list of two texts"),
        ({"choices": ["x", ""]}, "line 2: field 'choices' is no list of two texts"),
        ({"question": " "}, "line 2: field 'question' is no text"),
    ],
)
def test_a_wrong_question_is_named_with_its_line(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        questions.read(write_rows(tmp_path / "q.jsonl", [ROW, {**ROW, **change}]))


def test_missing_fields_and_files_without_a_question_are_one_line(tmp_path):
    with pytest.raises(UserError, match="line 1: no field 'answer'"):
        questions.read(write_rows(tmp_path / "q.jsonl", [{"question": "q", "choices": ["a", "b"]}]))
    with pytest.raises(UserError, match="has no question"):
        questions.read(write_rows(tmp_path / "q.jsonl", []))
