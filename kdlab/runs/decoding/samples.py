"""Continuations of held-out prompts by a run's student, in samples.jsonl of its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.storage.files import atomic_write_text
from kdlab.types import IGNORE

if TYPE_CHECKING:
    from kdlab.runs.prepare import PreparedRun

FILE = "samples.jsonl"
PROMPT = 32  # tokens of a text that the student continues
TOKENS = 48  # tokens that it may add
COLUMNS = ("prompt", "student", "reference")


def write(prepared: PreparedRun) -> None:
    """Let the saved student continue `data.samples` held-out prompts greedily, and write them with their references.

    The prompt of an example is its own; that of a text its first tokens.
    """
    count = prepared.config.data.samples
    if not count:
        return
    from kdlab.models.loading import load_causal_lm
    from kdlab.modules.causal.generation import continuations

    tokenizer: Any = prepared.stage.inputs.tokenizer
    model = load_causal_lm(prepared.folder / "student").eval()
    rows: Any = prepared.data.heldout
    examples = hasattr(prepared.stage.inputs.source, "examples")
    chosen = np.unique(np.linspace(0, len(rows) - 1, count).astype(int)).tolist()
    pairs = [prompt_of(*rows[row], examples=examples) for row in chosen]
    texts = continuations(model, tokenizer, [prompt for prompt, _ in pairs], TOKENS)
    lines = []
    for (prompt, reference), text in zip(pairs, texts, strict=True):
        values = (tokenizer.decode(prompt), text, tokenizer.decode(reference, skip_special_tokens=True))
        lines.append(json.dumps(dict(zip(COLUMNS, values, strict=True)), ensure_ascii=False))
    atomic_write_text(prepared.folder / FILE, "\n".join(lines) + "\n")


def prompt_of(ids: np.ndarray, labels: np.ndarray, numbers: np.ndarray, examples: bool) -> tuple[list[int], list[int]]:
    """(prompt, reference) of the first document of a row: all before its first label and the tokens that are labels in one
    stretch; of a text its beginning and what follows."""
    own = int((numbers == 0).sum())
    labelled = labels[:own] != IGNORE
    first = int(np.argmax(labelled)) + 1  # the position that predicts it belongs to the prompt
    stop = first + int(np.argmin(labelled[first:]))  # no label stands at the last token
    cut = first if examples else max(first, min(PROMPT, own // 2))
    return ids[:cut].tolist(), ids[cut : min(stop + 1, cut + TOKENS)].tolist()


def read(folder: Path) -> list[dict[str, str]]:
    """The samples of a run folder; none where it has no such file."""
    file = folder / FILE
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
