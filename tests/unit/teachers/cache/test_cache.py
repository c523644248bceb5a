"""A teacher with a cache, against the same teacher without one; counts in the ledger, and a killed run."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from kdlab.errors import UserError
from kdlab.models.attention import capture
from kdlab.models.encoder import Encoder
from kdlab.modules.objective import units_of
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.cache.cache import AnswerCache
from kdlab.teachers.cache.codec import CacheSpec
from kdlab.teachers.cache.disk_store import DiskStore
from kdlab.teachers.cache.memory_store import MemoryStore
from kdlab.teachers.teacher import Teacher
from kdlab.types import IGNORE, Batch
from tests.conftest import tiny_config

KEY, ROWS, V = "0123456789abcdef", 12, 126
EVERYTHING = frozenset({"states", "scores", "values"})


def encoder(text: bool) -> Encoder:
    torch.manual_seed(0)
    config = tiny_config("bert", 2)
    config.initializer_range = 0.2
    auto = transformers.AutoModelForMaskedLM if text else transformers.AutoModelForSequenceClassification
    config.num_labels = 3
    model = auto.from_config(config)
    capture.prepare(model)
    return Encoder(model)


def rows(index: list[int], text: bool, epoch: int = 0) -> Batch:
    """Rows of 4 to 9 tokens, the same whichever others stand beside them."""
    ids = [torch.from_numpy(np.random.default_rng(i).integers(6, 120, 4 + i % 6)) for i in index]
    length = max(len(one) for one in ids)
    input_ids, mask = torch.zeros(2, len(ids), length, dtype=torch.long)
    labels = torch.full((len(ids), length), IGNORE) if text else torch.zeros(len(ids), dtype=torch.long)
    for i, one in enumerate(ids):
        input_ids[i, : len(one)], mask[i, : len(one)] = one, 1
        if text:
            labels[i, 1 : 2 + index[i] % 3] = 7
    return Batch(torch.tensor(index), epoch, input_ids, mask, labels, torch.ones(len(ids), dtype=torch.bool))


def teacher(
    keeps: CacheSpec, folder: Path | None = None, text: bool = False, run: int = 1, **more: Any
) -> tuple[Teacher, Ledger, list[str]]:
    said: list[str] = []
    ledger = Ledger(ROWS, not text)
    found = Teacher("t", encoder(text), ledger.count_queries)
    store = MemoryStore() if folder is None else DiskStore(folder / "answers", KEY, ROWS, {})
    found.cache = AnswerCache(store, keeps, V if text else 3, KEY, not text, ledger, notify=said.append, **more)
    found.cache.run = run
    if isinstance(store, DiskStore):
        store.open(found.cache.handle_fault)
    return found, ledger, said


def queries(ledger: Ledger) -> tuple[int, int, int]:
    found = ledger.totals()["teacher_queries"]
    return found["total"], found["unique"], found["cached"]


def logits(who: Teacher, batch: Batch, at: str, cached: bool = True) -> torch.Tensor:
    said = who.answer(batch, False, cached=cached)
    row, place = units_of(batch, at)
    return who.logits(said.outputs, said.logits, row, place)(slice(0, len(row)))


@pytest.mark.parametrize("folder", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize(("text", "kept", "at"), [(False, "row", "all"), (True, "labelled", "labelled"), (True, "tokens", "all"), (True, "tokens", "labelled")])  # fmt: skip
def test_logits_are_those_of_the_teacher_bit_for_bit(tmp_path, folder, text, kept, at):
    who, _, _ = teacher(CacheSpec(kept), tmp_path if folder else None, text)
    batch = rows([3, 1, 8], text)
    fresh = logits(who, batch, at, cached=False)
    assert torch.equal(logits(who, batch, at), fresh)
    again = rows([8, 3], text)  # other rows beside them, another padding
    mine = torch.cat([fresh[units_of(batch, at)[0] == i] for i in (2, 0)])
    assert torch.equal(logits(who, again, at), mine)
    assert who.answer(again, False).forwards == []


def test_all_that_terms_read_comes_back(tmp_path):
    who, _, _ = teacher(CacheSpec("row", hidden="all", others=("scores", "states", "values")), tmp_path)
    batch = rows([3, 1, 8], False)
    fresh = who.query(batch, False, EVERYTHING)
    for _ in range(2):
        said = who.answer(batch, False).outputs
        real = batch.attention_mask.bool()
        assert torch.equal(said.hidden[real], fresh.hidden[real]) and torch.equal(said.mask, fresh.mask)
        assert len(said.states) == 3 and len(said.scores) == len(said.values) == 2
        for mine, theirs in zip(said.states, fresh.states, strict=True):
            assert mine.shape == theirs.shape and torch.equal(mine[real], theirs[real])
        pairs = real.unsqueeze(1) & real.unsqueeze(2)
        for mine, theirs in zip(said.scores, fresh.scores, strict=True):
            assert mine.shape == theirs.shape
            assert torch.equal(mine.permute(0, 2, 3, 1)[pairs], theirs.permute(0, 2, 3, 1)[pairs])
        for mine, theirs in zip(said.values, fresh.values, strict=True):
            assert torch.equal(mine.transpose(1, 2)[real], theirs.transpose(1, 2)[real])


def test_the_first_state_alone_where_a_rule_looks_at_it():
    who, _, _ = teacher(CacheSpec("row", hidden="first"))
    batch = rows([3, 1], False)
    assert torch.equal(who.answer(batch, False).outputs.hidden, who.query(batch, False).hidden[:, :1])


def test_bfloat16_answers_keep_their_bits():
    who, _, _ = teacher(CacheSpec("row", hidden="all"))
    who.encoder.to(torch.bfloat16)
    batch = rows([3, 1, 8], False)
    fresh = logits(who, batch, "all", cached=False)
    assert fresh.dtype == torch.bfloat16 and torch.equal(logits(who, batch, "all"), fresh)
    assert who.answer(batch, False).outputs.hidden.dtype == torch.bfloat16


def test_the_k_largest_and_draws_of_a_row_are_the_same_for_every_asker():
    batch, told = rows([3, 1, 8], True), {}
    for vocabulary in ("topk", "sampled"):
        who, _, _ = teacher(CacheSpec("labelled", vocabulary, 4, 2.0), text=True)
        other, _, _ = teacher(CacheSpec("labelled", vocabulary, 4, 2.0), text=True, single_rows=True)
        told[vocabulary] = logits(who, batch, "labelled")
        assert (told[vocabulary] > -1e4).sum(1).max() <= 4
        first = logits(other, rows([8], True), "labelled")
        assert torch.allclose(first, told[vocabulary][-len(first) :], atol=1e-4)
    fresh = logits(teacher(CacheSpec("labelled"), text=True)[0], batch, "labelled")
    expected = fresh.topk(4)
    assert torch.equal(told["topk"].gather(1, expected.indices), expected.values)
    another = rows([3, 1, 8], True, epoch=1)
    assert not torch.equal(logits(who, another, "labelled"), told["sampled"])  # another mask: other draws


def test_the_ledger_tells_what_was_asked_from_what_was_remembered(tmp_path):
    who, ledger, _ = teacher(CacheSpec("row"), tmp_path)
    batch = rows([3, 1, 8], False)
    batch.real[1] = False
    assert [len(b) for b in who.answer(batch).forwards] == [3]
    assert queries(ledger) == (2, 2, 0)
    assert [b.rows.tolist() for b in who.answer(batch).forwards] == [[1]]  # a row that is not real is not kept
    assert queries(ledger) == (2, 2, 2)
    second, ledger, _ = teacher(CacheSpec("row"), tmp_path, run=2)
    assert [b.rows.tolist() for b in second.answer(rows([8, 5, 3], False)).forwards] == [[5]]
    assert queries(ledger) == (1, 1, 2)
    assert set(ledger.totals()["seconds"]) == {"teacher_cache", "teacher_forward", "total"}


def test_a_step_that_is_done_again_after_a_kill_is_counted_and_computed_as_at_first(tmp_path):
    """The killed process had stored some of the step's rows: they run again beside the others."""
    batch = rows([3, 1, 8, 4], False)
    first, ledger, _ = teacher(CacheSpec("row"), tmp_path / "whole")
    first.cache.step = 5
    expected = logits(first, batch, "all")
    half, _, _ = teacher(CacheSpec("row"), tmp_path / "killed")
    half.cache.step = 5
    original = half.cache.store.write

    def killed(epoch: int, some: list[int], contents: list[int], payloads: list[bytes], run: int, step: int) -> None:
        original(epoch, some[:2], contents[:2], payloads[:2], run, step)
        raise KeyboardInterrupt

    half.cache.store.write = killed
    with pytest.raises(KeyboardInterrupt):
        half.answer(batch)
    again, ledger, _ = teacher(CacheSpec("row"), tmp_path / "killed")
    again.cache.step = 5
    said = again.answer(batch)
    assert [len(b) for b in said.forwards] == [4] and queries(ledger) == (4, 4, 0)
    assert torch.equal(said.logits.of(torch.arange(4)), expected)
    assert again.answer(batch).forwards == [] and queries(ledger) == (4, 4, 4)
    whole, ledger, _ = teacher(CacheSpec("row"), tmp_path / "killed")  # and where all rows had been stored
    whole.cache.step = 5
    assert sum(len(b) for b in whole.answer(batch).forwards) == 4 and queries(ledger) == (4, 4, 0)
    whole.cache.step = 6
    assert whole.answer(batch).forwards == [] and queries(ledger) == (4, 4, 4)


