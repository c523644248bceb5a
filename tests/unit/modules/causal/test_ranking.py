"""Log-likelihoods of choices beside one forward a token, and the shares of right answers by hand."""

from __future__ import annotations

import pytest
import torch

from kdlab.data.causal.questions import Question
from kdlab.errors import UserError
from kdlab.modules.causal.ranking import log_likelihoods, rank
from tests.support.causal import characters, decoder

PAIRS = [("2+2=", "4"), ("2+2=", " twenty-two"), ("a longer question?", " yes"), ("q", "no")]


def by_hand(context: str, continuation: str) -> float:
    """The sum over the tokens of a continuation, with one forward for each."""
    model, tokenizer = decoder(), characters()
    ids, total = tokenizer(context)["input_ids"], 0.0
    for token in tokenizer(continuation)["input_ids"]:
        with torch.no_grad():
            total += float(model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token])
        ids = [*ids, token]
    return total


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_log_likelihoods_are_those_of_one_forward_a_token(batch_size):
    found = log_likelihoods(decoder(), characters(), PAIRS, batch_size)
    assert found.tolist() == pytest.approx([by_hand(*pair) for pair in PAIRS], rel=1e-5)


def test_long_contexts_lose_their_beginning_and_long_choices_are_refused():
    model, tokenizer = decoder(), characters()  # reads 128 tokens
    long, short = ("x" * 300 + "y" * 123, "a" * 5), ("y" * 123, "a" * 5)
    found = log_likelihoods(model, tokenizer, [long, short])
    assert float(found[0]) == pytest.approx(float(found[1]), rel=1e-5)
    with pytest.raises(UserError, match="has 128 tokens, the model reads 128"):
        log_likelihoods(model, tokenizer, [("q", "a" * 128)])


def test_the_shares_of_right_answers_are_those_of_the_sums():
    asked = [
        Question("2+2=", ("4", "twenty-two", "5"), 0),
        Question("q ", ("no", "a very long answer"), 1),
        Question("name?", ("x", "y"), 1),
    ]
    sums = [[by_hand(q.text, choice if q.text.endswith(" ") else f" {choice}") for choice in q.choices] for q in asked]
    each = [[s / len(c) for s, c in zip(row, q.choices, strict=True)] for row, q in zip(sums, asked, strict=True)]
    found = rank(decoder(), characters(), asked)
    assert found.chosen == [row.index(max(row)) for row in sums]
    assert found.accuracy == sum(row.index(max(row)) == q.answer for row, q in zip(sums, asked, strict=True)) / 3
    assert found.accuracy_norm == sum(row.index(max(row)) == q.answer for row, q in zip(each, asked, strict=True)) / 3
    assert found.chance == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
