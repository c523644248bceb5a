"""Sources of text: boundaries of documents, and each kind of bad input as one line that names the file."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from kdlab.data.text import files as textfiles
from kdlab.data.text import lines as textlines
from kdlab.data.text.sources import HubText, Mixture, TextFolder, WikipediaExcerpt
from kdlab.errors import UserError


def write_parquet(path: Path, texts: list, column: str = "text", **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"id": range(len(texts)), column: texts}), path, **options)


def write_jsonl(path: Path, rows: list) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("document", "group", "expected"),
    [
        ("file", 1, ["a one\na two\n\n \t\na three\n"]),
        ("block", 1, ["a one\na two", "a three"]),
        ("block", 2, ["a one\na two a three"]),
        ("line", 1, ["a one", "a two", "a three"]),
        ("line", 2, ["a one a two", "a three"]),
    ],
)
def test_documents_of_a_txt_file(tmp_path: Path, document: str, group: int, expected: list[str]) -> None:
    file = tmp_path / "a.txt"
    file.write_text("a one\na two\n\n \t\na three\n")
    source = TextFolder(str(file), document=document, group=group)
    source.check()
    assert list(source.documents()) == expected


def test_a_folder_is_read_by_name_with_its_subfolders(tmp_path: Path) -> None:
    write_parquet(tmp_path / "b" / "c" / "train-00000-of-00002.parquet", ["p one", None, "p two", ""], row_group_size=1)
    write_jsonl(tmp_path / "a.jsonl", [{"text": "j one", "x": 1}, {"text": None}, {"text": "j two"}])
    (tmp_path / "c.TXT").write_bytes(b"\xef\xbb\xbft caf\xc3\xa9")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "README.md").write_text("no text of ours")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "d.txt").write_text("hidden")
    (tmp_path / ".e.txt").write_text("hidden")
    source = TextFolder(str(tmp_path))
    source.check()
    assert list(source.documents()) == ["j one", "j two", "p one", "p two", "t café"]
    assert list(TextFolder(str(tmp_path), group=2).documents()) == ["j one j two", "p one p two", "t café"]
    assert 0 < source.size() < 1000


def test_long_files_and_lines_come_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfiles, "LONGEST", 10)
    monkeypatch.setattr(textlines, "LONGEST", 10)
    file = tmp_path / "a.txt"
    file.write_text("one two\nfour\néééééééééé é\n\nlast", encoding="utf-8")
    parts = list(TextFolder(str(file)).documents())
    assert "".join(parts) == file.read_text(encoding="utf-8")
    assert parts[0] == "one two\n"
    assert max(map(len, parts)) <= 10
    write_jsonl(tmp_path / "b.jsonl", [{"text": "a text that is longer than ten"}, {"text": "b"}])
    assert list(TextFolder(str(tmp_path / "b.jsonl")).documents()) == ["a text that is longer than ten", "b"]


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a \\ud83d b"}\n')
    assert list(TextFolder(str(tmp_path)).documents()) == ["a ? b"]


def empty_folder(root: Path) -> None: ...


def other_files(root: Path) -> None:
    (root / "data.csv").write_text("a,b")


def empty_file(root: Path) -> None:
    (root / "a.txt").touch()


def binary(root: Path) -> None:
    (root / "a.txt").write_text("good")
    (root / "b.txt").write_bytes(b"PK\x03\x04\x00\x00")


def latin(root: Path) -> None:
    (root / "a.txt").write_bytes("one\ntwo\ncafé".encode("latin-1"))


def dangling(root: Path) -> None:
    (root / "a.txt").write_text("good")
    (root / "b.txt").symlink_to(root / "nowhere")


def no_json(root: Path) -> None:
    (root / "a.jsonl").write_text("text\n")


def no_object(root: Path) -> None:
    (root / "a.jsonl").write_text('\n["text"]\n')


def no_field(root: Path) -> None:
    write_jsonl(root / "a.jsonl", [{"texts": "a"}])


def no_string(root: Path) -> None:
    write_jsonl(root / "a.jsonl", [{"text": 3}])


def no_column(root: Path) -> None:
    write_parquet(root / "a.parquet", ["a"], column="txt")


def no_strings(root: Path) -> None:
    write_parquet(root / "a.parquet", [1, 2])


def no_parquet(root: Path) -> None:
    (root / "a.parquet").write_bytes(b"PAR1 and no more")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (empty_folder, "no .txt, .jsonl, .parquet file in .*: it is empty"),
        (other_files, r"no .txt, .jsonl, .parquet file in .*: it contains data\.csv"),
        (empty_file, r"a\.txt is empty"),
        (binary, r"b\.txt is binary \(byte 4 is 0\)"),
        (latin, r"a\.txt, line 3: not UTF-8 \(byte 0xe9\)"),
        (dangling, r"cannot read .*b\.txt: No such file"),
        (no_json, r"a\.jsonl, line 1: not JSON"),
        (no_object, r"a\.jsonl, line 2: list, not an object"),
        (no_field, r"a\.jsonl, line 1: no field 'text'; did you mean texts\?"),
        (no_string, r"a\.jsonl, line 1: field 'text' is int, not text"),
        (no_column, r"a\.parquet: no column 'text'; did you mean txt\?"),
        (no_strings, r"a\.parquet: column 'text' is int64, not text"),
        (no_parquet, r"cannot read .*a\.parquet as parquet"),
    ],
)
def test_bad_folders_are_one_line(tmp_path: Path, make, message: str) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=message) as raised:
        TextFolder(str(tmp_path)).check()
    assert "\n" not in str(raised.value)


def test_missing_folder_and_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        TextFolder(str(tmp_path / "nowhere")).check()
    (tmp_path / "a.txt").write_text("good")
    with pytest.raises(UserError, match="'page'; it is file, block or line"):
        TextFolder(str(tmp_path), document="page").check()
    with pytest.raises(UserError, match="group: 0"):
        TextFolder(str(tmp_path), group=0).check()
    with pytest.raises(UserError, match="mixture needs at least one source"):
        Mixture([]).check()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt").write_text("secret")
    (tmp_path / "b.txt").chmod(0)
    with pytest.raises(UserError, match=r"cannot read .*b\.txt: Permission denied"):
        TextFolder(str(tmp_path)).check()


def test_faults_deep_in_a_file_are_named_while_reading(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a line of text\n" * 20_000 + b"caf\xe9\n")
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n' * 3 + '{"text": \n')
    source = TextFolder(str(tmp_path))
    source.check()
    with pytest.raises(UserError, match=r"a\.txt, line 20001: not UTF-8 \(byte 0xe9\)"):
        list(source.documents())
    with pytest.raises(UserError, match=r"b\.jsonl, line 4: not JSON"):
        list(TextFolder(str(tmp_path / "b.jsonl")).documents())
    (tmp_path / "c.txt").write_bytes(b"ends in half a letter \xc3")
    with pytest.raises(UserError, match=r"c\.txt, line 1: not UTF-8"):
        list(TextFolder(str(tmp_path / "c.txt")).documents())


def test_compressed_files_and_columns_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"A.\n\nB.\n"))
    rows = b"".join(pa.Codec("zstd").compress(f'{{"Text": "{i}"}}\n'.encode()).to_pybytes() for i in range(2))
    (tmp_path / "b.jsonl.zst").write_bytes(rows)
    write_parquet(tmp_path / "c.parquet", ["C"], column="TEXT")
    source = TextFolder(str(tmp_path))
    source.check()
    assert list(source.documents()) == ["A.\n\nB.\n", "0", "1", "C"]
    assert source.size() > 0
    (tmp_path / "b.jsonl.zst").write_bytes(rows[:-4])
    with pytest.raises(UserError, match="cannot read .*b.jsonl.zst: Truncated"):
        list(source.documents())
    (tmp_path / "b.jsonl.zst").write_bytes(pa.Codec("zstd").compress(b'{"Text": "x", "TEXT": "y"}').to_pybytes())
    with pytest.raises(UserError, match="b.jsonl.zst, line 1: no field 'text'"):
        source.check()


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "shift_jis", "utf-8-sig"])
@pytest.mark.parametrize("document", ["file", "block", "line"])
def test_text_in_other_encodings(tmp_path: Path, encoding: str, document: str) -> None:
    words = "\u65e5\u672c" if encoding == "shift_jis" else "gr\u00f6\u00dfer"
    (tmp_path / "a.txt").write_bytes(f"{words}\n\n{words}\n".encode(encoding))
    (tmp_path / "b.jsonl").write_bytes(json.dumps({"text": words}, ensure_ascii=False).encode(encoding))
    source = TextFolder(str(tmp_path), document, encoding=encoding)
    source.check()
    assert "".join(source.documents()).split() == ([words] * 2 + [words] if document == "file" else [words * 3])
    plain = TextFolder(str(tmp_path), document)
    if encoding == "utf-8-sig":
        assert plain.fingerprint() == source.fingerprint()
    else:
        assert plain.fingerprint() != source.fingerprint()
        with pytest.raises(UserError, match="data.encoding="):
            plain.check()


def test_fingerprint_is_that_of_names_contents_and_settings(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_text(text)
        return str(tmp_path / name)

    same = TextFolder(folder("one", {"a.txt": "x", "b.txt": "y"})).fingerprint()
    assert TextFolder(folder("two", {"a.txt": "x", "b.txt": "y"})).fingerprint() == same
    others = [
        TextFolder(folder("three", {"a.txt": "x", "b.txt": "z"})),
        TextFolder(folder("four", {"a.txt": "x", "c.txt": "y"})),
        TextFolder(folder("five", {"a.txt": "xy"})),
        TextFolder(folder("one", {}), document="block"),
        TextFolder(folder("one", {}), group=2),
        Mixture([TextFolder(folder("one", {}))]),
        Mixture([TextFolder(folder("one", {}))] * 2),
        HubText("a", "b", "train", "main"),
        HubText("a", None, "train", "main"),
        HubText("a", "b", "train", "other"),
    ]
    assert len({same, *(source.fingerprint() for source in others)}) == len(others) + 1


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A dataset folder as the Hub lays it out; `datasets` reads it by path as it reads the Hub by name."""
    write_parquet(tmp_path / "set" / "data" / "train-00000-of-00002.parquet", ["one", "two", None, "three"])
    write_parquet(tmp_path / "set" / "data" / "train-00001-of-00002.parquet", ["four", "five", "six", "seven"])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield str(tmp_path / "set")
    datasets.enable_progress_bars()


