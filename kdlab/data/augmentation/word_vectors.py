"""Nearest words: rankings of words by score, and tables of word vectors from text files of GloVe.

A *word* is a run of letters, here and in `kdlab.data.augmentation.tinybert`, without digits and punctuation. W words,
vectors of D dimensions.
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
from kdlab.data.text.lines import lines, sniff
from kdlab.errors import UserError

WORD = re.compile(r"[^\W\d_]+")
FREQUENT = 100_000  # lines that are read of a file, as in TinyBERT's code; GloVe sorts words by frequency
_HEADER = re.compile(r"\d+ \d+\s*")  # words and dimensions: the first line of word2vec's and fastText's text files


class WordRanking:
    """Rank a list of W words `names` by scores; words that differ only in letter case count as the same word."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._same: dict[str, list[int]] = defaultdict(list)
        for i, name in enumerate(self.names):
            self._same[name.lower()].append(i)

    def best(self, scores: Tensor, queries: Sequence[str], count: int) -> list[tuple[str, ...]]:
        """For each of Q queries the `count` words of highest score, best first, without the query itself.

        `scores` (Q, W). Tuples are shorter if there are fewer words.
        """
        scores = scores.clone()
        same = [(i, j) for i, word in enumerate(queries) for j in self._same.get(word.lower(), ())]
        if same:
            rows, columns = torch.tensor(same, device=scores.device).T
            scores[rows, columns] = -torch.inf
        best = scores.topk(min(count, len(self.names)), dim=-1)
        return [
            tuple(self.names[j] for j, value in zip(indices, values, strict=True) if value > -torch.inf)
            for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


class WordTable:
    """Word vectors, compared by cosine: W words `names`, nonzero `vectors` (W, D)."""

    def __init__(self, names: Sequence[str], vectors: Tensor) -> None:
        self.words = WordRanking(names)
        self.vectors = torch.nn.functional.normalize(vectors.detach().float().cpu(), dim=-1)
        self._index = {name: i for i, name in reversed(list(enumerate(names)))}

    def vector(self, word: str) -> Tensor | None:
        """Unit vector (D,) of `word` as written, or of its lower case; None if the table has neither."""
        index = self._index.get(word, self._index.get(word.lower()))
        return None if index is None else self.vectors[index]

    def nearest(self, vectors: Tensor, queries: Sequence[str], count: int) -> list[tuple[str, ...]]:
        """The `count` words of highest cosine with each of `vectors` (Q, D), best first, without the Q `queries`."""
        return self.words.best(torch.nn.functional.normalize(vectors, dim=-1) @ self.vectors.T, queries, count)


def read_word_table(path: str | Path, limit: int = FREQUENT) -> WordTable:
    """Read the first `limit` lines of a GloVe file (UTF-8, a word and its vector on each line, separated by spaces).

    Skipped: a first line with two counts, as word2vec and fastText write it; lines without a word (numbers,
    punctuation, the few entries of GloVe that contain spaces); zero vectors; further vectors of a word.

    UserError that names file and line for a line of another length, a field that is no finite number, and bytes that
    are not UTF-8; UserError for a file without words.
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
            numbers = np.array([float(field) for field in fields], dtype=np.float32)
    except ValueError:
        numbers = None
    if numbers is None or not np.isfinite(numbers).all():
        wrong = next((field for field in fields if not _is_number(field)), fields[0])
        raise UserError(f"{place(path, line)}: {wrong!r} is not a finite number")
    return numbers


def _is_number(field: str) -> bool:
    try:
        return abs(float(field)) <= float(np.finfo(np.float32).max)
    except ValueError:
        return False
