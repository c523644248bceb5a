"""Multiple-choice questions of .jsonl files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlab.data.text.files import json_objects, matching
from kdlab.data.text.lines import UTF8, check_encoding, sniff
from kdlab.errors import UserError

PATTERN = '{"question": "...", "choices": ["...", "..."], "answer": 0}'


@dataclass(frozen=True)
class Question:
    """`text` of a question, its `choices`, and the index of the right one."""

    text: str
    choices: tuple[str, ...]
    answer: int


def read(file: Path, encoding: str = UTF8) -> list[Question]:
    """The questions of a .jsonl file: "question", "choices" (two or more), "answer" (index from 0, letter, or the choice).

    UserError for an empty file, bad lines, and rows without one of these.
    """
    check_encoding(encoding)
    sniff(file, encoding)
    found = [_question(row, f"{file}, line {number}") for number, row in json_objects(file, PATTERN, encoding)]
    if not found:
        raise UserError(f"{file} has no question; a row is {PATTERN}")
    return found


def _question(row: Mapping[str, Any], where: str) -> Question:
    names = {name: matching(name, row) for name in ("question", "choices", "answer")}
    missing = [name for name, found in names.items() if found is None]
    if missing:
        raise UserError(f"{where}: no field {missing[0]!r}; a row is {PATTERN}")
    text, choices, answer = (row[str(name)] for name in names.values())
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: field 'question' is no text")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) and one for one in choices):
        raise UserError(f"{where}: field 'choices' is no list of two texts or more")
    return Question(text, tuple(choices), _index(answer, choices, where))


def _index(answer: Any, choices: list[str], where: str) -> int:
    """The index of the right choice, from an index, the choice itself, or its letter."""
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    if isinstance(answer, str):
        if answer in choices:
            return choices.index(answer)
        letter = ord(answer.upper()) - ord("A") if len(answer) == 1 else -1
        if 0 <= letter < len(choices):
            return letter
    raise UserError(
        f"{where}: the answer {str(answer)[:40]!r} is no choice: an index from 0 to {len(choices) - 1}, a letter, or its text"
    )
