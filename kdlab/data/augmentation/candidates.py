"""Find replacement candidates of words: predictions of a masked LM, or nearest neighbours in a table of word vectors.

`kdlab.data.augmentation.tinybert` documents the rules. L tokens of a text, V tokens of the vocabulary, W of them are
whole words.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from kdlab.data.augmentation.word_vectors import WORD, WordRanking, WordTable
from kdlab.errors import UserError
from kdlab.models.encoder import Encoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# version of the rules for words and candidates: increment it if they change, so that stored candidates are not reused
RULES = 1
QUERIES = 256  # words of a lookup in the table

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
FUNCTION_WORDS = frozenset(_ENGLISH.split())  # English, with the parts into which tokenizers split don't, she's, we'll


class Word(NamedTuple):
    """A word of a text, `text[start:end]`, and its replacement candidates."""

    start: int
    end: int
    candidates: tuple[str, ...]


class _Span(NamedTuple):
    """A word in a tokenised text: characters `start` to `end` - 1, tokens `first` to `after` - 1."""

    start: int
    end: int
    first: int
    after: int


class CandidateFinder:
    """Find the `count` best candidates for the words of texts.

    `table`: word vectors for words of several tokens; words that it lacks get no candidates. None: the model's input
    embeddings of the vocabulary's words; the vector of a word is then the mean over its tokens. UserError for a
    `max_length` too short for the special tokens or above the tokenizer's.
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
        self.model, self.tokenizer = model, copy.deepcopy(tokenizer)  # truncation is state of the tokenizer
        self.count, self.max_length, self.batch_size = count, max_length, batch_size
        pad: Any = tokenizer.pad_token_id
        mask: Any = tokenizer.mask_token_id
        self._pad, self._mask = int(pad or 0), int(mask)
        self._explicit_table = table
        self._near: dict[tuple[str, tuple[int, ...]], tuple[str, ...]] = {}

    @cached_property
    def _whole(self) -> tuple[Tensor, WordRanking]:
        """Token ids (W,) of the vocabulary's whole words, and these words."""
        words = whole_words(self.tokenizer, len(self._embeddings))
        return torch.tensor(list(words), dtype=torch.int64), WordRanking(list(words.values()))

    @cached_property
    def _table(self) -> WordTable:
        if self._explicit_table is not None:
            return self._explicit_table
        ids, words = self._whole
        return WordTable(words.names, self._embeddings[ids])

    @cached_property
    def _embeddings(self) -> Tensor:
        weight: Any = self.model.get_input_embeddings().weight
        return weight.detach().float().cpu()

    def find(self, texts: Sequence[str], report: Callable[[float], None] = lambda share: None) -> list[list[Word]]:
        """Words of each text that have candidates, in order; `report` is called with the share of work done."""
        encoding: Any = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_length, split_special_tokens=True, verbose=False
        )
        spans = [list(_spans(text, row)) for text, row in zip(texts, encoding.encodings, strict=True)]
        ids = [row.ids for row in encoding.encodings]
        candidates = self._predictions(texts, ids, spans, report) | self._neighbours(texts, ids, spans)
        return [
            [Word(span.start, span.end, candidates[i, span]) for span in row if candidates.get((i, span))]
            for i, row in enumerate(spans)
        ]

    @torch.no_grad()
    def _predictions(
        self,
        texts: Sequence[str],
        ids: Sequence[list[int]],
        spans: Sequence[list[_Span]],
        report: Callable[[float], None],
    ) -> dict[tuple[int, _Span], tuple[str, ...]]:
        """Candidates for words of one token: batches of texts of similar length, logits at masked positions only."""
        jobs = [(i, span) for i, row in enumerate(spans) for span in row if span.after - span.first == 1]
        jobs.sort(key=lambda job: (len(ids[job[0]]), job[0]))
        training, device = self.model.training, self.model.device
        encoder = Encoder(self.model).eval()
        candidates: dict[tuple[int, _Span], tuple[str, ...]] = {}
        try:
            for start in range(0, len(jobs), self.batch_size):
                batch = jobs[start : start + self.batch_size]
                lengths = torch.tensor([len(ids[i]) for i, _ in batch])
                rows, places = torch.arange(len(batch)), torch.tensor([span.first for _, span in batch])
                mask = (torch.arange(int(lengths.max())) < lengths.unsqueeze(1)).long()
                input_ids = torch.full(mask.shape, self._pad)
                input_ids[mask.bool()] = torch.tensor([token for i, _ in batch for token in ids[i]])
                input_ids[rows, places] = self._mask
                hidden = self.model.base_model(input_ids=input_ids.to(device), attention_mask=mask.to(device))
                logits = encoder.project(hidden.last_hidden_state[rows.to(device), places.to(device)])
                tokens, words = self._whole
                queries = [texts[i][span.start : span.end] for i, span in batch]
                best = words.best(logits[:, tokens.to(device)].float(), queries, self.count)
                candidates |= zip(batch, best, strict=True)
                report((start + len(batch)) / len(jobs))
        finally:
            self.model.train(training)
        return candidates

    def _neighbours(
        self, texts: Sequence[str], ids: Sequence[list[int]], spans: Sequence[list[_Span]]
    ) -> dict[tuple[int, _Span], tuple[str, ...]]:
        """Candidates for words of several tokens; each distinct word is looked up once."""
        jobs = {
            (i, span): (texts[i][span.start : span.end], tuple(ids[i][span.first : span.after]))
            for i, row in enumerate(spans)
            for span in row
            if span.after - span.first > 1
        }
        new = [(key, self._vector(*key)) for key in dict.fromkeys(jobs.values()) if key not in self._near]
        known = [(key, vector) for key, vector in new if vector is not None]
        for start in range(0, len(known), QUERIES):
            keys, vectors = zip(*known[start : start + QUERIES], strict=True)
            near = self._table.nearest(torch.stack(vectors), [word for word, _ in keys], self.count)
            self._near |= {
                key: tuple(_match_case(key[0], word) for word in words) for key, words in zip(keys, near, strict=True)
            }
        return {job: self._near.get(key, ()) for job, key in jobs.items()}

    def _vector(self, word: str, pieces: tuple[int, ...]) -> Tensor | None:
        return (
            self._embeddings[list(pieces)].mean(0)
            if self._explicit_table is None
            else self._explicit_table.vector(word)
        )


