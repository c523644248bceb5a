"""kdlab.storage.artifacts: made once, checked when read."""

from __future__ import annotations

import calendar
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdlab import __version__
from kdlab.artifacts import main
from kdlab.errors import UserError
from kdlab.storage import artifacts
from kdlab.storage.artifacts import ArtifactStore, key_of
from kdlab.storage.files import locked, sha256_of, umask

PARTS = {"teacher": "minilm", "steps": 300, "lr": 5e-4}


def build(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "rows.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "config.json").write_text("{}")
    (folder / "data" / "rows.bin").chmod(0o600)  # as safetensors leaves its files


def listing(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    said: list[str] = []
    made = ArtifactStore(tmp_path / "artifacts", said.append)
    made.said = said  # type: ignore[attr-defined]
    return made


def test_the_key_hashes_canonical_json() -> None:
    expected = hashlib.sha256(b'{"a":[1,2],"b":{"c":null,"d":0.5}}').hexdigest()[:16]
    assert key_of({"b": {"d": 0.5, "c": None}, "a": (1, 2)}) == expected
    assert key_of({"a": 1}) != key_of({"a": 1.0}) != key_of({"a": "1"})
    with pytest.raises(ValueError):
        key_of({"a": float("nan")})
    with pytest.raises(TypeError):
        key_of({"a": Path("x")})


def test_made_once_and_found_again(store: ArtifactStore) -> None:
    assert store.find("teacher", PARTS) is None
    path = store.get("teacher", PARTS, build, "the demo teacher")
    assert path == store.root / "teacher" / key_of(PARTS)
    assert {file.stat().st_mode & 0o777 for file in path.rglob("*.*")} == {0o666 & ~umask()}
    assert store.said == [f"making the demo teacher, to be kept in {path}"]
    again = store.get("teacher", dict(reversed(PARTS.items())), lambda folder: pytest.fail("built twice"))
    assert again == path == store.find("teacher", PARTS)
    assert len(store.said) == 1
    name = f"teacher/{key_of(PARTS)}"
    files = [f"{name}/config.json", f"{name}/data/rows.bin", f"{name}/manifest.json"]
    assert listing(store.root) == ["CACHEDIR.TAG", *files]


def test_the_manifest_says_what_made_it(store: ArtifactStore) -> None:
    path = store.get("teacher", PARTS, build, "the demo teacher")
    manifest = json.loads((path / "manifest.json").read_text())
    data = bytes(range(256)) * 40
    assert manifest["parts"] == PARTS
    assert manifest["kdlab"] == __version__
    assert manifest["what"] == "the demo teacher"
    assert manifest["files"] == {
        "config.json": {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
        "data/rows.bin": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()},
    }
    assert abs(time.time() - calendar.timegm(time.strptime(manifest["created"], "%Y-%m-%dT%H:%M:%SZ"))) < 99


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # bit rot does not touch the time stamp


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (lambda path: flip(path / "data" / "rows.bin"), "data/rows.bin"),
        (lambda path: os.truncate(path / "data" / "rows.bin", 100), "data/rows.bin"),
        (lambda path: (path / "config.json").unlink(), "config.json"),
        (lambda path: flip(path / "manifest.json"), "manifest.json"),
        (lambda path: os.truncate(path / "manifest.json", 50), "manifest.json"),
        (lambda path: (path / "manifest.json").write_text("[]"), "manifest.json"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json"),
    ],
)
def test_damage_is_named_in_one_line_and_mended(store: ArtifactStore, damage: object, file: str) -> None:
    path = store.get("teacher", PARTS, build)
    damage(path)  # type: ignore[operator]
    assert store.find("teacher", PARTS) is None
    assert len(store.said) == 2
    assert file in store.said[1]
    assert store.get("teacher", PARTS, build) == path == store.find("teacher", PARTS)
    damaged, making = store.said[2:]
    assert "is damaged" in damaged
    assert file in damaged
    assert "\n" not in damaged
    assert making.startswith("making ")
    assert (path / "data" / "rows.bin").read_bytes() == bytes(range(256)) * 40


def test_the_checksum_is_in_the_line(store: ArtifactStore) -> None:
    path = store.get("teacher", PARTS, build)
    flip(path / "data" / "rows.bin")
    store.find("teacher", PARTS)
    assert hashlib.sha256((path / "data" / "rows.bin").read_bytes()).hexdigest() in store.said[-1]
    assert hashlib.sha256(bytes(range(256)) * 40).hexdigest() in store.said[-1]


def test_flipped_bytes_of_the_manifest_are_seen(store: ArtifactStore) -> None:
    path = store.get("teacher", PARTS, build) / "manifest.json"
    whole = path.read_bytes()
    value = json.loads(whole)
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            unchanged = json.loads(path.read_bytes()) == value  # a space that became another kind of space, say
        except ValueError:
            unchanged = False
        assert (store.find("teacher", PARTS) is None) != unchanged
    path.write_bytes(whole)
    assert store.find("teacher", PARTS) is not None


def test_bytes_are_read_once_by_a_store_while_the_files_stay_as_they_are(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.get("teacher", PARTS, build)
    read = list[str]()

    def counted(file: Path) -> str:
        read.append(file.name)
        return sha256_of(file)

    monkeypatch.setattr(artifacts, "sha256_of", counted)
    monkeypatch.setattr(artifacts, "SETTLED", 0.05)
    assert store.find("teacher", PARTS) == path and read  # too young to be trusted
    time.sleep(0.1)
    read.clear()
    for _ in range(3):
        assert store.find("teacher", PARTS) == store.get("teacher", PARTS, build) == path
    assert sorted(read) == ["config.json", "rows.bin"]
    before = (path / "data" / "rows.bin").stat()
    flip(path / "data" / "rows.bin")
    os.utime(path / "data" / "rows.bin", ns=(before.st_atime_ns, before.st_mtime_ns))  # which hides nothing
    assert store.find("teacher", PARTS) is None
    assert ArtifactStore(store.root).find("teacher", PARTS) is None


def test_files_added_by_readers_do_no_harm(store: ArtifactStore) -> None:
    path = store.get("teacher", PARTS, build)
    (path / "cache-1234.arrow").write_text("datasets writes such beside what it reads")
    assert store.find("teacher", PARTS) == path


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), FileNotFoundError(2, "your corpus")])
def test_a_failing_build_leaves_nothing_and_its_error_goes_on(store: ArtifactStore, error: BaseException) -> None:
    def fail(folder: Path) -> None:
        build(folder)
        raise error

    with pytest.raises(type(error)) as caught:
        store.get("teacher", PARTS, fail)
    assert caught.value is error
    assert listing(store.root) == ["CACHEDIR.TAG"]
    assert os.listdir(store.root / "teacher") == []


