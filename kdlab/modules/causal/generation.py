"""Greedy continuations of prompts, and how many equal their references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from kdlab.errors import UserError
from kdlab.models.loading import longest_input
from kdlab.runtime.progress import track


@torch.no_grad()
def continuations(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], tokens: int, batch_size: int = 8
) -> list[str]:
    """The most likely next tokens after each prompt of token ids, one at a time, up to the end token, at most `tokens`.

    A model of transformers. Prompts lose their beginning where they leave no room; UserError where `tokens` fill the
    model's longest input, and for an empty prompt.
    """
    from transformers import GenerationConfig

    longest = longest_input(model.config)
    if longest is not None and tokens >= longest:
        raise UserError(f"{tokens} tokens to generate, and the model reads {longest}")
    if any(not len(prompt) for prompt in prompts):
        raise UserError("an empty prompt: there is nothing to continue")
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    )
    rows = [list(prompt) if longest is None else list(prompt)[-(longest - tokens) :] for prompt in prompts]
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    found = [""] * len(rows)
    for part in track([order[i : i + batch_size] for i in range(0, len(order), batch_size)], "generating", "batches"):
        width = max(len(rows[row]) for row in part)
        ids = torch.tensor([[settings.pad_token_id] * (width - len(rows[row])) + rows[row] for row in part])
        mask = torch.tensor([[0] * (width - len(rows[row])) + [1] * len(rows[row]) for row in part])
        out = model.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=settings
        )
        for row, text in zip(part, tokenizer.batch_decode(out[:, width:], skip_special_tokens=True), strict=True):
            found[row] = text
    return found


def exact_match(texts: Sequence[str], references: Sequence[str]) -> float:
    """Share of `texts` that equal their references, white space at both ends aside."""
    equal = [text.strip() == reference.strip() for text, reference in zip(texts, references, strict=True)]
    return sum(equal) / len(equal)
