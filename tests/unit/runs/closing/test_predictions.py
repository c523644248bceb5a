"""The table of predictions: of its first rows alone it holds, and costs, no more than these."""

from __future__ import annotations

import tracemalloc

import numpy as np
import torch

from kdlab.modules.evaluation import Answers
from kdlab.runs.closing.predictions import table
from kdlab.types import TaskShape

SHAPE = TaskShape(1, ("no", "yes"), ("accuracy",))


def answers(rows: list[int], seed: int) -> Answers:
    rng = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(len(rows), 2, generator=rng), torch.randint(0, 2, (len(rows),), generator=rng)
    return Answers(torch.tensor(rows), logits, labels)


def test_the_first_rows_are_the_head_of_the_whole_table():
    found = {"student": answers([0, 1, 2, 3, 4], 0), "teacher odd": answers([1, 3], 1)}
    whole = table(np.arange(5) + 10, found, {"student": SHAPE})
    lines = whole.splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["10", "11", "12", "13", "14"]
    assert [line.split(",")[5:] == ["", "", ""] for line in lines[1:]] == [True, False, True, False, True]
    for limit in (0, 1, 3, 5, 9):
        assert table([10, 11, 12, 13, 14], found, {"student": SHAPE}, limit).splitlines() == lines[: limit + 1]


def test_rows_that_are_left_out_take_no_memory():
    found = {"student": answers(list(range(50_000)), 0)}
    tracemalloc.start()
    table(np.arange(50_000), found, {"student": SHAPE}, 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # as texts and numbers of Python all rows would take 20 MB
