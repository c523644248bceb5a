"""Words, and which of them are near another: lists of words with scores, and tables of word vectors (GloVe's text files).

A *word* is a run of letters, here and in `kdlab.data.augmentation.tinybert`; digits and punctuation are none. W words, D numbers a vector.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdlab.data.tasks.files import place
from kdlab.data.text.files import lines, sniff
from kdlab.errors import UserError

WORD = re.compile(r"[^\W\d_]+")
FREQUENT = 100_000  # the first words of a file that are read, as TinyBERT's code does; GloVe's are sorted by frequency
_HEADER = re.compile(r"\d+ \d+\s*")  # words and dimensions: the first line of word2vec's and fastText's text files


class WordScores:
    """A list of words that can be ranked by scores; the same word in other letter case is still the same word."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._same: dict[str, list[int]] = defaultdict(list)
        for i, name in enumerate(self.names):
            self._same[name.lower()].append(i)

    def best(self, scores: Tensor, asked: Sequence[str], count: int) -> list[tuple[str, ...]]:
        """For each asked word the `count` words of highest score, best first, without the asked word itself.

        `scores` (Q, W), a row for each of the Q words in `asked`. Fewer where there are fewer words.
        """
        scores = scores.clone()
        own = [(i, j) for i, word in enumerate(asked) for j in self._same.get(word.lower(), ())]
        if own:
            rows, columns = torch.tensor(own, device=scores.device).T
            scores[rows, columns] = -torch.inf
        values, found = scores.topk(min(count, len(self.names)), dim=-1)
        return [
            tuple(self.names[j] for j, value in zip(some, worth, strict=True) if value > -torch.inf)
            for some, worth in zip(found.tolist(), values.tolist(), strict=True)
        ]


class WordTable:
    """Word vectors, compared by cosine: `names` the W words, `vectors` (W, D) of any length but zero."""

    def __init__(self, names: Sequence[str], vectors: Tensor) -> None:
        self.words = WordScores(names)
        self.vectors = torch.nn.functional.normalize(vectors.detach().float().cpu(), dim=-1)
        self._place = {name: i for i, name in reversed(list(enumerate(names)))}

    def vector(self, word: str) -> Tensor | None:
        """The unit vector (D,) of `word` as written, or of its lower case; None if the table has neither."""
        at = self._place.get(word, self._place.get(word.lower()))
        return None if at is None else self.vectors[at]

    def nearest(self, vectors: Tensor, asked: Sequence[str], count: int) -> list[tuple[str, ...]]:
        """The `count` words of highest cosine with each of `vectors` (Q, D), best first, without the Q words `asked`."""
        return self.words.best(torch.nn.functional.normalize(vectors, dim=-1) @ self.vectors.T, asked, count)


def read_word_table(path: str | Path, limit: int = FREQUENT) -> WordTable:
    """The table in the first `limit` lines of a GloVe file (UTF-8, a word and its numbers a line, single spaces).

    A first line with two counts, as word2vec and fastText write, is passed over. So are lines of no word (numbers,
    punctuation, GloVe's few "words" with spaces in them), zero vectors and second vectors of a word.

    Raises UserError, naming file and line, for a line of another length, something that is no finite number, and bytes
    that are not UTF-8; and for a file without words.
    """
    path = Path(path)
    sniff(path)
    rows: dict[str, np.ndarray] = {}
    width = 0
    for number, text in lines(path):
        if number > limit or (number == 1 and _HEADER.fullmatch(text)):
            continue
        word, *fields = [field for field in text.rstrip().split(" ") if field] or [""]
        width = width or len(fields)
        while len(fields) > width and not _is_number(fields[0]):
            word = f"{word} {fields.pop(0)}"
        if len(fields) != width or not width:
            raise UserError(
                f"{place(path, number)}: {len(fields)} numbers after the word; "
                + (
                    f"the lines before have {width}"
                    if width
                    else "a line is a word and its vector, with spaces between"
                )
            )
        row = _numbers(path, number, fields)
        if WORD.fullmatch(word) and word not in rows and row.any():
            rows[word] = row
    if not rows:
        raise UserError(f"{path} has no word with a vector; a line is a word and its numbers, with spaces between")
    return WordTable(list(rows), torch.from_numpy(np.stack(list(rows.values()))))


def _numbers(path: Path, line: int, fields: Sequence[str]) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):
            found = np.array([float(field) for field in fields], dtype=np.float32)
    except ValueError:
        found = None
    if found is None or not np.isfinite(found).all():
        wrong = next((field for field in fields if not _is_number(field)), fields[0])
        raise UserError(f"{place(path, line)}: {wrong!r} is not a finite number")
    return found


def _is_number(field: str) -> bool:
    try:
        return abs(float(field)) <= float(np.finfo(np.float32).max)
    except ValueError:
        return False