def test_builders_must_write_plain_files(store: ArtifactStore) -> None:
    with pytest.raises(ValueError, match="no file"):
        store.get("teacher", PARTS, lambda folder: None)
    with pytest.raises(ValueError, match="plain files.*link"):
        store.get("teacher", PARTS, lambda folder: (folder / "link").symlink_to("/etc/passwd"))
    assert os.listdir(store.root / "teacher") == []


@pytest.mark.parametrize("kind", ["", "..", "a/b", "/abs", "Upper", ".hidden"])
def test_a_kind_is_a_plain_name(store: ArtifactStore, kind: str) -> None:
    with pytest.raises(ValueError, match="plain lower-case name"):
        store.get(kind, PARTS, build)
    assert not store.root.exists()


def test_artifacts_may_be_made_of_artifacts(store: ArtifactStore) -> None:
    def student(folder: Path) -> None:
        teacher = store.get("teacher", PARTS, build)
        (folder / "student").write_bytes((teacher / "config.json").read_bytes())

    assert (store.get("student", {"of": PARTS}, student) / "student").read_text() == "{}"


def test_a_file_in_place_of_the_store_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="there is a file where a folder should be"):
        ArtifactStore(tmp_path / "file").get("teacher", PARTS, build)


def test_commands(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(store.root)]
    good = store.get("teacher", PARTS, build, "the demo teacher")
    bad = store.get("corpus", {"n": 1}, build, "a corpus")
    old = store.get("corpus", {"n": 2}, build, "an old corpus")
    flip(bad / "config.json")
    os.utime(old / "manifest.json", (0, 0))
    (store.root / "corpus" / ".0123456789abcdef.tmp").mkdir()
    (store.root / "corpus" / ".0123456789abcdef.tmp" / "half").write_text("x")
    (store.root / "corpus" / ".fedcba9876543210.lock").write_text("process 1")
    (store.root / "corpus" / "my notes").write_text("not ours")

    assert main(["list", *root]) == 0
    out = capsys.readouterr().out
    assert f"teacher/{good.name}" in out
    assert "the demo teacher" in out
    assert "used 1970-01-01" in out
    assert "3 artifacts, " in out

    assert main(["verify", *root]) == 1
    out = capsys.readouterr().out
    assert f"corpus/{bad.name}  DAMAGED: config.json has SHA-256" in out
    assert f"teacher/{good.name}  ok" in out
    assert "3 artifacts checked, 1 damaged" in out
    assert ".0123456789abcdef.tmp  unfinished" in out

    assert main(["prune", "--delete", *root]) == 0
    out = capsys.readouterr().out
    assert f"corpus/{bad.name}  removed" in out
    assert "unfinished" in out
    assert good.name not in out
    assert good.exists()
    assert old.exists()
    assert not bad.exists()
    assert sorted(os.listdir(store.root / "corpus")) == sorted(["my notes", old.name])

    assert main(["prune", "--delete", *root, "--older-than", "30"]) == 0
    assert f"corpus/{old.name}  removed" in capsys.readouterr().out
    assert good.exists()
    assert not old.exists()
    assert (store.root / "corpus" / "my notes").exists()
    assert main(["verify", *root]) == 0
    assert "1 artifacts checked, 0 damaged" in capsys.readouterr().out


