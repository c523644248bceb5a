"""Sources of prompts with completions, and of conversations: your own .jsonl files, a Wikipedia excerpt, the Hub.

A source is a frozen dataclass of plain values, like those of text (`kdlab.data.text.sources`), with `examples()` in the
place of `documents()`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kdlab.data.causal.example import REPLY, Example
from kdlab.data.text import mediawiki
from kdlab.data.text.files import json_objects, matching
from kdlab.data.text.lines import COMPRESSED, UTF8, check_encoding, encoding_parts, format_of, sniff, stem_of
from kdlab.data.text.sources import HubText, TextFolder, WikipediaExcerpt, digest
from kdlab.errors import UserError
from kdlab.ranges import Count

HELDOUT = ("heldout", "dev", "validation", "valid", "eval")  # names of files whose rows are held out
TEST = "test"  # such a file is held out where there is no other, and else not read


class ExampleSource(Protocol):
    """Interface of a source of examples, as `kdlab.data.causal.dataset.prepare` uses it."""

    def check(self) -> None:
        """Raise UserError if the rows cannot be read, without reading all of them."""
        ...

    def fingerprint(self) -> str:
        """A sha256 that changes whenever the examples could change."""
        ...

    def examples(self) -> Iterator[Example]:
        """Stream the examples in a fixed order."""
        ...

    def size(self) -> int | None:
        """Approximate bytes of text; None if unknown before reading."""
        ...


@dataclass(frozen=True)
class ExampleFolder:
    """.jsonl files (also .gz, .zst) whose rows are prompts with completions, or conversations; a folder, or one file.

    A row has text in `prompt_column` and `completion_column`, or a list of {"role", "content"} in `messages_column`. Files
    called dev, validation, valid, eval or heldout are held out; without one of these, a file called test is.
    `teacher_column` names each row's teacher, of the rows that are held out too.
    """

    path: str
    prompt_column: str = "prompt"
    completion_column: str = "completion"
    messages_column: str = "messages"
    encoding: str = UTF8
    teacher_column: str | None = None

    def files(self) -> list[tuple[Path, bool | None]]:
        """The files, sorted, each with True where it is held out, False where it is not, None where a share of all is.

        UserError for files of another format beside them, and for a folder with held-out rows alone.
        """
        found = TextFolder(self.path).files()
        other = next((file for file in found if format_of(file) != ".jsonl"), None)
        if other is not None:
            raise UserError(
                f"data.path: {other} is no .jsonl file, and the .jsonl files beside it hold prompts or messages"
            )
        named = {file: stem_of(file).lower() for file in found}
        held = [file for file, name in named.items() if name in HELDOUT] if len(found) > 1 else []
        tests = [file for file, name in named.items() if name == TEST] if len(found) > 1 else []
        held = held or tests
        train = [file for file in found if file not in held and file not in tests]
        if not train:
            raise UserError(f"data.path: {self.path} has held-out rows alone ({held[0].name}), and none to learn from")
        return [(file, False if held else None) for file in train] + [(file, True) for file in held]

    def is_given(self, text_column: str) -> bool:
        """True if the first .jsonl row at the path has a prompt, a completion or messages; False for plain text.

        UserError for a row with none of these columns and no `text_column`.
        """
        check_encoding(self.encoding)
        for file in TextFolder(self.path).files():
            if format_of(file) != ".jsonl":
                continue
            sniff(file, self.encoding)
            for number, row in json_objects(file, self._pattern, self.encoding):
                if any(matching(name, row) for name in self._columns):
                    return True
                if matching(text_column, row) is None:
                    raise UserError(
                        f"{file}, line {number}: no field {', '.join(map(repr, self._columns))} or {text_column!r}; its "
                        f"fields: {_fields(row)}"
                    )
                break
        return False

    def check(self) -> None:
        """Raise UserError for an unknown encoding, and for files that are invalid at their beginning."""
        check_encoding(self.encoding)
        for file, held in self.files():
            sniff(file, self.encoding)
            next(self._rows(file, held), None)

    def fingerprint(self) -> str:
        """Sha256 over the settings, and the names and contents of the files."""
        names = [f"{file.name} {held}" for file, held in self.files()]
        named = [] if self.teacher_column is None else [f"teacher {self.teacher_column}"]
        return digest(
            ["examples", *self._columns, *names, *encoding_parts(self.encoding), *named],
            [file for file, _ in self.files()],
        )

    def examples(self) -> Iterator[Example]:
        """Stream the rows of each file, in the order of `files`."""
        for file, held in self.files():
            yield from self._rows(file, held)

    def size(self) -> int:
        """Bytes of the files, three times those of compressed ones."""
        sizes = [(file.stat().st_size, file.suffix.lower() in COMPRESSED) for file, _ in self.files()]
        return sum(size * (3 if packed else 1) for size, packed in sizes)

    @property
    def _columns(self) -> tuple[str, str, str]:
        return self.messages_column, self.prompt_column, self.completion_column

    @property
    def _pattern(self) -> str:
        return f'{{"{self.prompt_column}": "...", "{self.completion_column}": "..."}}'

    def _rows(self, file: Path, held: bool | None) -> Iterator[Example]:
        for number, row in json_objects(file, self._pattern, self.encoding):
            where = f"{file}, line {number}"
            teacher = None if self.teacher_column is None else _teacher(row, self.teacher_column, where)
            if (name := matching(self.messages_column, row)) is not None:
                yield Example(where, messages=_messages(row[name], where, name), heldout=held, teacher=teacher)
                continue
            prompt, completion = (_text(row, name, where) for name in (self.prompt_column, self.completion_column))
            if not completion:
                raise UserError(f"{where}: field {self.completion_column!r} is empty: there is nothing to learn")
            yield Example(where, prompt, completion, heldout=held, teacher=teacher)


def _teacher(row: Mapping[str, Any], column: str, where: str) -> str:
    """The teacher that a column names, or its number; UserError where there is none."""
    name = matching(column, row)
    if name is None:
        raise UserError(f"{where}: no field {column!r} (data.teacher_column); its fields: {_fields(row)}")
    if not isinstance(row[name], str | int) or isinstance(row[name], bool) or row[name] == "":
        raise UserError(f"{where}: field {name!r} is {row[name]!r}, not the name or number of a teacher")
    return str(row[name])


def _fields(row: Mapping[str, Any]) -> str:
    return ", ".join(list(map(str, row))[:8]) or "none"


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    """The text of a column; UserError where it is missing or another type."""
    name = matching(column, row)
    if name is None:
        raise UserError(
            f"{where}: no field {column!r}; its fields: {_fields(row)} (data.prompt_column, data.completion_column)"
        )
    if not isinstance(row[name], str):
        raise UserError(f"{where}: field {name!r} is {type(row[name]).__name__}, not text")
    return _writable(row[name])


def _messages(value: Any, where: str, column: str) -> tuple[dict[str, str], ...]:
    """The messages of a conversation; UserError unless they are texts of roles, with a reply after a message."""
    valid = isinstance(value, list) and all(
        isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
        for one in value
    )
    if not valid:
        raise UserError(
            f'{where}: field {column!r} is no list of messages such as {{"role": "user", "content": "..."}}'
        )
    roles = [one["role"] for one in value]
    if REPLY not in roles:
        raise UserError(
            f"{where}: no message of the {REPLY}: there is nothing to learn (roles: {', '.join(roles) or 'none'})"
        )
    if roles[0] == REPLY:
        raise UserError(f"{where}: the first message is the {REPLY}'s; a message of the user stands before a reply")
    return tuple({"role": one["role"], "content": _writable(one["content"])} for one in value)


def _writable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # JSON may escape half a surrogate pair


@dataclass(frozen=True)
class WikipediaParagraphs:
    """Paragraphs of the Wikipedia excerpt: the prompt is the article's title and the paragraph's first sentence.

    `sentences`: the least number of sentences of a paragraph. Paragraphs that are longer than `characters` are left out.
    """

    sentences: Count = 2
    characters: Count = 700

    def check(self) -> None:
        """Raise UserError if gensim, whose package holds the excerpt, is not installed."""
        WikipediaExcerpt().check()

    def fingerprint(self) -> str:
        """Sha256 over the settings and the excerpt."""
        return digest(["paragraphs", self.sentences, self.characters], [], [WikipediaExcerpt().fingerprint()])

    def examples(self) -> Iterator[Example]:
        """Stream the paragraphs of each article."""
        for title, text in mediawiki.articles(WikipediaExcerpt().file()):
            for number, paragraph in enumerate(text.split("\n")):
                first, mark, rest = paragraph.partition(". ")
                enough = paragraph.count(". ") + 1 >= self.sentences
                if mark and rest.strip() and enough and len(paragraph) <= self.characters:
                    yield Example(f"{title}, paragraph {number}", f"{title}\n\n{first}.", f" {rest.strip()}")

    def size(self) -> int:
        """Approximate bytes of text."""
        return WikipediaExcerpt().size()


@dataclass(frozen=True)
class HubExamples:
    """Prompts with completions of a dataset of the Hugging Face Hub, which `datasets` downloads to its own cache.

    `prompt`: columns that are joined by a blank line, empty ones left out; `completion`: a column. `revision` as in
    `kdlab.data.text.sources.HubText`. Rows with an empty completion are left out.
    """

    name: str
    config: str | None
    split: str
    revision: str
    prompt: tuple[str, ...] = ("prompt",)
    completion: str = "completion"

    @property
    def _hub(self) -> HubText:
        return HubText(self.name, self.config, self.split, self.revision, self.completion)

    def check(self) -> None:
        """Raise UserError for an unknown data set or a missing column."""
        features = self._hub.query_hub("load_dataset_builder").info.features
        if features is None:
            return
        for column in (*self.prompt, self.completion):
            if column not in features:
                raise UserError(f"{self.name} has no column {column!r}; its columns: {', '.join(features)}")

    def fingerprint(self) -> str:
        """Sha256 over the settings; the revision pins the text."""
        values = [self.name, self.config, self.split, self.revision, json.dumps(list(self.prompt)), self.completion]
        return digest(["hub examples", *values], [])

    def examples(self) -> Iterator[Example]:
        """Stream the rows in the order of the data set."""
        rows = self._hub.query_hub("load_dataset", split=self.split)
        for number, row in enumerate(rows):
            prompt = "\n\n".join(str(row[column]).strip() for column in self.prompt if row[column])
            if completion := str(row[self.completion] or "").strip():
                yield Example(f"{self.name}, row {number}", f"{prompt}\n\n", completion)

    def size(self) -> None:
        """None: unknown before the download."""
        return None
