"""Caches of another teacher or other data, truncated, damaged, or on a full disk: reported in one line, never used, and
rebuilt or left alone, by `teachers.cache_trouble`."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdlab.errors import UserError
from kdlab.teachers.cache.cache import AnswerCache, CacheUnusable
from kdlab.teachers.cache.codec import CacheSpec
from kdlab.teachers.cache.disk_store import ENTRY, HEAD, DiskStore
from tests.support.forks import forked
from tests.unit.teachers.cache.test_cache import KEY, ROWS, logits, queries, rows, teacher

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
ASKED = [3, 1, 8]


def filled(folder: Path, key: str = KEY, other: bool = False) -> Path:
    """A folder of answers to three rows; `other`: those of another teacher."""
    who, _, _ = teacher(CacheSpec("row"), folder)
    assert isinstance(who.cache, AnswerCache) and isinstance(who.cache.store, DiskStore)
    who.cache.store.close()
    at = folder / "answers"
    shutil.rmtree(at)
    store = DiskStore(at, key, ROWS, {})
    store.open(pytest.fail)
    who.cache = AnswerCache(store, CacheSpec("row"), 3, key, True, None)
    if other:
        for parameter in who.encoder.parameters():
            parameter.data = parameter.data + 1
    who.answer(rows(ASKED, False), False)
    store.close()
    return at


def another_teachers(folder: Path) -> None:
    """The folder of another teacher's answers, copied to the name of this one's."""
    filled(folder, KEY[::-1], other=True)


def another_teachers_files(folder: Path) -> None:
    """The same, with answers.json corrected by hand."""
    at = filled(folder, KEY[::-1], other=True)
    found = json.loads((at / "answers.json").read_text())
    (at / "answers.json").write_text(json.dumps({**found, "key": KEY}))


def other_data(folder: Path) -> None:
    """Answers to other texts under the same row numbers."""
    at = filled(folder)
    entries = np.fromfile(at / "rows.index", ENTRY, offset=HEAD)
    entries[ASKED] = entries[[1, 8, 3]]
    head = (at / "rows.index").read_bytes()[:HEAD]
    (at / "rows.index").write_bytes(head + entries.tobytes())


def cut(name: str, left: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        at = filled(folder) / name
        os.truncate(at, round(at.stat().st_size * left))

    return damage


def garbled(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        at = filled(folder) / name
        data = np.frombuffer(at.read_bytes(), np.uint8) ^ 0x5A
        at.write_bytes(data.tobytes())

    return damage


BAD = {
    "another teacher's folder": (another_teachers, "answers.json belongs to other answers"),
    "another teacher's files": (another_teachers_files, "rows.index belongs to other answers"),
    "other data": (other_data, "is damaged, or of other data"),
    "data cut short": (cut("000001.data", 0.5), "000001.data is truncated"),
    "data cut off": (cut("000001.data", 0.0), "000001.data is no file of answers"),
    "an index cut short": (cut("rows.index", 0.5), "rows.index is truncated"),
    "damaged data": (garbled("000001.data"), "000001.data is no file of answers"),
    "a damaged index": (garbled("rows.index"), "rows.index is no file of answers"),
    "damaged facts": (garbled("answers.json"), "answers.json is not what was written"),
}


def opened(folder: Path, trouble: str) -> Any:
    """A teacher with a cache there, as a run gives it one."""
    said: list[str] = []
    who, ledger, _ = teacher(CacheSpec("row"))
    store = DiskStore(folder / "answers", KEY, ROWS, {})
    cache = AnswerCache(store, CacheSpec("row"), 3, KEY, True, ledger, on_fault=trouble, notify=said.append)
    cache.run, who.cache = 2, None
    try:
        store.open(cache.handle_fault)
        who.cache = cache
    except CacheUnusable:
        pass
    return who, ledger, said


@pytest.mark.parametrize("what", BAD)
def test_rebuilt(tmp_path, what):
    expected = logits(teacher(CacheSpec("row"))[0], rows(ASKED, False), "all")
    BAD[what][0](tmp_path)
    who, ledger, said = opened(tmp_path, "rebuild")
    who.answer(rows(ASKED, False))
    assert torch.allclose(logits(who, rows(ASKED, False), "all"), expected, atol=1e-6)
    assert len(said) == 1 and BAD[what][1] in said[0] and said[0].endswith("the run queries the teacher again")
    asked, _, cached = queries(ledger)
    assert asked + cached == 3 and (asked > 0 or what == "damaged facts")  # answers themselves say whose they are
    again, ledger, said = opened(tmp_path, "refuse")  # nothing is wrong any more
    assert torch.allclose(logits(again, rows(ASKED, False), "all"), expected, atol=1e-6)
    again.answer(rows(ASKED, False))
    assert queries(ledger) == (0, 0, 3) and said == []


@pytest.mark.parametrize("what", BAD)
def test_without(tmp_path, what):
    BAD[what][0](tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "answers").iterdir()}
    who, ledger, said = opened(tmp_path, "without")
    expected = logits(who, rows(ASKED, False), "all", cached=False)
    assert torch.equal(logits(who, rows(ASKED, False), "all"), expected)
    who.answer(rows(ASKED, False))
    assert len(said) == 1 and BAD[what][1] in said[0] and said[0].endswith("continues without this cache")
    assert queries(ledger) == (3, 3, 0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "answers").iterdir()} == before


@pytest.mark.parametrize("what", BAD)
def test_refused(tmp_path, what):
    BAD[what][0](tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "answers").iterdir()}
    with pytest.raises(UserError) as refused:
        opened(tmp_path, "refuse")[0].answer(rows(ASKED, False))
    (line,) = str(refused.value).splitlines()
    assert BAD[what][1] in line and "teachers.cache_trouble=rebuild" in line
    assert {path.name: path.read_bytes() for path in (tmp_path / "answers").iterdir()} == before


@pytest.mark.parametrize("when", ["the index", "the answers"])
@pytest.mark.parametrize("trouble", ["rebuild", "without", "refuse"])
def test_a_full_disk_is_reported_and_handled_as_configured(tmp_path, trouble, when):
    """A limit on the size of the process's files makes a write fail as on a full disk; no disk need be mounted."""
    limit = 100 if when == "the index" else HEAD + ROWS * ENTRY.itemsize
    keeps = CacheSpec("row", hidden="all", others=("states",))

    def work() -> None:
        who, ledger, said = teacher(keeps, tmp_path, on_fault=trouble)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        found = refused = None
        try:
            found = who.answer(rows(ASKED, False)).forwards
            who.answer(rows(ASKED, False))
        except UserError as error:
            refused = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        told = {"said": said, "ran": found and [len(b) for b in found], "refused": refused, "queries": queries(ledger)}
        (tmp_path / "told.json").write_text(json.dumps(told))

    assert os.waitpid(forked(work), 0)[1] == 0
    told = json.loads((tmp_path / "told.json").read_text())
    if trouble == "refuse":
        assert "File too large in" in told["refused"] and "free some space" in told["refused"]
        return
    assert told["refused"] is None and told["ran"] == [3]
    assert len(told["said"]) == 1 and f"File too large in {tmp_path / 'answers'}; the run continues" in told["said"][0]
    assert told["queries"] == [6, 3, 0]  # nothing was kept
    assert teacher(keeps, tmp_path, run=2)[0].answer(rows(ASKED, False)).forwards != []
