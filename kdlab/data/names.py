"""Names of data sets, as readers know them: of an official task, of a folder, of a corpus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdlab.data.tasks.registry import TASKS, plain_name

# sources by the name of their class, which old results have as `data.source`
SOURCES = {
    "WordNetGlosses": "WordNet nouns",
    "WikipediaExcerpt": "Wikipedia excerpt",
    "Mixture": "a mixture of texts",
    "HubText": "text of the Hub",
    "WikipediaParagraphs": "Wikipedia paragraphs",
    "ExampleFolder": "prompts and completions",
    "HubExamples": "prompts and completions of the Hub",
    "TaskFolder": "labelled rows",
    "TextFolder": "text files",
    "TaskHub": "labelled rows of the Hub",
}
GIVEN_ROWS = "given_rows"  # the kind of the artifacts that hold rows which lay in memory (`kdlab.distill`)


def data_name(task: str | None, path: str | None, source: Any) -> str:
    """The name of a data set: the published one of an official `task`, that of its folder or file, else of its source.

    `source`: the name of its class, the configuration's mapping with a `_target_`, or null.
    """
    if task:
        known = TASKS.get(plain_name(task))
        return known.title if known else task
    if path and Path(path).parent.name == GIVEN_ROWS:
        return f"rows in memory {Path(path).name[:6]}"
    if path:
        return Path(path).name or str(Path(path))
    if isinstance(source, Mapping):
        if parts := source.get("sources"):
            return " and ".join(data_name(None, None, part) for part in parts)
        if name := source.get("name"):
            return str(name)
        source = str(source.get("_target_", "")).rpartition(".")[2]
    return SOURCES.get(str(source), str(source)) if source else "no data"


def name_in(data: Mapping[str, Any]) -> str:
    """The name of the data set of a result.json, from its entry `data`."""
    return str(data.get("name") or data_name(data.get("task"), data.get("path"), data.get("source")))
