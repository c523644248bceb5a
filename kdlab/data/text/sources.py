"""Sources of text: the embedded Wikipedia excerpt, a folder of files, the Hugging Face Hub, or a mixture of them.

A source is a frozen dataclass of plain values. `check()` raises UserError before any text is loaded, `documents()`
streams texts in a fixed order, `fingerprint()` identifies that text, `size()` estimates its size in bytes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kdlab.data.text import mediawiki
from kdlab.data.text.files import blocks, chunks, grouped, jsonl_rows, matching, parquet_rows, parquet_size
from kdlab.data.text.lines import COMPRESSED, UTF8, check_encoding, encoding_parts, format_of, lines, sniff
from kdlab.errors import UserError, install, nearest
from kdlab.ranges import Count
from kdlab.runtime.progress import redirect_tqdm, track
from kdlab.storage.files import user_path

SUFFIXES = (".txt", ".jsonl", ".parquet")
EXCERPT = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"


class TextSource(Protocol):
    """Interface of a source of text, as `kdlab.data.text.corpus.prepare` uses it."""

    def check(self) -> None:
        """Raise UserError if the text cannot be read, without reading all of it."""
        ...

    def fingerprint(self) -> str:
        """A sha256 that changes whenever the documents could change."""
        ...

    def documents(self) -> Iterator[str]:
        """Stream the documents in a fixed order."""
        ...

    def size(self) -> int | None:
        """Approximate bytes of text; None if unknown before reading."""
        ...


@dataclass(frozen=True)
class WikipediaExcerpt:
    """97 articles, 2.7 MB of prose, from the English Wikipedia export inside gensim's wheel (text CC BY-SA)."""

    def file(self) -> Path:
        """Path of the export, located without importing gensim; UserError if it is not installed."""
        spec = importlib.util.find_spec("gensim")
        for folder in spec.submodule_search_locations or [] if spec else []:
            if (path := Path(folder) / EXCERPT).is_file():
                return path
        raise UserError(
            "the embedded Wikipedia excerpt comes with the package gensim, which is not installed; "
            f"{install('demo')}, or give your own text: data.path=FOLDER"
        )

    def check(self) -> None:
        """Raise UserError if gensim is not installed."""
        self.file()

    def fingerprint(self) -> str:
        """Sha256 over the export and the version of the cleaning (`mediawiki.CLEANING`)."""
        return digest(["excerpt"], [self.file()], [mediawiki.CLEANING])

    def documents(self) -> Iterator[str]:
        """Stream the prose of each article."""
        return (text for _, text in mediawiki.articles(self.file()))

    def size(self) -> int:
        """Approximate bytes of text: twice those of the compressed export."""
        return 2 * self.file().stat().st_size


@dataclass(frozen=True)
class TextFolder:
    """A folder with subfolders of .txt, .jsonl and .parquet files, or one such file; .txt and .jsonl also as .gz or .zst.

    `document`: the unit of a document in a .txt file, the whole `file`, a `block` between blank lines, or a `line`. In
    .jsonl and .parquet a document is a row, with its text in `text_column`. `group`: number of consecutive blocks,
    lines or rows of a file that are joined into one document (BookCorpus has one sentence in a row). A .txt document of
    more than 4 million characters is split at a line's end, so that memory stays bounded. Hidden files are skipped.
    `encoding`: that of .txt and .jsonl.
    """

    path: str
    document: str = "file"
    text_column: str = "text"
    group: Count = 1
    encoding: str = UTF8

    def files(self) -> list[Path]:
        """Text files of the folder, sorted by path, without empty ones. UserError if there is none."""
        root = user_path(self.path)
        if root.is_file():
            files = [root]
        elif root.is_dir():
            files = sorted(
                Path(folder, name)
                for folder, folders, names in os.walk(root, onerror=_unreadable)
                for name in names
                if not any(part.startswith(".") for part in Path(folder, name).relative_to(root).parts)
            )
        else:
            raise UserError(f"data.path: {root} does not exist; give a folder of {', '.join(SUFFIXES)} files, or one")
        texts = [file for file in files if format_of(file) in SUFFIXES]
        if not texts:
            names = ", ".join(file.name for file in files[:3]) + (", ..." if len(files) > 3 else "")
            content = f"it contains {names}" if files else "it is empty"
            raise UserError(f"data.path: no {', '.join(SUFFIXES)} file in {root}: {content}")
        try:
            nonempty = [file for file in texts if file.stat().st_size > 0]
        except OSError as error:
            raise UserError(f"data.path: cannot read {error.filename}: {error.strerror}") from error
        if not nonempty:
            raise UserError(f"data.path: {root} has no text: {texts[0]} is empty")
        return nonempty

    def check(self) -> None:
        """Raise UserError for wrong settings, and for files that are invalid at their beginning."""
        if self.document not in ("file", "block", "line"):
            raise UserError(f"data.document: {self.document!r}; it is file, block or line")
        _check_group(self.group)
        check_encoding(self.encoding)
        for file in self.files():
            if format_of(file) == ".parquet":
                parquet_size(file, self.text_column)
                continue
            sniff(file, self.encoding)
            if format_of(file) == ".jsonl":
                next(jsonl_rows(file, self.text_column, self.encoding), None)

    def fingerprint(self) -> str:
        """Sha256 over the settings, and the names and contents of the files."""
        files = self.files()
        root = user_path(self.path)
        names = [file.relative_to(root).as_posix() if file != root else file.name for file in files]
        settings = [self.document, self.text_column, self.group, *names, *encoding_parts(self.encoding)]
        return digest(settings, files)

    def documents(self) -> Iterator[str]:
        """Stream the documents of each file, in the order of `files`."""
        for file in self.files():
            if format_of(file) == ".parquet":
                pieces = parquet_rows(file, self.text_column)
            elif format_of(file) == ".jsonl":
                pieces = jsonl_rows(file, self.text_column, self.encoding)
            elif self.document == "file":
                yield from chunks(file, self.encoding)
                continue
            else:
                block = self.document == "block"
                pieces = blocks(file, self.encoding) if block else (line for _, line in lines(file, self.encoding))
            yield from grouped(pieces, self.group)

    def size(self) -> int:
        """Bytes of the files, three times those of compressed ones; of .parquet, uncompressed bytes of the text column."""
        parquet = [file for file in self.files() if format_of(file) == ".parquet"]
        others = [file for file in self.files() if file not in parquet]
        sizes = [file.stat().st_size * (3 if file.suffix.lower() in COMPRESSED else 1) for file in others]
        return sum(sizes) + sum(parquet_size(file, self.text_column) for file in parquet)


