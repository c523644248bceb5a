"""Lengths of rows in tokens: how many a maximum truncates, and the maximum that suits them; worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kdlab.data.tasks import lengths
from kdlab.testing.tiny import tiny_tokenizer


def texts(*words: int) -> list[tuple[str, ...]]:
    return [(" ".join(["ba"] * count),) for count in words]


def test_lengths_have_the_special_tokens_and_are_not_truncated():
    tokenizer = tiny_tokenizer()  # [CLS] text [SEP], and one more [SEP] for a pair
    assert lengths.whole_lengths(texts(1, 5, 200), tokenizer).tolist() == [3, 7, 202]
    assert lengths.whole_lengths([("ba ba", "ba")], tokenizer).tolist() == [6]


def test_the_percentile_keeps_95_rows_of_100_and_19_of_20():
    tokenizer = tiny_tokenizer()
    assert lengths.percentile(texts(*range(1, 101)), tokenizer) == 97  # 95 words, [CLS] and [SEP]
    assert lengths.percentile(texts(*[4] * 19, 50), tokenizer) == 6
    assert lengths.percentile(texts(*[4] * 18, 50, 50), tokenizer) == 52  # six keeps 90 % only
    assert lengths.percentile(texts(9), tokenizer) == 11 and lengths.percentile([], tokenizer) == 0


def test_the_percentile_of_many_rows_is_of_some_of_them_and_leaves_the_tokenizer_as_it_was(monkeypatch):
    monkeypatch.setattr(lengths, "SAMPLE", 3)
    tokenizer = tiny_tokenizer()
    tokenizer(["ba"], truncation=True, max_length=5)
    assert lengths.percentile(texts(1, 99, 3, 99, 5), tokenizer) == 7  # the first, the third, the fifth
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 5


@pytest.mark.parametrize(
    ("usual", "most", "found"), [(3, 512, 16), (187, 512, 192), (192, 512, 192), (187, 128, 128), (3000, 8192, 512)]
)
def test_a_chosen_length_is_a_multiple_of_8_within_what_the_models_read(usual, most, found):
    assert lengths.chosen(usual, most) == found


def test_a_ladder_ends_where_all_rows_fit():
    assert lengths.fitting(np.array([3, 16, 17, 50])) == {"16": 2, "32": 3, "48": 3, "64": 4}


FITS = {"64": 26, "96": 100, "128": 200, "192": 330, "256": 351, "384": 360}
STATS = {
    "train": {"rows": 360, "cut": 334, "fits": FITS},
    "dev": {"rows": 90, "cut": 80},
    "test": {"rows": 9, "cut": 0},
}


def test_the_line_counts_each_split_and_names_a_length_that_keeps_most():
    line = lengths.truncated(STATS, 64, 512, pairs=False)  # 351 of 360 are 97.5 %
    assert line == (
        "334 of 360 train texts and 80 of 90 dev texts are longer than data.max_length=64 and are cut; "
        "256 keeps 97 % of train whole"
    )
    assert "334 of 360 train pairs and 80 of 90 dev pairs" in lengths.truncated(STATS, 64, 512, pairs=True)
    assert lengths.many_truncated(STATS)


def test_no_length_is_named_that_the_models_do_not_read():
    assert lengths.truncated(STATS, 64, 128, False).endswith("are cut; 128 keeps 55 % of train whole")
    assert lengths.truncated(STATS, 64, 64, False).endswith("are cut; the models read no more")
    older = {"train": {"rows": 360, "cut": 334}, "dev": {"rows": 90, "cut": 0}}
    assert lengths.truncated(older, 64, 512, False).endswith("longer than data.max_length=64 and are cut")


def test_a_few_truncated_rows_are_counted_and_are_no_caveat():
    few = {"train": {"rows": 100, "cut": 5, "fits": {"16": 95, "32": 100}}, "dev": {"rows": 20, "cut": 1}}
    assert not lengths.many_truncated(few)
    assert lengths.truncated(few, 16, 512, False).endswith(
        "data.max_length=16 and are cut; 32 keeps 100 % of train whole"
    )
    assert lengths.truncated({"train": {"rows": 1, "cut": 0, "fits": {"16": 1}}}, 16, 512, False) == ""