def test_alone_a_row_has_the_same_bits_whoever_is_asked_beside_it(tmp_path):
    one, _, _ = teacher(CacheSpec("row", hidden="all"), single_rows=True)
    other, _, _ = teacher(CacheSpec("row", hidden="all"), single_rows=True)
    assert torch.equal(logits(one, rows([3, 1, 8, 4, 5], False), "all")[2:3], logits(other, rows([8], False), "all"))
    said = other.answer(rows([9, 8, 10], False), False)
    assert [b.rows.tolist() for b in said.forwards] == [[9], [10]] and said.forwards[0].input_ids.shape == (1, 7)


@pytest.mark.parametrize("trouble", ["rebuild", "without", "refuse"])
def test_a_damaged_answer_is_named_and_never_used(tmp_path, trouble):
    batch = rows([3, 1, 8], False)
    expected = logits(teacher(CacheSpec("row"), tmp_path)[0], batch, "all")
    path = tmp_path / "answers" / "000001.data"
    path.write_bytes(path.read_bytes()[:-1] + b"\x77")
    who, ledger, said = teacher(CacheSpec("row"), tmp_path, run=2, on_fault=trouble)
    if trouble == "refuse":
        with pytest.raises(UserError, match=r"row 8 .* is damaged.*cache_trouble=rebuild"):
            who.answer(batch)
        return
    assert logits(who, batch, "all") == pytest.approx(expected, abs=1e-6)
    assert len(said) == 1 and "row 8" in said[0]
    assert who.cache.usable == (trouble == "rebuild")
    who.answer(batch)
    assert queries(ledger) == ((0, 0, 3) if trouble == "rebuild" else (3, 3, 0))
    third = teacher(CacheSpec("row"), tmp_path, run=3)[0].answer(batch, False)
    assert sum(len(b) for b in third.forwards) == (0 if trouble == "rebuild" else 1)


