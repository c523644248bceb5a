"""The file of an artifact with a model's answers to held-out rows: row indices, logits and labels of each split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from kdlab.modules.evaluation import Answers, UnfiniteAnswers

NAME = "answers.npz"


def write(folder: Path, answers: Mapping[str, Mapping[str, Answers]]) -> None:
    """Write the answers by part ("dev", "test") and split into a folder; nothing where there are none. `UnfiniteAnswers`
    for a number that is not finite."""
    arrays = {}
    for part, splits in answers.items():
        for split, found in splits.items():
            if not found.logits.isfinite().all():
                raise UnfiniteAnswers
            arrays |= {f"{part}/{split}/{name}": tensor.numpy() for name, tensor in asdict(found).items()}
    if arrays:
        np.savez(folder / NAME, **arrays)


def read(folder: Path) -> dict[str, dict[str, Answers]]:
    """The answers in a folder by part and split; none in one of an older kdlab."""
    found: dict[str, dict[str, dict[str, torch.Tensor]]] = {}
    if (folder / NAME).is_file():
        with np.load(folder / NAME, allow_pickle=False) as arrays:
            for key in arrays.files:
                part, split, name = key.split("/")
                found.setdefault(part, {}).setdefault(split, {})[name] = torch.from_numpy(arrays[key])
    return {part: {split: Answers(**one) for split, one in splits.items()} for part, splits in found.items()}
