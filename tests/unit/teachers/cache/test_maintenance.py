"""Cached answers in `kdlab artifacts`: list, verify and prune."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdlab.artifacts import main
from kdlab.storage.artifacts import TAG, TAG_TEXT, key_of
from kdlab.teachers.cache.disk_store import ENTRY, HEAD, DiskStore
from tests.unit.teachers.cache.test_store import ROWS, content, put

FACTS = {"teacher": "0123456789abcdef" * 4, "precision": "bf16-mixed"}
KEY = key_of(FACTS)
NAME = f"answers/{KEY}.answers"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with answers to four rows, used last in 1970."""
    (tmp_path / TAG).write_text(TAG_TEXT)
    store = opened(tmp_path)
    put(store, [5, 6, 7])
    put(store, [60])
    store.close()
    os.utime(tmp_path / NAME / "answers.json", (0, 0))
    return tmp_path


def opened(root: Path) -> DiskStore:
    store = DiskStore(root / NAME, KEY, ROWS, FACTS, {"teacher": "bert", "data": "data/SST-2"})
    store.open(pytest.fail)
    return store


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    return code, capsys.readouterr().out


def test_list_says_whose_answers_to_what_and_how_many(root, capsys):
    size = sum(path.stat().st_size for path in (root / NAME).iterdir())
    code, out = told(capsys, "list", "--root", str(root), "--runs", str(root / "outputs"))
    assert code == 0
    assert (
        f"{NAME}   {size / 1000:.3g} KB  used 1970-01-01  4 of 64 rows, teacher bert on data/SST-2, bf16-mixed" in out
    )
    assert "1 artifacts" in out
    (root / "outputs" / "run").mkdir(parents=True)
    (root / "outputs" / "run" / "result.json").write_text(json.dumps({"artifacts": [NAME]}))
    store = opened(root)
    put(store, [1, 2], epoch=3)
    put(store, [1, 2, 3], epoch=4)
    _, out = told(capsys, "list", "--root", str(root), "--runs", str(root / "outputs"), "--kind", "answers")
    assert f"by {root / 'outputs' / 'run'}  9 rows in 2 epochs of 64," in out


def test_whole_answers_are_ok(root, capsys):
    code, out = told(capsys, "verify", "--root", str(root))
    assert code == 0 and f"{NAME}  ok" in out and "1 artifacts checked, 0 damaged" in out


