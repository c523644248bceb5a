"""Samples: the prompt of a row, and what is read from a run folder."""

from __future__ import annotations

import json

import numpy as np

from kdlab.runs.decoding.samples import FILE, TOKENS, prompt_of, read
from kdlab.types import IGNORE


def test_the_prompt_of_an_example_is_all_before_its_completion():
    ids = np.arange(10, 20)
    labels = np.array([IGNORE, IGNORE, *ids[3:6], IGNORE, *ids[7:], IGNORE])
    numbers = np.array([0] * 6 + [1] * 4)
    assert prompt_of(ids, labels, numbers, examples=True) == ([10, 11, 12], [13, 14, 15])


def test_the_prompt_of_a_text_is_its_beginning():
    ids = np.arange(200)
    labels, numbers = np.append(ids[1:], IGNORE), np.zeros(200, dtype=int)
    prompt, rest = prompt_of(ids, labels, numbers, examples=False)
    assert prompt == list(range(32)) and rest == list(range(32, 32 + TOKENS))
    assert prompt_of(ids[:5], np.append(ids[1:5], IGNORE), numbers[:5], examples=False) == ([0, 1], [2, 3, 4])


def test_a_folder_without_samples_has_none(tmp_path):
    assert read(tmp_path) == []
    (tmp_path / FILE).write_text(json.dumps({"prompt": "p", "student": "s", "reference": "r"}) + "\n")
    assert read(tmp_path) == [{"prompt": "p", "student": "s", "reference": "r"}]
