"""Lengths of a task's rows in tokens: how many a maximum truncates, and the maximum that suits the rows."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
LADDER = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
KEPT = 0.95  # share of the training rows that a chosen length keeps whole, and without a caveat
SAMPLE = 20_000  # training rows that a length is chosen from, evenly spaced
MULTIPLE = 8  # chosen lengths are multiples, as tensor cores prefer
LONGEST = 512  # tokens: the longest that is chosen; attention to more costs more than it mostly gives


def whole_lengths(texts: Sequence[tuple[str, ...]], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Tokens (N,) int64 of each row, a text or a pair, with special tokens and without truncation."""
    first, *second = (list(column) for column in zip(*texts, strict=True))
    encoding = tokenizer(
        first, second[0] if second else None, truncation=False, return_attention_mask=False,
        return_token_type_ids=False, split_special_tokens=True, verbose=False,
    )  # fmt: skip
    return np.array([len(ids) for ids in encoding["input_ids"]], dtype=np.int64)


def spread(rows: Sequence[T]) -> list[T]:
    """At most `SAMPLE` of the rows, evenly spaced."""
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(int).tolist()]


def percentile(texts: Sequence[tuple[str, ...]], tokenizer: PreTrainedTokenizerBase) -> int:
    """The least length that keeps the share `KEPT` of the rows whole, of at most `SAMPLE` of them."""
    if not texts:
        return 0
    tokenizer = copy.deepcopy(tokenizer)  # truncation is state of the tokenizer, which the caller may save
    lengths = np.sort(whole_lengths(spread(texts), tokenizer))
    return int(lengths[int(np.ceil(KEPT * len(lengths))) - 1])


def chosen(length: int, most: int) -> int:
    """`length` rounded up to a `MULTIPLE`, at least the first of `LADDER`, at most `most` and `LONGEST`."""
    return min(most, max(LADDER[0], min(LONGEST, -(-length // MULTIPLE) * MULTIPLE)))


def fitting(lengths: np.ndarray) -> dict[str, int]:
    """Rows that each length of `LADDER` keeps whole, up to the first that keeps all."""
    found: dict[str, int] = {}
    for length in LADDER:
        found[str(length)] = int((lengths <= length).sum())
        if found[str(length)] == len(lengths):
            break
    return found


def truncated(stats: Mapping[str, Mapping[str, Any]], max_length: int, most: int, pairs: bool) -> str:
    """A line on the truncated rows of all splits, with a length of `LADDER` that keeps most of train whole; "" if none.

    `stats`: of the prepared rows (older ones have no "fits", and the line no advice); `most`: tokens the models read.
    """
    what = "pairs" if pairs else "texts"
    cut = [f"{one['cut']:,} of {one['rows']:,} {name} {what}" for name, one in stats.items() if one["cut"]]
    if not cut:
        return ""
    line = f"{' and '.join(cut)} are longer than data.max_length={max_length} and are cut"
    fits, rows = stats["train"].get("fits") or {}, stats["train"]["rows"]
    longer = {int(length): kept / rows for length, kept in fits.items() if max_length < int(length) <= most}
    if not longer:
        return line if max_length < most else f"{line}; the models read no more"
    advised = next((length for length, share in longer.items() if share >= KEPT), max(longer))
    return f"{line}; {advised} keeps {_percent(longer[advised])} of train whole"


def many_truncated(stats: Mapping[str, Mapping[str, Any]]) -> bool:
    """True if more than the share 1 - `KEPT` of a split's rows is truncated."""
    return any(one["cut"] > (1 - KEPT) * one["rows"] for one in stats.values())


def _percent(share: float) -> str:
    return f"{np.floor(100 * share):.0f} %"  # rounded down: 100 % means all
