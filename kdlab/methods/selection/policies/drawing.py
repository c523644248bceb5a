"""Arms drawn from a generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def uniform(rng: torch.Generator) -> float:
    """A number in [0, 1)."""
    return float(torch.rand((), generator=rng, device=rng.device, dtype=torch.float64))


def pick(names: Sequence[str], rng: torch.Generator) -> str:
    """One of `names`, each as likely."""
    return names[int(torch.randint(len(names), (), generator=rng, device=rng.device))]


def greedy(value: dict[str, float], rng: torch.Generator) -> str:
    """The arm of the largest value; equals are drawn."""
    best = max(value.values())
    return pick([arm for arm in value if value[arm] == best], rng)


def weighted(probability: dict[str, float], rng: torch.Generator) -> str:
    """An arm, each with its probability."""
    draw = uniform(rng)
    for arm, share in probability.items():
        draw -= share
        if draw < 0:
            return arm
    return list(probability)[-1]
