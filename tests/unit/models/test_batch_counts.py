"""Counts of a batch, and the tokens and pairs of forwards over it, against the definitions row by row."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from kdlab.models import packing
from kdlab.models.batch_counts import counts_of
from kdlab.models.encoder import Encoder
from kdlab.models.student import transformer_layers
from kdlab.modules.objective import units_of
from kdlab.types import IGNORE, Batch
from tests.unit.modules import test_student, test_student_tasks
from tests.unit.modules.test_student_tasks import classifier

KINDS = ("labelled", "all", "tokens")


def text() -> Batch:
    b = test_student.batch()
    b.real[2] = False
    b.labels[4, 0] = 7  # the first token itself is predicted
    return b


def task() -> Batch:
    b = test_student_tasks.batch(hidden=(2, 4))
    b.real[3] = False
    return b


def labels_of_row(b: Batch, row: int) -> list[int]:
    """The places of a row's labels."""
    return [i for i, label in enumerate(b.labels[row].tolist()) if label != IGNORE]


@pytest.mark.parametrize("batch", [text, task])
def test_counts_are_sums_over_the_rows(batch):
    b = batch()
    counts, rows = counts_of(b), range(len(b))
    assert counts.lengths == tuple(sum(b.attention_mask[row].tolist()) for row in rows)
    assert counts.tokens == sum(counts.lengths) and counts.real == len(b) - 1
    assert {at: counts.units(at) for at in KINDS} == {at: len(units_of(b, at)[0]) for at in KINDS}
    if b.labels.ndim == 1:
        assert counts.positions == 0 and counts.needed is None
        return
    assert counts.positions == sum(len(labels_of_row(b, row)) for row in rows if b.real[row])
    assert counts.needed is not None
    assert counts.needed.tolist() == [len({0, *labels_of_row(b, row)}) for row in rows]


@pytest.mark.parametrize("wants", [frozenset(), frozenset({"hidden"})], ids=["chosen tokens", "all tokens"])
@pytest.mark.parametrize("batch", [text, task])
@pytest.mark.parametrize("execution", ["padded", "bucketed", "packed"])
def test_tokens_and_pairs_of_a_forward(execution, batch, wants):
    b = batch()
    student = test_student.distiller().student.model if batch is text else classifier("bert", 2)
    lengths, length = counts_of(b).lengths, b.input_ids.shape[1]
    if execution == "padded":
        expected = sum(length for _ in lengths), sum(length**2 for _ in lengths)
    elif execution == "bucketed":
        longest = [max(lengths[i] for i in group) for group in packing.buckets(lengths) for _ in group]
        expected = sum(longest), sum(n**2 for n in longest)
    else:
        layout = packing.layout(lengths)
        tokens = layout.rows * layout.width
        expected = tokens, tokens * layout.width
        if not wants:
            needed = [1 if b.labels.ndim == 1 else len({0, *labels_of_row(b, row)}) for row in range(len(b))]
            per_packed_row = [0] * layout.rows
            for row, packed in enumerate(layout.row.tolist()):
                per_packed_row[packed] += needed[row]
            expected = *expected, sum(needed), layout.rows * max(per_packed_row) * layout.width
    assert Encoder(student, execution).executed(b, wants) == expected


def test_a_changed_batch_is_counted_anew():
    b = text()
    encoder, before, labelled = test_student.distiller().student, counts_of(b), counts_of(b).labelled
    executed = Encoder(encoder.model, "packed").executed(b)
    assert counts_of(b) is before
    b.labels[0, 1] = IGNORE  # in place; the first batch has a label there
    assert counts_of(b) is not before and counts_of(b).labelled == labelled - 1
    assert Encoder(encoder.model, "packed").executed(b)[2] == executed[2] - 1
    b.attention_mask = b.attention_mask[:, :5]
    b.labels, b.input_ids = b.labels[:, :5], b.input_ids[:, :5]
    assert max(counts_of(b).lengths) == 5
    with torch.inference_mode():  # counts no changes
        b.labels = b.labels.clone()
        before = counts_of(b).labelled
        b.labels[:, 1] = IGNORE
    assert counts_of(b).labelled < before


def test_counts_keep_no_batch_in_memory():
    b = text()
    counts_of(b).units("labelled")
    gone = weakref.ref(b)
    gc.disable()
    try:
        del b
        assert gone() is None
    finally:
        gc.enable()


def test_counts_of_a_step_ask_the_model_no_second_time():
    """With `asks` False the answer of the last forward counts; a model without a forward is asked."""
    b, encoder = task(), Encoder(classifier("bert", 2), "packed")
    whole, alone = 2, 4  # numbers that are returned
    assert len(encoder.executed(b, asks=False)) == alone
    hook = transformer_layers(encoder.model)[-1].register_forward_hook(lambda *_: None)
    assert len(encoder.executed(b, asks=False)) == alone and len(encoder.executed(b)) == whole
    hook.remove()
    assert len(encoder.executed(b, asks=False)) == whole
    encoder.encode(b)
    assert len(encoder.executed(b, asks=False)) == alone
