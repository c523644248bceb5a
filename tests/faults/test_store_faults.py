"""Faults, caused: processes killed between any two system calls, full and read-only disks, races for one artifact."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kdlab.artifacts import main
from kdlab.errors import UserError
from kdlab.storage import checkpoints
from kdlab.storage.artifacts import ArtifactStore
from kdlab.storage.files import atomic_write_bytes
from kdlab.storage.tables import Table, read
from tests.support.forks import forked, in_child

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
CALLS = ["open", "write", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "ftruncate", "utime"]
PARTS = {"n": 1}
CONTENT = bytes(range(256)) * 30


def killed_at(point: int, action: Callable[[], object]) -> bool:
    """Run `action` in a process that gets SIGKILL at its system call number `point`; False if it made fewer.

    A killed write has written its first half.
    """

    def arm() -> None:
        made = 0

        def wrap(name: str) -> None:
            real = getattr(os, name)

            def call(*arguments: object, **named: object) -> object:
                nonlocal made
                if made == point:
                    if name == "write":
                        real(arguments[0], memoryview(arguments[1])[: len(arguments[1]) // 2])  # type: ignore
                    os.kill(os.getpid(), signal.SIGKILL)
                made += 1
                return real(*arguments, **named)

            setattr(os, name, call)

        for name in CALLS:
            wrap(name)

    status = in_child(action, arm)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def state(number: int) -> dict:
    return {"number": number, "w": torch.full((64,), float(number))}


def good(path: Path | None) -> int:
    """The number of the state in a checkpoint that loads whole."""
    assert path is not None
    found = checkpoints.load(path)
    assert torch.equal(found["w"], torch.full((64,), float(found["number"])))
    return found["number"]


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: SIGKILL loses no written page, so hundreds of fsyncs need no disk."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.mark.parametrize("again", [False, True], ids=["new step", "same step again"])
def test_a_checkpoint_killed_at_every_system_call(memory: Path, again: bool) -> None:
    before = memory / "before"
    for step in (20,) if again else (10, 20):
        checkpoints.save(state(step), before, step)
    saved, step = (21, 20) if again else (30, 30)
    outcomes, point = [], 0
    while True:
        folder = memory / str(point)
        shutil.copytree(before, folder)
        killed = killed_at(point, lambda folder=folder: checkpoints.save(state(saved), folder, step))
        outcomes.append(good(checkpoints.newest_valid(folder, pytest.fail)))
        checkpoints.save(state(40), folder, 40)
        last = f"step-{step if outcomes[-1] == saved else 20:08d}.ckpt"
        assert names(folder) == sorted([last, last + ".sha256", "step-00000040.ckpt", "step-00000040.ckpt.sha256"])
        if not killed:
            break
        point += 1
    assert point >= 15
    switch = outcomes.index(saved)
    assert outcomes == [20] * switch + [saved] * (len(outcomes) - switch)
    assert 0 < switch < point


def test_checkpoints_killed_at_any_time(memory: Path) -> None:
    def save_on_and_on() -> None:
        found = checkpoints.newest_valid(memory)
        start = 0 if found is None else checkpoints.step_of(found)
        for step in range(start + 1, start + 10_000):
            checkpoints.save(state(step), memory, step)

    reached = 0
    for attempt in range(15):
        child = forked(save_on_and_on)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if any(checkpoints.step_of(path) > reached for path in memory.glob("step-*.ckpt")):
                break  # it is at work
        time.sleep(0.0007 * attempt)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = checkpoints.newest_valid(memory, pytest.fail)
        assert found is not None
        assert good(found) == checkpoints.step_of(found) > reached
        reached = checkpoints.step_of(found)


def build(folder: Path) -> None:
    (folder / "deep").mkdir()
    for name in ("a", "deep/b"):
        atomic_write_bytes(folder / name, CONTENT)


@pytest.mark.parametrize("damaged", [False, True], ids=["absent", "damaged"])
def test_an_artifact_killed_at_every_system_call(memory: Path, damaged: bool) -> None:
    root, point = memory / "store", 0
    store = ArtifactStore(root, lambda line: None)
    while True:
        shutil.rmtree(root, ignore_errors=True)
        if damaged:
            (store.get("kind", PARTS, build) / "a").write_bytes(b"other")
        killed = killed_at(point, lambda: store.get("kind", PARTS, build))
        found = store.find("kind", PARTS)
        assert found is None or (found / "a").read_bytes() == CONTENT
        made = store.get("kind", PARTS, build)
        assert (made / "a").read_bytes() == (made / "deep" / "b").read_bytes() == CONTENT
        if point % 7 == 0:
            assert (
                main(["prune", "--delete", "--root", str(root)]) == 0
            )  # a lock file may be left by a kill after the rename
            assert names(root / "kind") == [made.name]
        if not killed:
            break
        point += 1
    assert point >= 15
    assert names(root / "kind") == [made.name]


SLOW_BUILDER = """
import sys, time
from pathlib import Path
from kdlab.storage.artifacts import ArtifactStore
root, builds, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def build(folder):
    with open(builds, "a") as file: file.write("built\\n")
    for number in range(10):
        (folder / str(number)).write_bytes(bytes([number]) * 10000)
        time.sleep(pause / 10)
