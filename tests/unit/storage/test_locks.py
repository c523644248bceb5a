"""Locks of folders: a living owner refuses, a dead one does not, on this machine and another, with and without flock."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdlab.errors import UserError
from kdlab.storage import locks
from kdlab.storage.files import open_locked
from kdlab.storage.locks import NAME, lock_folder, lock_new_folder, owner_of, sole_writer

OWNER = """
import sys, time
from pathlib import Path
from kdlab.storage.locks import lock_folder
lock = lock_folder(Path(sys.argv[1]))
print("refused" if lock is None else "locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that locks a folder until its input is closed; it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path, said: str = "locked", **more) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == f"{said}\n"
        return process

    yield start
    for process in started:
        if process.stdin is not None and not process.stdin.closed:
            process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "run"


def test_a_living_owner_refuses_and_a_dead_one_does_not(folder, owner):
    other = owner(folder)
    assert lock_folder(folder) is None
    assert owner_of(folder) == f"process {other.pid} on {socket.gethostname()}"
    assert "\n" not in str(locks.busy(folder, owner_of(folder)))
    other.kill()
    other.wait()
    assert (folder / NAME).exists() and owner_of(folder) is None  # the file of a killed owner stays, and blocks nobody
    lock = lock_folder(folder)
    assert lock is not None and (folder / NAME).read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    owner(folder, "refused")
    lock.release()
    assert not (folder / NAME).exists()


def test_an_owner_on_another_machine_is_named(folder):
    folder.mkdir(parents=True)
    descriptor, _ = open_locked(folder / NAME, False, None, False)
    assert descriptor is not None
    os.write(descriptor, b"process 7 on node-12")
    assert lock_folder(folder) is None and owner_of(folder) == "process 7 on node-12"
    os.close(descriptor)
    lock = lock_folder(folder)  # it has died: the file system has released the lock
    assert lock is not None
    lock.release()


def test_every_path_to_a_folder_leads_to_one_lock(folder, tmp_path, owner, monkeypatch):
    owner(folder)
    (tmp_path / "link").symlink_to(folder.parent)
    monkeypatch.chdir(folder.parent)
    for path in (tmp_path / "link" / "run", Path("run"), Path("../outputs/run")):
        assert lock_folder(path) is None


def test_an_inherited_lock_is_ones_own_and_outlives_who_passed_it_on(folder, owner):
    lock = lock_folder(folder)
    assert lock is not None
    given = {**os.environ, **lock.environment}
    child = owner(folder, env=given, pass_fds=[lock.descriptor])
    owner(folder, "refused", env=given)
    os.close(lock.descriptor)  # as if this process were killed
    locks._own.remove(lock)
    assert owner_of(folder) == f"process {child.pid} on {socket.gethostname()}" and lock_folder(folder) is None
    child.communicate()
    assert owner_of(folder) is None


def test_the_release_leaves_nothing_that_was_not_there(folder, tmp_path):
    lock = lock_folder(folder)
    assert lock is not None and folder.is_dir()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    lock = lock_folder(folder)
    assert lock is not None
    (folder / "result.json").write_text("{}")
    (folder / NAME).unlink()  # the job has released it, and another process has it by now
    (folder / NAME).write_text("another's")
    lock.release()
    assert (folder / NAME).read_text() == "another's" and (folder / "result.json").exists()


def test_forked_children_have_no_part_in_a_runs_lock(folder):
    lock = lock_folder(folder)
    assert lock is not None
    lock.withhold_from_forks()
    ready, begun = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(begun, b"x")
        signal.pause()
    os.read(ready, 1)
    descriptor = lock.descriptor
    os.close(descriptor)  # as if this process were killed, and not its loader's worker
    locks._own.remove(lock)
    lock.descriptor = -1
    try:
        assert owner_of(folder) is None
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(begun)


def test_new_folders_of_one_name_differ(folder):
    made = [lock_new_folder(folder) for _ in range(3)]
    assert [lock.path.parent.name for lock in made] == ["run", "run-2", "run-3"]
    for lock in reversed(made):
        lock.release()
    assert not folder.parent.exists()


@pytest.fixture
def without_locks(monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize(
    ("note", "free"),
    [("living", False), ("dead", True), ("process 7 on node-12", False), ("", True)],
    ids=["alive", "dead", "another machine", "no note"],
)
def test_without_locks_the_note_decides(note, free, folder, without_locks):
    folder.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        if note == "dead":
            sleeper.kill()
            sleeper.wait()
        note = f"process {sleeper.pid} on {socket.gethostname()}" if note in ("living", "dead") else note
        (folder / NAME).write_text(note)
        assert owner_of(folder) == (None if free else note)
        lock = lock_folder(folder)
        assert (lock is not None) == free
        sleeper.kill()
    if lock is not None:
        lock.release()
        assert not (folder / NAME).exists()


def test_two_writers_of_one_file_are_one_and_a_line(tmp_path):
    out = tmp_path / "report.html"
    descriptor, _ = open_locked(tmp_path / ".report.html.lock", False, None, True)
    assert descriptor is not None
    os.write(descriptor, b"process 7 on node-12")
    with pytest.raises(UserError, match=re.escape(f"{out}: process 7 on node-12 is writing it")), sole_writer(out):
        raise AssertionError
    os.close(descriptor)
    with sole_writer(out):
        out.write_text("x")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_lock_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="there is a file where a folder should be"):
        lock_folder(tmp_path / "file" / "run")
