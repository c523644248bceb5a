"""Greedy continuations beside one argmax a token, in batches of any size; exact match by hand."""

from __future__ import annotations

import pytest
import torch

from kdlab.errors import UserError
from kdlab.modules.causal.generation import continuations, exact_match
from tests.support.causal import END, characters, decoder

PROMPTS = ["2+2=", "a", "a much longer prompt than the others"]


def by_hand(prompt: list[int], tokens: int) -> str:
    model, ids = decoder(), list(prompt)
    for _ in range(tokens):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == END:
            break
        ids.append(token)
    return characters().decode(ids[len(prompt) :], skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_continuations_are_those_of_one_argmax_a_token(batch_size):
    tokenizer = characters()
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    expected = [by_hand(prompt, 6) for prompt in prompts]
    assert continuations(decoder(), tokenizer, prompts, 6, batch_size) == expected


def test_the_end_token_ends_a_continuation():
    model, tokenizer = decoder(), characters()
    with torch.no_grad():  # the end token is the most likely one everywhere
        model.lm_head.weight.zero_()
        model.lm_head.weight[END] = 0
        model.lm_head.weight[END + 1 :] = 0
        model.lm_head.bias = torch.nn.Parameter(torch.nn.functional.one_hot(torch.tensor(END), len(tokenizer)).float())
    assert continuations(model, tokenizer, [tokenizer("abc")["input_ids"]], 6) == [""]


def test_too_many_tokens_and_empty_prompts_are_one_line():
    model, tokenizer = decoder(), characters()
    with pytest.raises(UserError, match="128 tokens to generate, and the model reads 128"):
        continuations(model, tokenizer, [[5]], 128)
    with pytest.raises(UserError, match="an empty prompt"):
        continuations(model, tokenizer, [[]], 4)
    long = tokenizer("x" * 300)["input_ids"]
    assert continuations(model, tokenizer, [long], 4) == continuations(model, tokenizer, [long[-124:]], 4)


def test_exact_match_is_a_share_with_white_space_aside():
    assert exact_match([" four ", "five", "six"], ["four", "Five", "six\n"]) == pytest.approx(2 / 3)
