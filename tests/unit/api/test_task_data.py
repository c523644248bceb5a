"""`kdlab.task_data`: rows of any form as a data module for a trainer of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kdlab
from tests.conftest import task_rows, tiny_tokenizer, write_task

ROWS = [{"text": texts[0], "label": ["bad", "good", "so so"][label]} for texts, label in task_rows(60)]


def data(train=ROWS, dev=None, **more) -> kdlab.GLUEDataModule:
    return kdlab.task_data(train, dev, **{"tokenizer": tiny_tokenizer(), "steps": 3, "max_length": 32, **more})


def test_rows_in_memory_and_in_a_folder_become_batches(tmp_path):
    for found in (data(ROWS, ROWS[:9], batch_size=8), data(write_task(tmp_path / "rows", rows=60), batch_size=8)):
        batches = list(found.train_dataloader())
        assert len(batches) == 3 and all(isinstance(batch, kdlab.Batch) and 0 < len(batch) <= 8 for batch in batches)
        assert found.dev_splits().keys() == {""}
    assert len(data(ROWS, ROWS[:9]).dev_splits()[""]) == 9
    assert len(data(epochs=1, steps=None).train) == 54  # a tenth is dev


def test_the_classes_may_have_the_order_of_a_model():
    plain, ordered = data(ROWS, ROWS), data(ROWS, ROWS, labels=["good", "So-so", "bad"])
    assert plain.shape.labels == ("bad", "good", "so so") and ordered.shape.labels == ("good", "So-so", "bad")
    assert np.array_equal(np.array([2, 0, 1])[plain.train.labels], ordered.train.labels)


def test_the_tokenised_rows_go_with_the_module():
    found = data()
    place = Path(found.folder)
    assert place.is_dir()
    del found
    assert not place.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": None}, "train: give a folder or file"),
        ({"train": 3}, "train: int; give a folder"),
        ({"train": "nowhere"}, "nowhere does not exist"),
        ({"train": [{"text": "ba", "kind": 1}, {"text": "ke", "kind": 2}]}, "^train, row 1: no label|^train.*label"),
        ({"train": [*ROWS, {"text": "ba", "label": None}]}, "^train, row 61: the label is hidden"),
        ({"steps": None}, "steps and epochs are both None"),
        ({"max_length": 2}, "max_length 2"),
        ({"labels": ["good", "bad"]}, "other labels: the data has bad, good, so so; the teacher has good, bad"),
    ],
)
def test_a_wrong_call_is_one_line(arguments, message):
    with pytest.raises(kdlab.UserError, match=message):
        data(**arguments)
