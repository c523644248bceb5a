"""More text from given text: TinyBERT's data augmentation (Jiao et al. 2020, Algorithm 1).

Each word of a text gets K candidates: a word of one piece the K most probable words a masked LM gives in its place, a
word of several pieces its K nearest words in a table of word vectors (GloVe, or the model's own input embeddings). In
each of N copies every word is replaced with probability p by one of its candidates, drawn uniformly. What the paper
leaves open, or its code does otherwise:

- A word is a run of letters inside a word of the tokenizer (`don't` is don and t). Digits, punctuation and spacing stay
  as written, and so do function words (`FUNCTION_WORDS`); the paper's code too passes over all of these.
- Candidates are whole words too: no pieces, special tokens, digits or punctuation, nor the word itself in any letter
  case. They are left out *before* the best K are taken, so K remain; the paper's code drops pieces afterwards and may
  draw the word itself. Where vocabularies tell words after a space from others (RoBERTa), the former are taken.
- The masked LM sees the masked text alone, as in Algorithm 1. The paper's code appends the unmasked text as a second
  segment.
- Of a pair, copy 0, 2, 4, ... changes the first text and copy 1, 3, 5, ... the second, so a row has N copies in all; the
  paper's code makes N of each. Public values of N there are 10 to 30 by task; 20 is the paper's.
- A copy equal to its original or to an earlier copy is dropped, as in the paper's code, and not drawn anew: short texts
  have fewer than N. Neighbours from the table take a capital where the word begins with one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdlab.data.augmentation.candidates import RULES, Candidates, Word
from kdlab.data.augmentation.word_vectors import WordTable
from kdlab.data.tasks.rows import LabelledRow, TaskData
from kdlab.errors import UserError
from kdlab.runtime.progress import ProgressBar
from kdlab.runtime.seeding import generator
from kdlab.storage.artifacts import ArtifactStore

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SHARD = 250  # source rows whose candidates are one artifact


@dataclass(frozen=True)
class AugmentationRecipe:
    """N `copies` of a row, each word replaced with probability `replace`, by one of K `candidates`; defaults as published.

    Words beyond the first `max_length` tokens of a text stay. `batch_size` masked texts go through the model at once.
    UserError for values out of range.
    """

    copies: int = 20
    replace: float = 0.4
    candidates: int = 15
    max_length: int = 128
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("copies", "candidates", "max_length", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"augmentation: {name}={getattr(self, name)}; it must be 1 or more")
        if not 0 < self.replace <= 1:
            raise UserError(f"augmentation: replace={self.replace}; a probability above 0 and at most 1 is needed")


def augmented(
    data: TaskData,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    recipe: AugmentationRecipe,
    table: WordTable | None,
    store: ArtifactStore,
    parts: Mapping[str, Any],
) -> TaskData:
    """`data` with the altered copies of its rows behind those of split "train", and a note of their number.

    Labels of copies are hidden (None): only the teacher's answers teach them. `model` is a masked LM with its head,
    `tokenizer` its own; `table` None means the model's input embeddings. The same arguments give the same rows, whatever
    the batch size: draws depend on the seed, the texts of the row and the copy alone.

    What takes the time, the candidates, is kept in `store` by shards of `SHARD` rows: `parts` name the model and the
    table, their texts and what else decides them is added here. So a job that was killed goes on where it was, and other
    seeds, numbers of copies and probabilities share them. It tells how far it is
    (`kdlab.runtime.progress`).
    """
    rows = data.splits["train"]
    maker = Candidates(model, tokenizer, table, recipe.candidates, recipe.max_length, recipe.batch_size)
    shards = replace(store, notify=lambda line: store.notify(line) if " is damaged: " in line else None)
    key = {**parts, "rules": RULES, "candidates": recipe.candidates, "max_length": recipe.max_length}
    made: list[LabelledRow] = []
    with ProgressBar("augmenting", len(rows), "rows") as told:
        for start in range(0, len(rows), SHARD):
            part = rows[start : start + SHARD]
            texts = list(dict.fromkeys(text for row in part for text in row.texts))

            def build(folder: Path, texts: list[str] = texts, first: int = start, size: int = len(part)) -> None:
                _write(folder, texts, maker.of(texts, lambda share: told.to(first + share * size)))

            digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
            what = f"candidates for rows {start} to {start + len(part) - 1}"
            words = _read(shards.get("augmented", {**key, "texts": digest}, build, what))
            for row in part:
                made += copies(row, [words[text] for text in row.texts], recipe)
            told.to(start + len(part))
    note = (
        f"augmented: {len(made):,} copies of {len(rows):,} training rows "
        f"({recipe.copies} each, less {len(rows) * recipe.copies - len(made):,} that changed nothing or came twice)"
    )
    return TaskData(data.shape, {**data.splits, "train": [*rows, *made]}, [*data.notes, note])


def copies(row: LabelledRow, words: Sequence[Sequence[Word]], recipe: AugmentationRecipe) -> Iterator[LabelledRow]:
    """The altered copies of a row, in order; `words` are those of each of its texts."""
    sides = len(row.texts)
    shapes = [(-(-(recipe.copies - side) // sides), len(some), 2) for side, some in enumerate(words)]
    draws = [
        torch.rand(shape, generator=generator("augment", recipe.seed, side, *row.texts), dtype=torch.float64).tolist()
        for side, shape in enumerate(shapes)
    ]
    known = {row.texts}
    for number in range(recipe.copies):
        side = number % sides
        text = _altered(row.texts[side], words[side], draws[side][number // sides], recipe.replace)
        texts = (*row.texts[:side], text, *row.texts[side + 1 :])
        if texts not in known:
            known.add(texts)
            yield LabelledRow(texts, None)


def _altered(text: str, words: Sequence[Word], draws: Sequence[Sequence[float]], probability: float) -> str:
    done, parts = 0, []
    for word, (chance, choice) in zip(words, draws, strict=True):
        if chance < probability:
            parts += [text[done : word.start], word.candidates[int(choice * len(word.candidates))]]
            done = word.end
    return "".join([*parts, text[done:]])


def _write(folder: Path, texts: Sequence[str], found: Sequence[Sequence[Word]]) -> None:
    with (folder / "candidates.jsonl").open("w", encoding="utf-8") as file:
        for text, words in zip(texts, found, strict=True):
            file.write(json.dumps({"text": text, "words": words}) + "\n")


def _read(folder: Path) -> dict[str, list[Word]]:
    with (folder / "candidates.jsonl").open(encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    return {line["text"]: [Word(start, end, tuple(some)) for start, end, some in line["words"]] for line in found}