def whole_words(tokenizer: PreTrainedTokenizerFast, size: int) -> dict[int, str]:
    """Tokens with ids below `size` that are whole words: letters that, after a space, tokenise to this one token."""
    written = {i: str(tokenizer.decode([i])).strip() for i in range(min(size, len(tokenizer)))}
    special = set(tokenizer.all_special_ids)
    words = {i: text for i, text in written.items() if WORD.fullmatch(text) and i not in special}
    if not words:
        raise UserError("the tokenizer's vocabulary has no whole words, and augmentation needs them as candidates")
    encoding: Any = tokenizer(
        [f" {text}" for text in words.values()], add_special_tokens=False, split_special_tokens=True, truncation=False
    )
    return {i: text for (i, text), ids in zip(words.items(), encoding["input_ids"], strict=True) if ids == [i]}


def _spans(text: str, row: Any) -> Iterator[_Span]:
    """Replaceable words of a tokenised text: not truncated, and with boundaries between tokens."""
    cut = next((word for word in row.overflowing[0].word_ids if word is not None), None) if row.overflowing else None
    for number, indices in groupby(range(len(row.ids)), key=row.word_ids.__getitem__):
        if number is None or number == cut:
            continue
        tokens = [(i, *_trim(text, *row.offsets[i])) for i in indices]
        for run in WORD.finditer(text, tokens[0][1], tokens[-1][2]):
            inside = [token for token in tokens if token[1] < run.end() and token[2] > run.start()]
            exact = inside and inside[0][1] == run.start() and inside[-1][2] == run.end()
            if exact and run.group().lower() not in FUNCTION_WORDS:
                yield _Span(run.start(), run.end(), inside[0][0], inside[-1][0] + 1)


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Remove leading white space from a span, which some tokenizers include in a token."""
    while start < end and text[start].isspace():
        start += 1
    return start, end


def _match_case(word: str, candidate: str) -> str:
    return candidate[:1].upper() + candidate[1:] if word[:1].isupper() and candidate.islower() else candidate