def test_hub_text_groups_rows(hub: str) -> None:
    source = HubText(hub, None, "train", "main", group=3)
    source.check()
    assert list(source.documents()) == ["one two three", "four five six", "seven"]
    both = Mixture([TextFolder(hub + "/data", group=2), source])
    both.check()
    assert list(both.documents()) == ["one two", "three", "four five", "six seven", *source.documents()]
    assert both.size() is None
    assert Mixture([TextFolder(hub)]).size() == TextFolder(hub).size()


def test_hub_faults_are_one_line(hub: str) -> None:
    with pytest.raises(UserError, match="cannot get .* from the Hugging Face Hub: ValueError: Unknown split"):
        list(HubText(hub, None, "trian", "main").documents())
    with pytest.raises(UserError, match="cannot get .*DatasetNotFoundError|cannot get .*FileNotFoundError") as raised:
        HubText(hub + "/nowhere", None, "train", "main").check()
    assert "\n" not in str(raised.value)
    assert "data.path=FOLDER" in str(raised.value)
    with pytest.raises(UserError, match="no column 'txt'; did you mean text"):
        list(HubText(hub, None, "train", "main", text_column="txt").documents())


def test_short_revisions_are_looked_up(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = [SimpleNamespace(commit_id=start + "0" * 33) for start in ("7600e0b", "c298a5b", "7600aaa")]
    revisions = []
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_commits", lambda self, name, repo_type: commits)
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, revision, **named: (revisions.append(revision), load(*args, **named))[1]
    )
    assert len(list(HubText(hub, None, "train", "7600e0b").documents())) == 7
    assert revisions == ["7600e0b" + "0" * 33]
    with pytest.raises(UserError, match="0 commits begin with 1234567"):
        list(HubText(hub, None, "train", "1234567").documents())


def test_excerpt_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gensim, which is not installed; pip install"):
        WikipediaExcerpt().check()