def test_reading_an_artifact_keeps_it_from_being_old(store: ArtifactStore) -> None:
    path = store.get("teacher", PARTS, build)
    os.utime(path / "manifest.json", (0, 0))
    store.get("teacher", PARTS, build)
    assert main(["prune", "--delete", "--root", str(store.root), "--older-than", "1"]) == 0
    assert path.exists()


def test_a_new_one_says_what_its_making_took(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    def train(folder: Path) -> None:
        (folder / "cost.json").write_text('{"steps": 3, "queries": 17, "flops": 4500000000000, "seconds": 1.0}')
        time.sleep(0.25)

    path = store.get("teacher", PARTS, train, "a teacher")
    assert 0.2 <= json.loads((path / "manifest.json").read_text())["seconds"] <= 10
    assert main(["list", "--root", str(store.root)]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert "4.5e+12 model FLOPs, 17 teacher queries" in line
    assert f"teacher/{path.name}" in line


def test_list_and_prune_know_which_runs_used_what(
    store: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = store.get("corpus", {"n": 1}, build, "a corpus")
    other = store.get("corpus", {"n": 2}, build, "another corpus")
    fresh = store.get("corpus", {"n": 3}, build, "a third")
    assert list(store.used) == [f"corpus/{path.name}" for path in (named, other, fresh)]
    runs = tmp_path / "outputs"
    for number in range(3):
        (runs / f"run{number}").mkdir(parents=True)
        (runs / f"run{number}" / "result.json").write_text(json.dumps({"artifacts": [f"corpus/{named.name}"]}))
    (runs / "run2" / "result.json").write_text("half a fi")  # of another kdlab, or damaged: names nothing
    where = ["--root", str(store.root), "--runs", str(runs)]
    for path in (named, other):
        os.utime(path / "manifest.json", (0, 0))
    assert main(["list", *where]) == 0
    assert f"by {runs / 'run0'}, {runs / 'run1'}  a corpus" in capsys.readouterr().out
    assert main(["prune", "--unused", *where]) == 0
    out = capsys.readouterr().out
    assert f"corpus/{other.name}  would go" in out
    assert "--delete does it" in out
    assert other.exists()
    assert main(["prune", "--unused", "--delete", *where]) == 0
    assert [path.exists() for path in (named, other, fresh)] == [True, False, True]
    assert main(["prune", "--unused", "--root", str(store.root), "--runs", str(tmp_path / "nowhere")]) == 2


def test_prune_by_kind(store: ArtifactStore) -> None:
    teacher, corpus = store.get("teacher", PARTS, build), store.get("corpus", PARTS, build)
    assert main(["prune", "--delete", "--kind", "corpus", "--root", str(store.root)]) == 0
    assert (teacher.exists(), corpus.exists()) == (True, False)


def test_prune_leaves_alone_what_another_process_uses(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    path = store.get("teacher", PARTS, build)
    code = (
        "import sys, pathlib; from kdlab.storage.artifacts import ArtifactStore; import json\n"
        f"ArtifactStore(pathlib.Path({str(store.root)!r})).find('teacher', json.loads({json.dumps(json.dumps(PARTS))}))\n"
        "print('read', flush=True); sys.stdin.read()"
    )
    reader = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "read\n"
    everything = ["prune", "--delete", "--kind", "teacher", "--root", str(store.root)]
    assert main(everything) == 0
    assert "left alone: a running process uses it" in capsys.readouterr().out
    assert path.exists()
    reader.communicate("")
    assert main(everything) == 0
    assert not path.exists()


def test_a_manifest_cannot_name_files_elsewhere(store: ArtifactStore, tmp_path: Path) -> None:
    path = store.get("teacher", PARTS, build)
    manifest = json.loads((path / "manifest.json").read_text())
    (tmp_path / "secret").write_bytes(b"{}")
    for name in ("../../../secret", "/etc/passwd", "data/../config.json", "a//b"):
        body = {
            **{k: v for k, v in manifest.items() if k != "sha256"},
            "files": {name: manifest["files"]["config.json"]},
        }
        text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        (path / "manifest.json").write_text(json.dumps({**body, "sha256": hashlib.sha256(text).hexdigest()}))
        store.find("teacher", PARTS)
        assert f"names {name!r}, which is no file of the artifact" in store.said[-1]  # type: ignore[attr-defined]


def test_a_file_behind_a_link_is_none_of_the_artifact(store: ArtifactStore, tmp_path: Path) -> None:
    path = store.get("teacher", PARTS, build)
    (path / "data").rename(tmp_path / "moved")
    (path / "data").symlink_to(tmp_path / "moved")
    assert store.find("teacher", PARTS) is None
    assert "data/rows.bin is missing" in store.said[-1]  # type: ignore[attr-defined]


def test_prune_leaves_alone_what_is_being_made(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    store.get("teacher", PARTS, build)
    temporary = store.root / "teacher" / ".0123456789abcdef.tmp"
    temporary.mkdir()
    with locked(store.root / "teacher" / ".0123456789abcdef.lock"):
        assert main(["prune", "--delete", "--root", str(store.root)]) == 0
        assert temporary.exists()
        assert f"left alone: process {os.getpid()}" in capsys.readouterr().out
    assert main(["prune", "--delete", "--root", str(store.root)]) == 0
    assert not temporary.exists()


@pytest.mark.parametrize(
    "arguments",
    [["prune"], ["list", "--root", "elsewhere"], ["list", "--kind", "x"], ["prune", "--older-than=-1"]],
)
def test_commands_refuse_what_is_no_store(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts" / "cache" / "0123456789abcdef").mkdir(parents=True)  # looks like one, is not ours
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("kdlab: ")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert (tmp_path / "artifacts" / "cache" / "0123456789abcdef").exists()


def test_the_module_is_a_command(store: ArtifactStore) -> None:
    store.get("teacher", PARTS, build)
    done = subprocess.run(
        [sys.executable, "-m", "kdlab.artifacts", "verify", "--root", str(store.root)], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "1 artifacts checked, 0 damaged" in done.stdout
    assert done.stderr == ""
    assert subprocess.run([sys.executable, "-m", "kdlab.artifacts", "burn"], capture_output=True).returncode == 2
