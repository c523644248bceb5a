"""Answers about some positions of a row: stored alone, merged with later ones, counted as in a run that was never killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdlab.modules.objective import units_of
from kdlab.teachers.cache.codec import CacheSpec, unpacked
from kdlab.teachers.teacher import Teacher
from kdlab.types import IGNORE, Batch
from tests.unit.teachers.cache.test_cache import logits, queries, rows, teacher

LABELLED = CacheSpec("labelled")


def text(chosen: list[list[int]] | None = None, index: tuple[int, ...] = (2, 5)) -> Batch:
    """Rows of which each token but the last has a label; `chosen`: the positions that selection has kept of each."""
    batch = rows(list(index), True)
    batch.labels = torch.where(batch.attention_mask.bool(), 7, IGNORE)
    if chosen is None:
        return batch
    mask = torch.zeros_like(batch.labels, dtype=torch.bool)
    for row, places in enumerate(chosen):
        mask[row, places] = True
    return batch.narrowed(mask)


def asked(who: Teacher, batch: Batch) -> list[list[int]]:
    """The positions at which a query for `batch` runs the teacher's head, by row that runs."""
    found = []
    for forward in who.answer(batch).forwards:
        found += [one.nonzero().flatten().tolist() for one in forward.labelled()]
    return found


def equal_to_fresh(who: Teacher, batch: Batch) -> None:
    found, fresh = logits(who, batch, "labelled"), logits(who, text(), "labelled", cached=False)
    row, place = units_of(batch, "labelled")
    every = {pair: i for i, pair in enumerate(zip(*(t.tolist() for t in units_of(text(), "labelled")), strict=True))}
    index = [every[pair] for pair in zip(row.tolist(), place.tolist(), strict=True)]
    torch.testing.assert_close(found, fresh[index], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("folder", [False, True], ids=["memory", "disk"])
def test_other_positions_of_a_row_are_merged_with_those_stored(tmp_path, folder):
    who, ledger, said = teacher(LABELLED, tmp_path if folder else None, text=True)
    first = text([[0, 3], [2]])
    assert asked(who, first) == [[0, 3], [2]]
    assert who.cache is not None
    stored = who.cache.store.read(0, [2, 5], who.cache._checksums(first), said.append)
    assert [len(unpacked(entry.payload)[1][0]) for entry in stored if entry] == [2, 1]  # no other position is kept
    equal_to_fresh(who, first)
    assert asked(who, text([[1, 3], [2]])) == [[1]]  # one row, and the one position that is not known
    equal_to_fresh(who, text([[0, 1, 3], [2]]))
    assert asked(who, text([[0, 1, 3], [2]])) == []
    equal_to_fresh(who, text())
    assert said == [] and asked(who, text()) == []


def test_a_whole_answer_answers_for_the_positions_chosen(tmp_path):
    who, ledger, _ = teacher(LABELLED, tmp_path, text=True)
    whole = logits(who, text(), "labelled")
    batch = text([[1, 2], [0]])
    assert who.answer(batch).forwards == [] and queries(ledger)[2] == 2
    assert torch.equal(logits(who, batch, "labelled"), whole[[1, 2, int(text().labelled()[0].sum())]])


def test_the_rest_of_a_row_runs_where_all_is_asked():
    who, ledger, _ = teacher(LABELLED, text=True)
    who.answer(text([[0, 3], [2]]))
    length = text().labelled().sum(1).tolist()
    rest = [[i for i in range(length[0]) if i not in (0, 3)], [i for i in range(length[1]) if i != 2]]
    assert asked(who, text()) == rest
    assert queries(ledger)[0] == 4  # the rows ran twice, the positions once
    equal_to_fresh(who, text())


def test_draws_of_a_position_do_not_depend_on_the_others():
    spec = CacheSpec("labelled", "sampled", 6, 1.0)
    whole, _, _ = teacher(spec, text=True)
    some, _, _ = teacher(spec, text=True)
    every = logits(whole, text(), "labelled")
    batch = text([[1], [0, 2]])
    start = int(text().labelled()[0].sum())
    assert torch.equal(logits(some, batch, "labelled"), every[[1, start, start + 2]])


def test_a_resumed_run_counts_what_a_run_that_was_never_killed_counts(tmp_path: Path):
    """The killed process had stored positions of a row at two steps, of which the resumed one repeats both."""
    first, second, both = text([[0, 3], [2]]), text([[1, 3], [4]]), text([[0, 1, 3], [2, 4]])
    killed, ledger, _ = teacher(LABELLED, tmp_path, text=True)
    counts = []
    for again in (killed, teacher(LABELLED, tmp_path, text=True)[0]):
        assert again.cache is not None
        ledger = again.cache.ledger
        assert ledger is not None
        for step, batch in ((5, first), (6, second), (7, both)):
            again.cache.step = step
            ran = [int(one.labelled().sum()) for one in again.answer(batch).forwards]
            counts.append((step, ran, queries(ledger)))
    assert counts[:3] == counts[3:]
    assert [ran for _, ran, _ in counts[:3]] == [[3], [2], []]


def test_a_run_of_a_large_number_is_recognised(tmp_path):
    who, _, _ = teacher(LABELLED, tmp_path, text=True, run=2**32 - 1)
    assert who.cache is not None
    who.cache.step = 3
    who.answer(text([[0], [1]]))
    again, ledger, _ = teacher(LABELLED, tmp_path, text=True, run=2**32 - 1)
    assert again.cache is not None
    again.cache.step = 3
    assert asked(again, text([[0], [1]])) == [[0], [1]] and queries(ledger) == (2, 2, 0)
    assert np.array_equal(logits(again, text([[0], [1]]), "labelled"), logits(who, text([[0], [1]]), "labelled"))
