"""What may stand in place of a word: a masked LM's guesses, or its neighbours in a table (`kdlab.data.augmentation.tinybert` says the rules).

L tokens of a text, V tokens of the vocabulary, W of them whole words.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from kdlab.data.augmentation.word_vectors import WORD, WordScores, WordTable
from kdlab.errors import UserError
from kdlab.models.encoder import Encoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

RULES = 1  # of what a word and a candidate are: raised when they change, so that kept candidates are not reused
QUERIES = 256  # words looked up in the table at once

_ENGLISH = """
a an the this that these those each every either neither some any no none all both such
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
herself it its itself they them their theirs themselves who whom whose which what
am is are was were be been being have has had having do does did doing can could will would shall should may might
must ought cannot
and but or nor if because as while until unless although though than whether so yet
of at by for with about against between into through during before after above below to from up down in out on off
over under upon within without among
not only very too just also then there here when where why how again once more most other own same
s t d m ll re ve don doesn didn isn aren wasn weren hasn haven hadn won wouldn couldn shouldn mustn
"""
FUNCTION_WORDS = frozenset(_ENGLISH.split())  # English, with what the tokenizers leave of don't, she's, we'll


class Word(NamedTuple):
    """A word of a text, `text[start:end]`, and what may stand in its place."""

    start: int
    end: int
    candidates: tuple[str, ...]


class _Slot(NamedTuple):
    """A word in a tokenised text: its place in the text, its pieces `first` to `after` - 1."""

    start: int
    end: int
    first: int
    after: int


class Candidates:
    """Finds the `count` best candidates for the words of texts; `table` None: the model's input embeddings.

    There a split word's vector is the mean of its pieces' embeddings, and the words are those of the vocabulary. In
    another table it is the table's own; a split word it does not have gets no candidates. UserError for a `max_length`
    that leaves no room or is more than the tokenizer's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        table: WordTable | None,
        count: int,
        max_length: int,
        batch_size: int,
    ) -> None:
        special = tokenizer.num_special_tokens_to_add(pair=False)
        if not special < max_length <= tokenizer.model_max_length:
            raise UserError(
                f"augmentation: max_length={max_length}; a text has {special} special tokens, and the tokenizer's "
                f"longest sequence is {tokenizer.model_max_length}"
            )
        self.model, self.tokenizer = model, copy.deepcopy(tokenizer)  # truncation is state of it
        self.count, self.max_length, self.batch_size = count, max_length, batch_size
        pad: Any = tokenizer.pad_token_id
        mask: Any = tokenizer.mask_token_id
        self._pad, self._mask = int(pad or 0), int(mask)
        self._given = table
        self._near: dict[tuple[str, tuple[int, ...]], tuple[str, ...]] = {}

    @cached_property
    def _whole(self) -> tuple[Tensor, WordScores]:
        """Token ids (W,) of the vocabulary's whole words, and those words."""
        found = whole_words(self.tokenizer, len(self._embeddings))
        return torch.tensor(list(found), dtype=torch.int64), WordScores(list(found.values()))

    @cached_property
    def _table(self) -> WordTable:
        if self._given is not None:
            return self._given
        ids, words = self._whole
        return WordTable(words.names, self._embeddings[ids])

    @cached_property
    def _embeddings(self) -> Tensor:
        weight: Any = self.model.get_input_embeddings().weight
        return weight.detach().float().cpu()

    def of(self, texts: Sequence[str], told: Callable[[float], None] = lambda share: None) -> list[list[Word]]:
        """The words of each text that have candidates, in order; `told` hears the share that is done."""
        made: Any = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_length, split_special_tokens=True, verbose=False
        )
        slots = [list(_slots(text, row)) for text, row in zip(texts, made.encodings, strict=True)]
        ids = [row.ids for row in made.encodings]
        found = self._masked(texts, ids, slots, told) | self._neighbours(texts, ids, slots)
        return [
            [Word(slot.start, slot.end, found[i, slot]) for slot in some if found.get((i, slot))]
            for i, some in enumerate(slots)
        ]

    @torch.no_grad()
    def _masked(
        self,
        texts: Sequence[str],
        ids: Sequence[list[int]],
        slots: Sequence[list[_Slot]],
        told: Callable[[float], None],
    ) -> dict[tuple[int, _Slot], tuple[str, ...]]:
        """Candidates of the words of one piece: texts of like length together, logits at the masked places only."""
        jobs = [(i, slot) for i, some in enumerate(slots) for slot in some if slot.after - slot.first == 1]
        jobs.sort(key=lambda job: (len(ids[job[0]]), job[0]))
        training, device = self.model.training, self.model.device
        encoder = Encoder(self.model).eval()
        found: dict[tuple[int, _Slot], tuple[str, ...]] = {}
        try:
            for start in range(0, len(jobs), self.batch_size):
                batch = jobs[start : start + self.batch_size]
                lengths = torch.tensor([len(ids[i]) for i, _ in batch])
                rows, places = torch.arange(len(batch)), torch.tensor([slot.first for _, slot in batch])
                mask = (torch.arange(int(lengths.max())) < lengths.unsqueeze(1)).long()
                input_ids = torch.full(mask.shape, self._pad)
                input_ids[mask.bool()] = torch.tensor([token for i, _ in batch for token in ids[i]])
                input_ids[rows, places] = self._mask
                hidden = self.model.base_model(input_ids=input_ids.to(device), attention_mask=mask.to(device))
                logits = encoder.project(hidden.last_hidden_state[rows.to(device), places.to(device)])
                tokens, words = self._whole
                asked = [texts[i][slot.start : slot.end] for i, slot in batch]
                found |= zip(batch, words.best(logits[:, tokens.to(device)].float(), asked, self.count), strict=True)
                told((start + len(batch)) / len(jobs))
        finally:
            self.model.train(training)
        return found

    def _neighbours(
        self, texts: Sequence[str], ids: Sequence[list[int]], slots: Sequence[list[_Slot]]
    ) -> dict[tuple[int, _Slot], tuple[str, ...]]:
        """Candidates of the words of several pieces; the same word is looked up once."""
        wanted = {
            (i, slot): (texts[i][slot.start : slot.end], tuple(ids[i][slot.first : slot.after]))
            for i, some in enumerate(slots)
            for slot in some
            if slot.after - slot.first > 1
        }
        new = [(key, self._vector(*key)) for key in dict.fromkeys(wanted.values()) if key not in self._near]
        known = [(key, vector) for key, vector in new if vector is not None]
        for start in range(0, len(known), QUERIES):
            keys, vectors = zip(*known[start : start + QUERIES], strict=True)
            near = self._table.nearest(torch.stack(vectors), [word for word, _ in keys], self.count)
            self._near |= {
                key: tuple(_capital(key[0], one) for one in some) for key, some in zip(keys, near, strict=True)
            }
        return {job: self._near.get(key, ()) for job, key in wanted.items()}

    def _vector(self, word: str, pieces: tuple[int, ...]) -> Tensor | None:
        return self._embeddings[list(pieces)].mean(0) if self._given is None else self._given.vector(word)


