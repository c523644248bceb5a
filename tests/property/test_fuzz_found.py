"""Regressions found by fuzzing, with their inputs: each of these was a traceback once."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.fuzzing import RESULT, TARGETS, ksm_files, one_case, parquet_bytes

KSM, PARQUET = json.loads(ksm_files()["ksm.json"]), parquet_bytes()
CONFIG = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
FOUND = [
    ("a setting", ("knowledge.phases", "${oc.env:HOME}")),  # a text where a list of numbers was typed
    ("a setting", ("suite.tasks", [[]])),
    ("a setting", ("select.pool", "\n")),  # a line break in the message
    ("an override", ("scale", "\n", "")),
    ("an override", ("scale", False, "")),  # a choice that is no name
    ("an override", ("scale", False, "~")),
    ("an override", ("scale", "9" * 5000, "")),  # more digits than Python reads
    ("a result.json", json.dumps({**RESULT, "policy": True}).encode()),
    ("labelled .jsonl", b'{"text": "a", "label": 0}\n' + b"[" * 3000),
    ("a .jsonl of text", b"[" * 3000),
    ("a result.json", b"[" * 3000),
    ("a config.yaml", b""),
    ("a config.yaml", b"[" * 3000),
    ("a config.yaml", b"[" * 20_000 + b"]" * 20_000),  # libyaml ended the process
    ("a config.yaml", b"- " * 20_000),
    ("a config.yaml", b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (c + 1, c + 1, c, c) for c in range(97, 122))),
    ("a model's config.json", json.dumps({**CONFIG, "id2label": 3}).encode()),
    ("a model's config.json", json.dumps({**CONFIG, "num_hidden_layers": "\ud800"}).encode()),
    ("a KSM's settings", json.dumps({**KSM, "student_width": False}).encode()),
    ("a KSM's settings", json.dumps({**KSM, "teacher_widths": [0]}).encode()),
    *[("a .parquet of text", PARQUET[: i.start()] + b"\x80" + PARQUET[i.end() :]) for i in re.finditer(b"t(?=ext)", PARQUET)],
    ("a KSM's settings", json.dumps({"\ud800": 1}).encode()),  # half a pair in the message
    ("a tokenizer_config.json", json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": False}).encode()),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(FOUND)), ids=[name for name, _ in FOUND])
def test_what_was_found_stays_mended(number: int) -> None:
    name, value = FOUND[number]
    assert one_case(TARGETS[name], value) is None
