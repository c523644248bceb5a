"""A view of the artifact store for a forecast: it reads what is there, makes rows and converts models in a temporary folder, and trains nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdlab.data.tasks.rows import limited
from kdlab.models import loading
from kdlab.stages.inputs import Inputs
from kdlab.stages.preparation import Preparation, forward_fields
from kdlab.storage.artifacts import ArtifactStore, key_of

# kinds of artifacts that a forecast makes, in its temporary folder
ROWS = ("task", "length", "reading", "corpus", "model")
MOST_ROWS = 20_000  # training rows of a task that a forecast tokenises where no run has yet
MOST_TEXT = 20_000_000  # characters of a text


class NotPrepared(Exception):
    """An artifact that a run would train or make first. `kind` and `key`: of the artifact, `stage`: its title in tables."""

    def __init__(self, kind: str, key: str, stage: str) -> None:
        super().__init__(f"{stage} is not made yet")
        self.kind, self.key, self.stage = kind, key, stage


@dataclass
class TemporaryRows(ArtifactStore):
    """The store at `root`, with rows and converted models that it lacks in the folder `temporary`. `seconds`: those it took
    to make them; `made`: their folders."""

    temporary: Path = Path()
    seconds: float = 0.0
    made: dict[str, Path] = field(default_factory=dict)

    def get(self, kind: str, parts: Mapping[str, Any], build: Callable[[Path], None], what: str = "") -> Path:
        """The folder of an artifact; NotPrepared for one that is neither there nor made of rows."""
        found = self.find(kind, parts)
        if found is not None:
            return found
        key = key_of(self.canonical(parts))
        if kind not in ROWS or "augment" in parts:
            raise NotPrepared(kind, key, what)
        if key not in self.made:
            began, folder = time.perf_counter(), self.temporary / kind / key
            folder.mkdir(parents=True)
            build(folder)
            self.made[key] = folder
            self.seconds += time.perf_counter() - began
        return self.made[key]

    def find(self, kind: str, parts: Mapping[str, Any]) -> Path | None:
        """The folder of an artifact that is there, or that was made for this forecast; else None."""
        return super().find(kind, parts) or self.made.get(key_of(self.canonical(parts)))


class FoundPreparation(Preparation):
    """Prerequisites that are there; NotPrepared for one that is not."""

    def get(
        self,
        kind: str,
        parts: Mapping[str, Any],
        build: Callable[[Path], dict[str, Any]],
        what: str,
        stage: str,
        baseline: bool = False,
        config: Any = None,
    ) -> Path:
        """The folder of a trained artifact that is in the store, as `Preparation.get`."""
        folder = self.store.find(kind, parts)
        fields = None if config is None else forward_fields(config)
        if (
            folder is not None
            and fields is not None
            and forward_fields(loading.load_config(folder, causal=None)) != fields
        ):
            parts = {**parts, "config": fields}
            folder = self.store.find(kind, parts)
        if folder is None:
            raise NotPrepared(kind, key_of(self.store.canonical(parts)), stage)
        self.record(folder, stage, False, baseline)
        return folder


class BeginningOfText:
    """A source of text that ends after `MOST_TEXT` characters. `whole`: True once all of its text was read."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.whole, self.read = True, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def documents(self) -> Iterator[str]:
        """Stream the first documents."""
        self.read = 0
        for text in self._source.documents():
            if self.read >= MOST_TEXT:
                self.whole = False
                return
            self.read += len(text)
            yield text


def only_some_rows(inputs: Inputs) -> Callable[[], float]:
    """Let `inputs` read at most `MOST_ROWS` rows, or `MOST_TEXT` characters, where they are not tokenised yet.

    Returns a function that tells, once they are, how many times as many there are in all.
    """
    if inputs.head.per_row:
        if inputs.store.find("task", inputs.task_parts) is not None:  # pyright: ignore[reportAttributeAccessIssue]
            return lambda: 1.0
        rows = inputs.rows  # pyright: ignore[reportAttributeAccessIssue]
        _ = inputs.max_length  # chosen from all rows
        count = len(rows.splits["train"])
        inputs.__dict__["rows"] = limited(rows, MOST_ROWS)
        return lambda: count / min(count, MOST_ROWS)
    if inputs.store.find("corpus", inputs.corpus_parts) is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return lambda: 1.0
    if not hasattr(inputs.source, "documents"):  # prompts with completions are read in one go
        return lambda: 1.0
    beginning = BeginningOfText(inputs.source)
    inputs.__dict__["source"] = beginning

    def times() -> float:
        size = beginning.size()
        return 1.0 if beginning.whole or not size else max(1.0, size / beginning.read)

    return times