@dataclass(frozen=True)
class HubText:
    """A text dataset of the Hugging Face Hub, which `datasets` downloads to its own cache.

    `revision`: a full commit hash, or its first seven or more digits, which are resolved on the Hub. `group`: number of
    consecutive rows that are joined into one document. Needs the network, or a filled cache and the full hash.
    """

    name: str
    config: str | None
    split: str
    revision: str
    text_column: str = "text"
    group: Count = 1

    def check(self) -> None:
        """Raise UserError for wrong settings, an unknown data set or a missing column."""
        _check_group(self.group)
        features = self.query_hub("load_dataset_builder").info.features
        if features is not None:
            self._column(features)

    def fingerprint(self) -> str:
        """Sha256 over the settings; the revision pins the text."""
        values = [self.name, self.config, self.split, self.revision, self.text_column, self.group]
        return digest(["hub", *values], [])

    def documents(self) -> Iterator[str]:
        """Stream the rows, or groups of rows, in the order of the data set."""
        rows = self.query_hub("load_dataset", split=self.split)
        column = self._column(rows.column_names)
        rows = rows.select_columns([column])
        texts = (text for batch in rows.iter(1000) for text in batch[column] if text)
        yield from grouped(texts, self.group)

    def size(self) -> None:
        """None: unknown before the download."""
        return None

    def _column(self, names: Iterable[str]) -> str:
        found = matching(self.text_column, names)
        if found is None:
            raise UserError(f"{self.name} has no column {self.text_column!r}; {nearest(self.text_column, names)}")
        return found

    def query_hub(self, loader: str, **options: str) -> Any:
        """Call the function `loader` of `datasets` for this data set; UserError if the Hub cannot be reached."""
        import datasets  # seconds to import, and not needed for local text
        import huggingface_hub
        from datasets.utils import tqdm as bars

        redirect_tqdm(bars, f"{self.name}:")
        redirect_tqdm(huggingface_hub.utils.tqdm, "downloading")
        try:
            revision = self.revision
            if re.fullmatch(r"[0-9a-f]{7,39}", revision):
                commits = huggingface_hub.HfApi().list_repo_commits(self.name, repo_type="dataset")
                matches = [commit.commit_id for commit in commits if commit.commit_id.startswith(revision)]
                if len(matches) != 1:
                    raise ValueError(f"{len(matches)} commits begin with {revision}")
                revision = matches[0]
            return getattr(datasets, loader)(self.name, self.config, revision=revision, **options)
        except Exception as error:  # the Hub's client raises some twenty classes of errors
            raise UserError(
                f"cannot get {self.name} (revision {self.revision}) from the Hugging Face Hub: "
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}; "
                "without the network, give a local folder of the same files: data.path=FOLDER"
            ) from error


@dataclass(frozen=True)
class Mixture:
    """Concatenation of several sources (Wikipedia + BookCorpus); training shuffles their sequences."""

    sources: Sequence[TextSource]

    def check(self) -> None:
        """Raise UserError if there is no source, or for a source that cannot be read."""
        if not self.sources:
            raise UserError("a mixture needs at least one source")
        for source in self.sources:
            source.check()

    def fingerprint(self) -> str:
        """Sha256 over the fingerprints of the sources."""
        return digest(["mixture", *(source.fingerprint() for source in self.sources)], [])

    def documents(self) -> Iterator[str]:
        """Stream the documents of each source in turn."""
        for source in self.sources:
            yield from source.documents()

    def size(self) -> int | None:
        """Sum of the sizes of the sources; None if one is unknown."""
        sizes = [source.size() for source in self.sources]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def _check_group(group: int) -> None:
    if group < 1:
        raise UserError(f"data.group: {group}; it is the number of rows in a document, at least 1")


def _unreadable(error: OSError) -> None:
    raise UserError(f"data.path: cannot read the folder {error.filename}: {error.strerror}")


def digest(values: Iterable[object], files: Iterable[Path], digests: Iterable[str] = ()) -> str:
    """Sha256 over plain `values`, the sha256 of each of `files`, and further `digests` in hexadecimal."""
    total = hashlib.sha256(json.dumps(list(values)).encode())
    for path in track(files, "reading the text once, for its fingerprint", "files"):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    for digest in digests:
        total.update(bytes.fromhex(digest))
    return total.hexdigest()