def flipped(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x55
    path.write_bytes(data)


DAMAGES = {
    "an answer": (lambda at: flipped(at / "000001.data", HEAD), "000001.data, at byte 64: its checksum differs"),
    "the end of the data": (lambda at: os.truncate(at / "000001.data", HEAD + 70), "is truncated: 134 of"),
    "no data": (lambda at: (at / "000001.data").unlink(), "000001.data is missing, and 3 more"),
    "other data": (lambda at: flipped(at / "000001.data", 8), "000001.data belongs to other answers, and 3 more"),
    "where it lies": (lambda at: flipped(at / "rows.index", HEAD + 6 * ENTRY.itemsize), "checksum differs"),
    "the end of the index": (lambda at: os.truncate(at / "rows.index", 500), "rows.index is truncated: 500 of 2112 bytes"),
    "the index's head": (lambda at: flipped(at / "rows.index", 0), "rows.index is no file of answers"),
    "what they are": (lambda at: (at / "answers.json").write_text("{"), "answers.json is not what was written"),
    "not what they are": (lambda at: (at / "answers.json").unlink(), "it has no answers.json"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
def test_verify_names_damage(root, capsys, what):
    damage, line = DAMAGES[what]
    damage(root / NAME)
    code, out = told(capsys, "verify", "--root", str(root))
    assert code == 1 and "1 artifacts checked, 1 damaged" in out
    (found,) = [one for one in out.splitlines() if one.startswith(NAME)]
    assert "DAMAGED: " in found and line in found


def test_answers_under_the_name_of_others_are_named(root, capsys):
    (root / NAME).rename(root / "answers" / "0123456789abcdef.answers")
    code, out = told(capsys, "verify", "--root", str(root))
    assert code == 1 and f"answers.json belongs to other answers (key {KEY})" in out


def test_prune_takes_what_no_run_names_and_nobody_has_used_for_a_day(root, capsys):
    runs = root / "outputs"
    (runs / "run").mkdir(parents=True)
    result = runs / "run" / "result.json"
    given = ["prune", "--unused", "--root", str(root), "--runs", str(runs)]
    result.write_text(json.dumps({"artifacts": [NAME]}))
    assert NAME not in told(capsys, *given, "--delete")[1] and (root / NAME).is_dir()
    result.write_text(json.dumps({"artifacts": []}))
    code, out = told(capsys, *given)
    assert code == 0 and f"{NAME}  would go" in out and "no run names it" in out and (root / NAME).is_dir()
    opened(root).close()  # a run has used it just now
    assert NAME not in told(capsys, *given)[1]
    os.utime(root / NAME / "answers.json", (0, 0))
    assert f"{NAME}  removed" in told(capsys, *given, "--delete")[1]
    assert list((root / "answers").iterdir()) == []


def test_prune_by_age_and_by_kind(root, capsys):
    given = ["prune", "--root", str(root), "--delete"]
    assert told(capsys, *given)[0] == 0 and (root / NAME).is_dir()  # nothing was asked for
    (root / "corpus").mkdir()
    assert NAME not in told(capsys, *given, "--kind", "corpus")[1]
    assert f"{NAME}  removed" in told(capsys, *given, "--older-than", "30")[1]


def test_prune_leaves_alone_what_a_running_process_uses(root, capsys):
    code = (
        "import sys, pathlib; from kdlab.teachers.cache.disk_store import DiskStore\n"
        f"DiskStore(pathlib.Path({str(root / NAME)!r}), {KEY!r}, {ROWS}, {FACTS!r}).open(print)\n"
    )
    # the object is dropped at once: what is open stays until the process ends, as in a run
    held = "import gc; gc.collect(); print('open', flush=True); sys.stdin.read()"
    user = subprocess.Popen(
        [sys.executable, "-c", code + held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert user.stdout is not None and user.stdout.readline() == "open\n"
    everything = ["prune", "--delete", "--kind", "answers", "--root", str(root)]
    code, out = told(capsys, *everything)
    assert code == 0 and f"{NAME}  left alone: a running process uses it" in out and (root / NAME).is_dir()
    user.communicate("")
    assert f"{NAME}  removed" in told(capsys, *everything)[1] and not (root / NAME).exists()


def test_opening_answers_while_they_are_removed_creates_new_ones(root, monkeypatch):
    """The folder is removed after its facts were read and before the lock is taken."""
    store = DiskStore(root / NAME, KEY, ROWS, FACTS)
    hold, calls = store._lock_facts, []

    def slow() -> None:
        calls.append(main(["prune", "--delete", "--kind", "answers", "--root", str(root)]) if not calls else 0)
        hold()

    monkeypatch.setattr(store, "_lock_facts", slow)
    store.open(pytest.fail)
    assert calls == [0, 0] and (root / NAME / "answers.json").is_file()
    put(store, [3])
    assert store.read(-1, [3, 5], [content(3), content(5)], pytest.fail)[1] is None  # what was there is gone


def test_unusable_caches_and_leftovers_of_kills_are_removed_without_conditions(root, capsys):
    (root / NAME / "answers.json").write_text("{")
    (root / "answers" / f".{KEY}.answers.tmp").mkdir()
    given = ["prune", "--delete", "--root", str(root)]
    out = told(capsys, *given)[1]
    assert f".{KEY}.answers.tmp  removed" in out and (root / NAME).is_dir()  # a run may be beginning it
    os.utime(root / NAME, (0, 0))
    assert f"{NAME}  removed" in told(capsys, *given)[1] and not (root / NAME).exists()
