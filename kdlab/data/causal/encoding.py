"""Tokens of documents and examples, and which of them are to be predicted."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kdlab.data.causal.example import REPLY, Example
from kdlab.data.text.tokenization import encoder, tokenised
from kdlab.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 500  # examples of a call of the tokenizer
REFUSE, DROP = "refuse", "drop"  # what befalls an example whose prompt leaves no room for its completion


class Document(NamedTuple):
    """A tokenised document: `ids` (n,) int32; `targets` (n,) bool, the tokens that are to be predicted.

    `key`: the same for documents that must stay on one side of the split; `heldout`: its side, None where a share decides.
    `cut`: tokens that were cut off at its end. `teacher`: as of the `Example`.
    """

    ids: np.ndarray
    targets: np.ndarray
    key: int
    heldout: bool | None = None
    cut: int = 0
    teacher: str | None = None


def key_of(ids: np.ndarray) -> int:
    """A 63-bit hash of token ids."""
    return int.from_bytes(hashlib.blake2b(ids.astype("<i4").tobytes(), digest_size=8).digest(), "little") >> 1


def ends(tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray]:
    """Tokens at the beginning of a document, as the tokenizer puts them there (often none), and its end token, int32.

    UserError for a tokenizer without an end token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError(f"the tokenizer {type(tokenizer).__name__} has no end token (eos_token), which ends a document")
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    given = tokenizer("a")["input_ids"]
    begin = given[: given.index(plain[0])] if plain and plain[0] in given else []  # pyright: ignore[reportAttributeAccessIssue]
    return np.array(begin, dtype=np.int32), np.array([end], dtype=np.int32)


def text_documents(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[Document]:
    """Tokenise plain texts: every token after the first is to be predicted, the end token too."""
    begin, end = ends(tokenizer)
    for tokens in tokenised(texts, tokenizer):
        if len(tokens):
            ids = np.concatenate((begin, tokens, end))
            targets = np.arange(len(ids)) >= max(1, len(begin))
            yield Document(ids, targets, key_of(ids))


def example_documents(
    examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, max_length: int, long_prompts: str = REFUSE
) -> Iterator[Document | None]:
    """Tokenise examples of at most `max_length` tokens, cut at their end: completions and replies are to be predicted.

    A prompt and its completion are tokenised apart, as they are when the model continues the prompt. A conversation is the
    text of the tokenizer's chat template. Prompts that leave no room: None with `long_prompts` "drop", else UserError;
    UserError also for a tokenizer without a chat template, and for conversations that the template refuses.
    """
    begin, end = ends(tokenizer)
    encode = encoder(tokenizer)
    for batch in _batched(examples):
        plain = [example for example in batch if not example.messages]
        prompts = iter(encode([example.prompt for example in plain]))
        completions = iter(encode([example.completion for example in plain]))
        for example in batch:
            if example.messages:
                ids, targets = _conversation(example, tokenizer)
            else:
                prompt, completion = next(prompts), next(completions)
                ids = np.concatenate((begin, np.array(prompt + completion, dtype=np.int32), end))
                targets = np.arange(len(ids)) >= max(1, len(begin) + len(prompt))
            yield _fitted(example, ids, targets, max_length, long_prompts)


def _batched(examples: Iterable[Example]) -> Iterator[list[Example]]:
    iterator = iter(examples)
    while batch := list(itertools.islice(iterator, BATCH)):
        yield batch


def _fitted(
    example: Example, ids: np.ndarray, targets: np.ndarray, max_length: int, long_prompts: str
) -> Document | None:
    """The example cut to `max_length` tokens; None or UserError if nothing is left to predict."""
    first = int(np.argmax(targets)) if targets.any() else len(ids)
    if first >= max_length:
        if long_prompts == DROP:
            return None
        raise UserError(
            f"{example.where}: the prompt has {first} tokens, and data.max_length={max_length} leaves none for the "
            "completion; a larger data.max_length, or data.long_prompts=drop"
        )
    key = key_of(ids[:first] if example.prompt or example.messages else ids)
    cut = max(0, len(ids) - max_length)
    return Document(ids[:max_length], targets[:max_length], key, example.heldout, cut, example.teacher)


def check_template(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """UserError for a tokenizer without a chat template, which conversations need."""
    if not tokenizer.chat_template:
        raise UserError(
            f"{where}: a conversation, and the teacher's tokenizer has no chat template; a chat model as the teacher, or "
            "rows with a prompt and a completion"
        )


def _conversation(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a conversation, and which of them are the assistant's, up to the end token of each reply."""
    check_template(tokenizer, example.where)
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    messages = [dict(message) for message in example.messages]

    def render(count: int, **options: Any) -> Any:
        try:
            return tokenizer.apply_chat_template(messages[:count], **options)
        except Exception as error:  # templates raise what they like
            raise UserError(f"{example.where}: the chat template refuses it: {str(error).splitlines()[0]}") from error

    if re.search(r"\{%-?\s*generation", template):  # the template marks the replies itself
        marked = render(len(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        return np.array(marked["input_ids"], dtype=np.int32), np.array(marked["assistant_masks"], dtype=bool)
    text: str = render(len(messages), tokenize=False)
    spans = list(_replies(example, text, render, str(tokenizer.eos_token)))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = np.array([start for start, _ in encoded["offset_mapping"]], dtype=np.int64)  # pyright: ignore
    targets = np.zeros(len(starts), dtype=bool)
    for start, stop in spans:
        targets |= (starts >= start) & (starts < stop)
    targets[:1] = False  # nothing stands before it
    return np.array(encoded["input_ids"], dtype=np.int32), targets


def _replies(example: Example, text: str, render: Callable[..., Any], end: str) -> Iterator[tuple[int, int]]:
    """The spans of the replies in the rendered `text`, each through its end token.

    A reply is what a conversation that ends with it has more than one that ends before it. UserError for a template that
    renders the beginning of a conversation otherwise when more follows.
    """
    for number, message in enumerate(example.messages):
        if message["role"] != REPLY:
            continue
        before: str = render(number, tokenize=False, add_generation_prompt=True)
        through: str = render(number + 1, tokenize=False)
        if not (text.startswith(through) and through.startswith(before)):
            raise UserError(
                f"{example.where}: the chat template changes what stands before a reply, so the reply cannot be told from "
                "the prompt; a template with {% generation %} marks, or rows with a prompt and a completion"
            )
        stop = through.rfind(end, len(before))
        yield len(before), len(through) if stop < 0 else stop + len(end)


def prompts(examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[list[int], str]]:
    """(token ids of the prompt, reference) of each example; of a conversation the last reply is the reference."""
    begin, encode = ends(tokenizer)[0].tolist(), encoder(tokenizer)
    for example in examples:
        if not example.messages:
            first: list[int] = [*begin, *encode([example.prompt])[0]]  # pyright: ignore[reportAssignmentType]
            yield first, example.completion
            continue
        check_template(tokenizer, example.where)
        last = max(i for i, message in enumerate(example.messages) if message["role"] == REPLY)
        messages = [dict(message) for message in example.messages[:last]]
        try:
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
        except Exception as error:  # templates raise what they like
            raise UserError(f"{example.where}: the chat template refuses it: {str(error).splitlines()[0]}") from error
        tokens: list[int] = list(ids["input_ids"])  # pyright: ignore[reportArgumentType, reportCallIssue, reportAssignmentType]
        yield tokens, example.messages[last]["content"]
