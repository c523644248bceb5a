"""Tables of word vectors: brute force in numpy as oracle, valid and invalid GloVe files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdlab.data.augmentation.word_vectors import WordRanking, WordTable, read_word_table
from kdlab.errors import UserError


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "glove.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_nearest_is_brute_force() -> None:
    rng = np.random.default_rng(0)
    names = ["".join(rng.choice(list("abcdefgh"), 9)) for _ in range(300)]
    vectors, queries = rng.normal(size=(300, 12)) * rng.uniform(0.1, 9, (300, 1)), rng.normal(size=(20, 12))
    query_words = names[:10] + ["unknown"] * 10
    found = WordTable(names, torch.from_numpy(vectors)).nearest(torch.from_numpy(queries).float(), query_words, 7)
    for query, word, near in zip(queries, query_words, found, strict=True):
        cosine = vectors @ query / np.linalg.norm(vectors, axis=1)
        assert near == tuple([names[i] for i in np.argsort(-cosine) if names[i] != word][:7])


def test_best_excludes_the_word_in_any_case_and_words_without_a_score() -> None:
    words = WordRanking(["Dog", "cat", "dog", "cow", "hen"])
    scores = torch.tensor([[9.0, 1, 8, 2, -torch.inf], [9, 1, 8, 2, 3]])
    before = scores.clone()
    assert words.best(scores, ["DOG", "ant"], 4) == [("cow", "cat"), ("Dog", "dog", "hen", "cow")]
    assert words.best(scores, ["cat", "hen"], 99) == [("Dog", "dog", "cow"), ("Dog", "dog", "cow", "cat")]
    assert torch.equal(scores, before)


def test_vector_of_a_word() -> None:
    table = WordTable(["dog", "Dog", "cat"], torch.tensor([[3.0, 4], [0, 2], [1, 0]]))
    assert [table.vector(word).tolist() for word in ("dog", "Dog", "DOG", "Cat")] == [  # pyright: ignore[reportOptionalMemberAccess]
        pytest.approx([0.6, 0.8]), [0, 1], pytest.approx([0.6, 0.8]), [1, 0]
    ]  # fmt: skip
    assert table.vector("cow") is None


def test_a_file_by_hand(tmp_path: Path) -> None:
    text = "the 1 0\n, 3 3\nat name@domain.com 1 1\ndog 3 4 \r\ndog 5 5\nnull 0 0\nnaïve -1e-1 .5\n12 1 1\n"
    table = read_word_table(written(tmp_path, text))
    assert table.words.names == ["the", "dog", "naïve"]
    expected = [[1, 0], [0.6, 0.8], [-0.1 / 0.26**0.5, 0.5 / 0.26**0.5]]
    np.testing.assert_allclose(table.vectors.numpy(), expected, rtol=1e-6)


def test_a_header_and_a_limit(tmp_path: Path) -> None:
    path = written(tmp_path, "3 2\nthe 1 0\ndog 3 4\nthis line is never read\n")
    assert read_word_table(path, limit=3).words.names == ["the", "dog"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("the 1 2\ndog 1\n", "glove.txt, line 2: 1 numbers after the word; the lines before have 2"),
        ("the 1 2\ndog 1 2 3\n", "glove.txt, line 2: 3 numbers after the word; the lines before have 2"),
        ("the 1 2\n\ncat 1 2\n", "glove.txt, line 2: 0 numbers after the word; the lines before have 2"),
        ("the\n", "glove.txt, line 1: 0 numbers after the word; a line is a word and its vector"),
        ("the 1 2\ndog 1 x\n", "glove.txt, line 2: 'x' is not a finite number"),
        ("the 1 2\ncat 1 nan\n", "glove.txt, line 2: 'nan' is not a finite number"),
        ("the 1 2\ncat 1 -1e39\n", "glove.txt, line 2: '-1e39' is not a finite number"),
        ("the 1 2\ncat inf 1\n", "glove.txt, line 2: 'inf' is not a finite number"),
        (b"the 1 2\nd\xe9 1 2\n", r"glove.txt, line 2: not UTF-8 \(byte 0xe9\)"),
        (", 1 2\n", "glove.txt has no word with a vector"),
        ("", "glove.txt has no word with a vector"),
        (b"\x80\x02}q\0", r"glove.txt is binary \(byte 4 is 0\)"),
    ],
)
def test_invalid_files(tmp_path: Path, text: str | bytes, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        read_word_table(written(tmp_path, text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read .*none.txt: No such file"):
        read_word_table(tmp_path / "none.txt")
