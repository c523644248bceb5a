"""TinyBERT's data augmentation (Jiao et al. 2020, Algorithm 1).

Each word of a text gets K candidates: for a word of one token the K most probable words of a masked LM at its position,
for a word of several tokens its K nearest words in a table of word vectors (GloVe, or the model's input embeddings). In
each of N copies every word is replaced with probability p by one of its candidates, drawn uniformly. Choices that the
paper leaves open, and differences from its code:

- A word is a run of letters inside a word of the tokenizer (`don't` is don and t). Digits, punctuation, spaces and
  function words (`FUNCTION_WORDS`) are not replaced, as in the paper's code.
- Candidates are whole words too: no word pieces, special tokens, digits or punctuation, nor the word itself in any
  letter case. They are excluded *before* the best K are taken, so K remain; the paper's code drops pieces afterwards
  and may draw the word itself. In vocabularies with separate tokens for words after a space (RoBERTa), only these
  count.
- The masked LM gets the masked text only, as in Algorithm 1. The paper's code appends the unmasked text as a second
  segment.
- In a pair, copies 0, 2, 4, ... change the first text and copies 1, 3, 5, ... the second, so a row has N copies in
  total; the paper's code makes N of each. Its published values of N are 10 to 30 by task; the paper has 20.
- A copy equal to its original or to an earlier copy is dropped, as in the paper's code, and not drawn again: short
  texts have fewer than N. Neighbours from the table are capitalized if the word is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdlab.data.augmentation.candidates import RULES, CandidateFinder, Word
from kdlab.data.augmentation.word_vectors import WordTable
from kdlab.data.tasks.rows import LabelledRow, TaskData
from kdlab.errors import UserError
from kdlab.runtime.progress import ProgressBar
from kdlab.runtime.seeding import generator
from kdlab.storage.artifacts import ArtifactStore

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SHARD = 250  # source rows of an artifact of candidates


@dataclass(frozen=True)
class AugmentationRecipe:
    """Settings of augmentation; defaults as published.

    `copies`: N of a row; `replace`: probability p to replace a word; `candidates`: K of a word; `max_length`: tokens of
    a text, words beyond them are not replaced; `batch_size`: masked texts of a forward; `seed`: of the draws. UserError
    for values out of range.
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
    """`data` with altered copies of its training rows appended to split "train", and a note of their number.

    A copy names its `origin`. Labels of copies are hidden (None): their only target is the teacher's output. `model`: a masked LM with its head;
    `tokenizer`: of the model; `table`: None for the model's input embeddings. The rows do not depend on the batch size:
    draws depend only on the seed, the texts of the row and the copy.

    Candidates take the most time, so `store` keeps them as artifacts of `SHARD` rows. `parts` identify the model and
    the table in their keys; texts, rules and settings are added here. So a killed job resumes at the last artifact, and
    runs with other seeds, copies and probabilities share them. Progress is reported (`kdlab.runtime.progress`).
    """
    rows = data.splits["train"]
    finder = CandidateFinder(model, tokenizer, table, recipe.candidates, recipe.max_length, recipe.batch_size)
    shards = replace(store, notify=lambda line: store.notify(line) if " is damaged: " in line else None)
    key = {**parts, "rules": RULES, "candidates": recipe.candidates, "max_length": recipe.max_length}
    added: list[LabelledRow] = []
    with ProgressBar("augmenting", len(rows), "rows") as progress:
        for start in range(0, len(rows), SHARD):
            part = rows[start : start + SHARD]
            texts = list(dict.fromkeys(text for row in part for text in row.texts))

            def build(folder: Path, texts: list[str] = texts, first: int = start, size: int = len(part)) -> None:
                _write(folder, texts, finder.find(texts, lambda share: progress.to(first + share * size)))

            digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
            description = f"candidates for rows {start} to {start + len(part) - 1}"
            words = _read(shards.get("augmented", {**key, "texts": digest}, build, description))
            for number, row in enumerate(part, start):
                found = copies(row, [words[text] for text in row.texts], recipe)
                added += [copy._replace(origin=number) for copy in found]
            progress.to(start + len(part))
    note = (
        f"augmented: {len(added):,} copies of {len(rows):,} training rows "
        f"({recipe.copies} each, less {len(rows) * recipe.copies - len(added):,} that changed nothing or came twice)"
    )
    return TaskData(data.shape, {**data.splits, "train": [*rows, *added]}, [*data.notes, note])


def copies(row: LabelledRow, words: Sequence[Sequence[Word]], recipe: AugmentationRecipe) -> Iterator[LabelledRow]:
    """Yield the altered copies of a row, in order; `words` of each of its texts."""
    sides = len(row.texts)
    shapes = [(-(-(recipe.copies - side) // sides), len(side_words), 2) for side, side_words in enumerate(words)]
    draws = [
        torch.rand(shape, generator=generator("augment", recipe.seed, side, *row.texts), dtype=torch.float64).tolist()
        for side, shape in enumerate(shapes)
    ]
    seen = {row.texts}
    for number in range(recipe.copies):
        side = number % sides
        text = _alter(row.texts[side], words[side], draws[side][number // sides], recipe.replace)
        texts = (*row.texts[:side], text, *row.texts[side + 1 :])
        if texts not in seen:
            seen.add(texts)
            yield LabelledRow(texts, None)


def _alter(text: str, words: Sequence[Word], draws: Sequence[Sequence[float]], probability: float) -> str:
    copied, parts = 0, []
    for word, (chance, choice) in zip(words, draws, strict=True):
        if chance < probability:
            parts += [text[copied : word.start], word.candidates[int(choice * len(word.candidates))]]
            copied = word.end
    return "".join([*parts, text[copied:]])


def _write(folder: Path, texts: Sequence[str], candidates: Sequence[Sequence[Word]]) -> None:
    with (folder / "candidates.jsonl").open("w", encoding="utf-8") as file:
        for text, words in zip(texts, candidates, strict=True):
            file.write(json.dumps({"text": text, "words": words}) + "\n")


def _read(folder: Path) -> dict[str, list[Word]]:
    with (folder / "candidates.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {row["text"]: [Word(start, end, tuple(words)) for start, end, words in row["words"]] for row in rows}