@pytest.mark.parametrize("trouble", ["rebuild", "without", "refuse"])
def test_a_full_disk_is_named_and_the_run_goes_on_as_told(tmp_path, trouble):
    """A file system of 256 KB, where one may be mounted; 200 KB of it are taken."""
    small = tmp_path / "small"
    small.mkdir()
    if os.system(f"mount -t tmpfs -o size=256k tmpfs {small} 2>/dev/null"):
        pytest.skip("no file system may be mounted here")
    try:
        who, ledger, said = teacher(CacheSpec("row", hidden="all", others=("states",)), small, on_fault=trouble)
        who.answer(rows([3, 1], False))
        (small / "filler").write_bytes(b"x" * 1024)
        with pytest.raises(OSError) as full, open(small / "filler", "ab", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        assert full.value.errno == errno.ENOSPC
        more = rows([8, 4, 5, 6, 7, 9, 10, 11], False)
        if trouble == "refuse":
            with pytest.raises(UserError, match="No space left.*free some space"):
                who.answer(more)
            return
        assert [len(b) for b in who.answer(more).forwards] == [8]
        assert len(said) == 1 and "No space left" in said[0]
        assert who.answer(rows([1, 3], False)).forwards == [] or trouble == "without"
        assert queries(ledger) == ((10, 10, 2) if trouble == "rebuild" else (12, 10, 0))
    finally:
        os.system(f"umount -l {small}")
