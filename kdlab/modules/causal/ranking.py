"""Multiple choice by log-likelihood: the choice that a model finds most likely after the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.data.causal.encoding import ends
from kdlab.data.causal.questions import Question
from kdlab.data.text.tokenization import encoder
from kdlab.errors import UserError
from kdlab.models.loading import longest_input
from kdlab.runtime.progress import track


@dataclass(frozen=True)
class Ranking:
    """Shares of questions that are answered rightly: `accuracy` by the sum of the log-likelihoods of a choice's tokens,
    `accuracy_norm` by that sum over its characters (as `acc` and `acc_norm` of lm-evaluation-harness); `chance` by guessing.
    `chosen` (N,): the choices by the sum."""

    accuracy: float
    accuracy_norm: float
    chance: float
    chosen: list[int]


@torch.no_grad()
def rank(model: Any, tokenizer: Any, questions: Sequence[Question], batch_size: int = 8) -> Ranking:
    """Answer `questions` with a causal language model of transformers. A space joins question and choice where none does."""
    pairs = [(question.text, _joined(question.text, choice)) for question in questions for choice in question.choices]
    values = log_likelihoods(model, tokenizer, pairs, batch_size)
    right, right_norm, chosen, start = 0, 0, [], 0
    for question in questions:
        own = values[start : start + len(question.choices)]
        start += len(question.choices)
        each = own / torch.tensor([float(len(choice)) for choice in question.choices], dtype=own.dtype)
        chosen.append(int(own.argmax()))
        right += chosen[-1] == question.answer
        right_norm += int(each.argmax()) == question.answer
    chance = sum(1 / len(question.choices) for question in questions) / len(questions)
    return Ranking(right / len(questions), right_norm / len(questions), chance, chosen)


def _joined(text: str, choice: str) -> str:
    return choice if text[-1].isspace() or choice[0].isspace() else f" {choice}"


@torch.no_grad()
def log_likelihoods(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], batch_size: int = 8) -> Tensor:
    """Sum of the log-probabilities (N,) float64 of the tokens of each continuation after its context.

    Both are tokenised apart. Contexts lose their beginning where both are longer than the model's longest input; UserError
    for a continuation that fills it alone.
    """
    encode, begin = encoder(tokenizer), ends(tokenizer)[0].tolist()
    contexts, continuations = (encode([pair[side] for pair in pairs]) for side in (0, 1))
    longest = longest_input(model.config)
    rows: list[list[int]] = []
    for pair, context, continuation in zip(pairs, contexts, continuations, strict=True):
        if longest is not None and len(continuation) >= longest:
            raise UserError(f"the choice {pair[1][:40]!r} has {len(continuation)} tokens, the model reads {longest}")
        ids = [*begin, *context, *continuation]
        rows.append(ids if longest is None else ids[-longest:])
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    sums = torch.zeros(len(rows), dtype=torch.float64)
    for part in track(parts, "scoring choices", "batches"):
        width = max(len(rows[row]) for row in part)
        ids = torch.tensor([rows[row] + [0] * (width - len(rows[row])) for row in part], device=model.device)
        mask = torch.tensor(
            [[1] * len(rows[row]) + [0] * (width - len(rows[row])) for row in part], device=model.device
        )
        logits = model(input_ids=ids, attention_mask=mask).logits
        for place, row in enumerate(part):
            end, count = len(rows[row]), len(continuations[row])
            of_tokens = F.cross_entropy(
                logits[place, end - count - 1 : end - 1].float(), ids[place, end - count : end], reduction="sum"
            )
            sums[row] = -float(of_tokens)
    return sums