print("got", ArtifactStore(root, lambda line: print(line, flush=True)).get("kind", {"n": 1}, build, "a slow one"))
"""


def slow_builder(root: Path, builds: Path, pause: float) -> subprocess.Popen:
    command = [sys.executable, "-c", SLOW_BUILDER, str(root), str(builds), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_three_processes_want_one_artifact_and_one_builds_it(tmp_path: Path) -> None:
    processes = [slow_builder(tmp_path / "store", tmp_path / "builds", 0.5) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert (tmp_path / "builds").read_text() == "built\n"
    assert len({output[-1] for output in outputs}) == 1
    assert sum(line.startswith("making a slow one") for output in outputs for line in output) == 1
    for output in outputs:
        waits = [line for line in output if "waiting" in line]
        assert len(waits) <= 1
        assert all("process" in line and "is making it" in line for line in waits)
    (folder,) = (tmp_path / "store" / "kind").iterdir()
    assert all((folder / str(number)).read_bytes() == bytes([number]) * 10000 for number in range(10))


def test_who_waits_for_a_killed_builder_builds_itself(tmp_path: Path) -> None:
    first = slow_builder(tmp_path / "store", tmp_path / "builds", 60)
    assert first.stdout is not None
    assert first.stdout.readline().startswith("making")
    second = slow_builder(tmp_path / "store", tmp_path / "builds", 0)
    assert second.stdout is not None
    holder = f"process {first.pid} on {os.uname().nodename}"
    assert second.stdout.readline() == f"a slow one: {holder} is making it, waiting for that\n"
    first.kill()
    output = second.communicate(timeout=60)[0].splitlines()
    first.communicate()
    assert second.returncode == 0
    assert output[-1].startswith("got ")
    assert (tmp_path / "builds").read_text() == "built\n" * 2
    assert len(names(tmp_path / "store" / "kind")) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if not made or made.returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # a store keeps the manifests it has read open


def test_a_full_disk_keeps_checkpoints_artifacts_and_tables(small_disk: Path) -> None:
    table = Table(small_disk / "metrics.csv", ["step", "loss"])
    table.write({"step": 1, "loss": 0.5})
    path = checkpoints.save({"w": torch.ones(50_000)}, small_disk / "checkpoints", 1)  # 0.2 MB
    store = ArtifactStore(small_disk / "store", lambda line: None)
    artifact = store.get("kind", PARTS, build)

    with pytest.raises(UserError, match=rf"saving a checkpoint failed in {path.parent}: no space left") as caught:
        checkpoints.save({"w": torch.ones(500_000)}, path.parent, 2)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert names(path.parent) == [path.name, path.name + ".sha256"]
    assert checkpoints.newest_valid(path.parent) == path

    with pytest.raises(UserError, match="making a big one failed.*no space left"):
        store.get("kind", {"n": 2}, lambda folder: (folder / "x").write_bytes(bytes(2_000_000)) and None, "a big one")
    assert store.find("kind", PARTS) == artifact
    assert names(small_disk / "store" / "kind") == [artifact.name]

    filler = open(small_disk / "filler", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(OSError), filler:
        while True:
            filler.write(bytes(4096))
    with pytest.raises(UserError, match="no space left"):
        while True:  # until the table's own last page is full
            table.write({"step": 2, "loss": 1 / 3})
    whole = table.path.read_bytes()
    rows = read(table.path)
    assert whole.endswith(b"\n")
    assert [row["loss"] for row in rows] == ["0.5"] + [repr(1 / 3)] * (len(rows) - 1)
    with pytest.raises(UserError, match="no space left"):
        table.rewind(2)
    assert table.path.read_bytes() == whole
    assert names(small_disk) == ["checkpoints", "filler", "metrics.csv", "store"]
    (artifact / "a").write_bytes(b"")  # damaged
    assert main(["prune", "--delete", "--root", str(store.root)]) == 0
    assert not artifact.exists()


def test_a_read_only_disk_is_one_line(small_disk: Path) -> None:
    path = checkpoints.save(state(1), small_disk / "checkpoints", 1)
    store = ArtifactStore(small_disk / "store", lambda line: None)
    artifact = store.get("kind", PARTS, build)
    table = Table(small_disk / "a.csv", ["step"])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    uses: list[Callable[[], object]] = [
        lambda: checkpoints.save(state(2), path.parent, 2),
        lambda: checkpoints.save(state(2), path.parent, 1),
        lambda: store.get("kind", {"n": 2}, build),
        lambda: table.write({"step": 1}),
        lambda: table.rewind(0),
        lambda: atomic_write_bytes(small_disk / "result.json", b"{}"),
    ]
    for use in uses:
        with pytest.raises(UserError, match="read-only") as caught:
            use()
        assert "\n" not in str(caught.value)
        assert str(small_disk) in str(caught.value)
    assert good(checkpoints.newest_valid(path.parent)) == 1
    assert store.get("kind", PARTS, build) == artifact  # what is there can be used


def test_a_file_size_limit_ends_a_checkpoint_like_a_full_disk(tmp_path: Path) -> None:
    checkpoints.save(state(1), tmp_path, 1)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    status = in_child(lambda: checkpoints.save({"w": torch.ones(100_000)}, tmp_path, 2), limit)
    assert os.WEXITSTATUS(status) == 2  # UserError
    assert good(checkpoints.newest_valid(tmp_path)) == 1
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_every_failing_call_of_a_save_leaves_the_earlier_files(
    memory: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """The n-th `call` fails, for each n of a save."""
    checkpoints.save(state(10), memory, 10)
    before = {name: (memory / name).read_bytes() for name in names(memory)}
    real, complaints, left = getattr(os, call), [], 0

    def fail(*arguments: object, **named: object) -> object:
        nonlocal left
        left -= 1
        if left == -1:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    for point in range(100):
        left = point
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            try:
                checkpoints.save(state(20), memory, 20)
                break
            except UserError as error:
                complaints.append(str(error))
        assert not [name for name in names(memory) if "tmp" in name]
        assert {name: (memory / name).read_bytes() for name in before} == before
        assert good(checkpoints.newest_valid(memory, lambda line: pytest.fail(line))) in (10, 20)
        for name in set(names(memory)) - set(before):
            (memory / name).unlink()
    assert left >= 0  # the last save met no failure
    assert len(complaints) == point >= 1
    assert all(str(memory) in line and "\n" not in line for line in complaints)


def test_a_run_killed_while_it_writes_a_table_and_resumed_has_the_same_bytes(memory: Path) -> None:
    def rows(table: Table, start: int) -> None:
        for step in range(start, 6):
            table.write({"step": step, "loss": 1 / (step + 1)})

    whole = Table(memory / "whole.csv", ["step", "loss"])
    rows(whole, 0)
    for point in range(60):
        path = memory / f"{point}.csv"
        killed = killed_at(point, lambda path=path: rows(Table(path, ["step", "loss"]), 0))
        table = Table(path, ["step", "loss"])
        resume = max(0, len(read(path)) - 1)  # from a checkpoint one row earlier
        table.rewind(resume)
        rows(table, resume)
        assert path.read_bytes() == whole.path.read_bytes()
        if not killed:
            break
    assert not killed
    assert point >= 15