def whole_words(tokenizer: PreTrainedTokenizerFast, size: int) -> dict[int, str]:
    """The tokens below `size` that are whole words, by id: letters which, after a space, are tokenised to that token."""
    written = {i: str(tokenizer.decode([i])).strip() for i in range(min(size, len(tokenizer)))}
    special = set(tokenizer.all_special_ids)
    words = {i: text for i, text in written.items() if WORD.fullmatch(text) and i not in special}
    if not words:
        raise UserError("the tokenizer's vocabulary has no whole words, which augmentation takes its candidates from")
    again: Any = tokenizer(
        [f" {text}" for text in words.values()], add_special_tokens=False, split_special_tokens=True, truncation=False
    )
    return {i: text for (i, text), ids in zip(words.items(), again["input_ids"], strict=True) if ids == [i]}


def _slots(text: str, row: Any) -> Iterator[_Slot]:
    """The words of a tokenised text that may be replaced: wholly within it, and cut where the tokenizer's tokens are."""
    cut = next((word for word in row.overflowing[0].word_ids if word is not None), None) if row.overflowing else None
    for number, some in groupby(range(len(row.ids)), key=row.word_ids.__getitem__):
        if number is None or number == cut:
            continue
        tokens = [(i, *_trimmed(text, *row.offsets[i])) for i in some]
        for run in WORD.finditer(text, tokens[0][1], tokens[-1][2]):
            pieces = [token for token in tokens if token[1] < run.end() and token[2] > run.start()]
            exact = pieces and pieces[0][1] == run.start() and pieces[-1][2] == run.end()
            if exact and run.group().lower() not in FUNCTION_WORDS:
                yield _Slot(run.start(), run.end(), pieces[0][0], pieces[-1][0] + 1)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the space before it, which some tokenizers count in."""
    while start < end and text[start].isspace():
        start += 1
    return start, end


def _capital(word: str, candidate: str) -> str:
    return candidate[:1].upper() + candidate[1:] if word[:1].isupper() and candidate.islower() else candidate
