"""kdlab.storage.files: whole or absent."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from kdlab.errors import UserError
from kdlab.storage import files

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc", FIPS 180-4 example


def test_writes_text_and_json_whole(tmp_path: Path) -> None:
    files.atomic_write_text(tmp_path / "a.txt", "ä\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa4\n"
    files.atomic_write_json(tmp_path / "a.json", {"b": 1, "a": [0.1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": 1,\n  "a": [\n    0.1\n  ]\n}\n'
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.txt"]


def test_json_refuses_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.atomic_write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert os.listdir(tmp_path) == []


def test_sha256_of_the_standards_example(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_of(tmp_path / "a") == ABC


def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as (writer, temporary):
        writer.write(b"new")
        assert temporary.parent == tmp_path
        assert temporary.read_bytes() == b"new"
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["a"]
    assert path.read_text() == "old"


def test_what_a_killed_writer_left_is_used_up(tmp_path: Path) -> None:
    (tmp_path / ".a.tmp").write_text("longer than what comes now")
    files.atomic_write_text(tmp_path / "a", "new")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "new"


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:2]))
    with files.replacing(tmp_path / "a") as (writer, _):
        assert writer.write(b"abc") == 3
        assert writer.hexdigest() == ABC
    assert (tmp_path / "a").read_bytes() == b"abc"


def test_two_writers_of_one_name_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "a"
    texts = [str(number) * 5000 for number in range(8)]
    threads = [threading.Thread(target=files.atomic_write_text, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "no space left"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_errors_of_the_system_become_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(UserError, match=words) as caught:
        files.atomic_write_text(tmp_path / "a", "new")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match="there is a file where a folder should be"):
        files.atomic_write_text(tmp_path / "a" / "b", "")


def test_require_space(tmp_path: Path) -> None:
    files.require_space(tmp_path / "not" / "yet", 1, "the cache")
    with pytest.raises(UserError, match=r"no space for the teacher cache: it needs 1e\+03 EB|no space for the teacher"):
        files.require_space(tmp_path / "not" / "yet", 10**21, "the teacher cache")
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (90_900_000, "90.9 MB"), (2 * 10**12, "2 TB")]
)
def test_readable_size(count: int, text: str) -> None:
    assert files.readable_size(count) == text


def test_a_lock_excludes_says_who_holds_it_and_vanishes(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with files.locked(path) as holder:
        assert holder is None
        with files.locked(path, wait=False) as other:
            assert other is not None
            assert f"process {os.getpid()} on " in other
        assert path.exists()
    assert not path.exists()
    with files.locked(path, wait=False) as holder:
        assert holder is None


def test_who_waits_for_a_lock_is_told_once_and_gets_it_afterwards(tmp_path: Path) -> None:
    path, told, order, waiting = tmp_path / "lock", [], [], threading.Event()

    def second() -> None:
        with files.locked(path, waiting=lambda note: (told.append(note), waiting.set())) as holder:
            order.append(("second", holder))

    with files.locked(path):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        order.append(("first", None))
    thread.join(10)
    assert order == [("first", None), ("second", None)]
    assert len(told) == 1
    assert os.listdir(tmp_path) == []


def test_a_library_s_file_gets_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights").write_bytes(b"abc")
    (tmp_path / "program").write_bytes(b"abc")
    (tmp_path / "program").chmod(0o700)
    (tmp_path / "sub" / "weights").chmod(0o600)  # as safetensors leaves it
    before = os.umask(0o027)
    try:
        assert files.umask() == 0o027
        files.flush_tree(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "sub" / "weights").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "program").stat().st_mode & 0o777 == 0o740
