"""Users' own files: class names by file, labels as written, missing labels, joined files, compression, encodings."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from kdlab.data.tasks.registry import TASKS
from kdlab.data.tasks.rows import TaskData
from kdlab.data.tasks.sources import TaskFolder
from kdlab.errors import UserError

TSV = "sentence\tlabel\n"


def read(folder: Path, files: Mapping[str, Any], **settings: Any) -> TaskData:
    """The rows of a folder of these files: bytes, text, or a table for .parquet."""
    for name, content in files.items():
        if isinstance(content, datasets.Dataset):
            content.to_parquet(folder / name)
        elif isinstance(content, pa.Table):
            parquet.write_table(content, folder / name)
        else:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    source = TaskFolder(str(folder), **settings)
    source.check()
    return source.read()


def named(data: TaskData, split: str) -> list[str]:
    """The class names of the rows of a split."""
    assert data.shape.labels is not None
    return ["hidden" if row.label is None else data.shape.labels[int(row.label)] for row in data.splits[split]]


def numbered(names: list[str], labels: list[int]) -> datasets.Dataset:
    """Rows whose labels are numbers of `names`, as `datasets` writes them."""
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"sentence": [f"s{i}" for i in range(len(labels))], "label": labels}, features)


def table(labels: list[Any]) -> pa.Table:
    return pa.table({"sentence": [f"s{i}" for i in range(len(labels))], "label": labels})


# ---- labels go by name


def test_each_file_numbers_its_classes_in_its_own_way(tmp_path: Path) -> None:
    files = {
        "train-00000-of-00002.parquet": numbered(["a", "b", "c"], [0, 1, 2]),
        "train-00001-of-00002.parquet": numbered(["c", "a"], [0, 1]),
        "dev.parquet": numbered(["b", "c"], [0, 1]),
        "test.parquet": numbered(["c", "b", "a"], [0, 2, -1]),
    }
    data = read(tmp_path, files)
    assert data.shape.labels == ("a", "b", "c")
    assert named(data, "train") == ["a", "b", "c", "c", "a"]
    assert named(data, "dev") == ["b", "c"]
    assert named(data, "test") == ["c", "a", "hidden"]


def test_names_in_text_files_go_with_numbers_that_have_names(tmp_path: Path) -> None:
    data = read(tmp_path, {"train.tsv": TSV + "x\tb\ny\ta\n", "dev.parquet": numbered(["b", "a"], [0, 1])})
    assert named(data, "dev") == ["b", "a"]
    more = tmp_path / "more"
    more.mkdir()
    data = read(more, {"train.parquet": numbered(["1", "2", "3"], [0, 1, 2]), "dev.parquet": numbered(["2"], [0])})
    assert named(data, "train") == ["1", "2", "3"]  # a name that is a number is no number of the file
    assert named(data, "dev") == ["2"]


def test_official_classes_by_the_names_of_each_file(tmp_path: Path) -> None:
    files = {
        "train.parquet": numbered(["negative", "positive"], [0, 1]),
        "dev.parquet": numbered(["pos", "neg"], [0, 1]),
    }
    data = read(tmp_path, files, task=TASKS["sst2"])
    assert named(data, "train") == ["negative", "positive"]
    assert named(data, "dev") == ["positive", "negative"]
    with pytest.raises(UserError, match="dev.parquet names the classes good, bad; SST-2 has negative, positive"):
        read(tmp_path, {"dev.parquet": numbered(["good", "bad"], [0])}, task=TASKS["sst2"])


@pytest.mark.parametrize(
    ("files", "task", "words"),
    [
        ({"train.parquet": numbered(["a", "b"], [0, 1]), "dev.tsv": TSV + "x\tb\ny\t1\n"}, None,
         "dev.tsv, line 3: the label is the number 1 without a name, and .*train.parquet names its numbers"),
        ({"train.parquet": numbered(["a", "b"], [0, 1]), "dev.parquet": table([0, 1])}, None,
         "dev.parquet, row 1: the label is the number 0 without a name"),
        ({"train.tsv": TSV + "x\t0\ny\t1\n", "dev.parquet": numbered(["a", "b"], [0, 1])}, None,
         "train.tsv, line 2: the label is the number 0 without a name, and .*dev.parquet names"),
        ({"train.parquet": numbered(["1", "2", "3"], [0, 1, 2]), "dev.tsv": TSV + "x\t1\n"}, None,
         "dev.tsv, line 2: the label is the number 1 without a name"),
        ({"train.parquet": numbered(["positive", "negative"], [0, 1]), "dev.tsv": TSV + "x\t1\n"}, TASKS["sst2"],
         "dev.tsv, line 2: the label is the number 1 without a name"),
        ({"train.parquet": numbered(["a", "b"], [0, 1]), "dev.parquet": numbered(["b", "c"], [0, 1])}, None,
         "dev.parquet, row 2: the class 'c' .1 in this file. is new; known: a, b"),
    ],
)  # fmt: skip
def test_numbers_that_can_differ_are_refused(tmp_path: Path, files, task, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read(tmp_path, files, task=task)


def test_numbers_that_cannot_differ_are_read(tmp_path: Path) -> None:
    files = {"train.parquet": numbered(["negative", "positive"], [0, 1]), "dev.tsv": TSV + "x\t1\n"}
    assert named(read(tmp_path, files, task=TASKS["sst2"]), "dev") == ["positive"]  # the official order
    labels = "index\tvalue\tname\n0\t0\tnegative\n1\t1\tpositive\n"
    assert named(read(tmp_path, {"labels.txt": labels}), "dev") == ["positive"]  # labels.txt says what 1 is
    swapped = {"train.parquet": numbered(["positive", "negative"], [0, 1])}
    assert named(read(tmp_path, swapped), "train") == ["positive", "negative"]
    other = {"train.parquet": numbered(["good", "bad"], [0, 1])}  # names that labels.txt lacks: its numbers hold
    assert named(read(tmp_path, other), "train") == ["negative", "positive"]
    with pytest.raises(UserError, match="numbers the classes good, bad, .*dev.parquet bad, good: write these names"):
        (tmp_path / "dev.tsv").unlink()
        read(tmp_path, {"dev.parquet": numbered(["bad", "good"], [0, 1])})


# ---- labels as they are written


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl", "parquet"])
def test_classes_are_kept_as_written(tmp_path: Path, suffix: str) -> None:
    for labels in (["1_1", "11", "01", "1"], ["1234567890123456789", "1234567890123456788"]):
        rows = [(f"s{i}", label) for i, label in enumerate(labels)]
        content: Any = {
            "tsv": TSV + "".join(f"{text}\t{label}\n" for text, label in rows),
            "csv": "sentence,label\n" + "".join(f'{text},"{label}"\n' for text, label in rows),
            "jsonl": "".join(json.dumps({"sentence": text, "label": label}) + "\n" for text, label in rows),
            "parquet": table(labels),
        }[suffix]
        data = read(tmp_path, {f"train.{suffix}": content, f"dev.{suffix}": content})
        assert sorted(data.shape.labels or ()) == sorted(labels)
        assert named(data, "dev") == labels


def test_long_numbers_of_a_numeric_column_stay_exact(tmp_path: Path) -> None:
    labels = [1234567890123456789, 1234567890123456788]
    lines = "".join(json.dumps({"sentence": "s", "label": label}) + "\n" for label in labels)
    assert named(read(tmp_path, {"train.parquet": table(labels), "dev.jsonl": lines}), "dev") == [*map(str, labels)]


def test_booleans_are_the_same_classes_in_every_format(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"sentence": "s", "label": label}) + "\n" for label in (True, False))
    numbers = {"test.tsv": TSV + "x\t1\ny\t0\n"}
    data = read(
        tmp_path,
        {"train.parquet": table([True, False]), "dev.csv": "sentence,label\nx,true\ny,FALSE\n", **numbers},
    )
    assert data.shape.labels == ("False", "True")
    assert [named(data, split) for split in ("train", "dev", "test")] == [["True", "False"]] * 3
    (tmp_path / "dev.csv").unlink()
    assert named(read(tmp_path, {"dev.jsonl": lines}), "dev") == ["True", "False"]
    official = read(tmp_path, {}, task=TASKS["sst2"])
    assert named(official, "train") == ["positive", "negative"]


# ---- labels that are missing or no numbers


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("tsv", TSV + "a\t0\nb\t1\nc\tnan\n", "train.tsv, line 4: the label 'nan' is no finite number"),
        ("csv", "sentence,label\na,0\nb,1\nc,NaN\n", "train.csv, line 4: the label 'NaN' is no finite number"),
        ("csv", "sentence,label\na,x\nb,nan\n", "train.csv, line 3: the label 'nan' is no finite number"),
        ("tsv", TSV + "a\t0.5\nb\t1.5\nc\tinf\n", "train.tsv, line 4: the label 'inf' is no finite number"),
        ("tsv", TSV + "a\t0.5\nb\t-Infinity\n", "train.tsv, line 3: the label '-Infinity' is no finite number"),
        ("tsv", TSV + "a\t0.5\nb\t1e999\n", "train.tsv, line 3: the label '1e999' is no finite number"),
        ("jsonl", '{"text": "a", "label": 0}\n{"text": "b", "label": NaN}\n', "train.jsonl, line 2: the label is hidden"),
        ("jsonl", '{"text": "a", "label": 0.5}\n{"text": "b", "label": Infinity}\n',
         "train.jsonl, line 2: the label is inf, not a finite number"),
        ("csv", "sentence,label\na,0.5\nb,1.5\nc,N/A\n", "train.csv, line 4: the label 'N/A' stands among numbers"),
        ("jsonl", '{"text": "a", "label": "1"}\n{"text": "b", "label": "None"}\n',
         "train.jsonl, line 2: the label 'None' stands among numbers"),
        ("tsv", TSV + "a\t0\nb\t" + "9" * 5000 + "\n", "train.tsv, line 3: the label '9{50,80}\\.\\.\\. is no finite number"),
        ("parquet", table([0.0, 1.0, float("nan")]), "train.parquet, row 3: the label is hidden .empty, NaN or -1."),
        ("parquet", table([0, 1, None]), "train.parquet, row 3: the label is hidden"),
        ("parquet", table([0.5, float("inf"), 1.0]), "train.parquet, row 2: the label is inf, not a finite number"),
    ],
)  # fmt: skip
def test_labels_that_are_no_numbers_are_named_by_row(tmp_path: Path, name: str, content: Any, place: str) -> None:
    with pytest.raises(UserError, match=place):
        read(tmp_path, {f"train.{name}": content})


def test_nan_is_hidden_in_a_test_split_and_refused_in_dev(tmp_path: Path) -> None:
    train = TSV + "a\t0\nb\t1\n"
    files = {"train.tsv": train, "dev.tsv": train, "test.parquet": table([float("nan"), 1.0])}
    assert named(read(tmp_path, files), "test") == ["hidden", "1"]
    with pytest.raises(UserError, match="dev.tsv, line 2: the label is hidden"):
        read(tmp_path, {"dev.tsv": TSV + "a\tnan\n"})
    with pytest.raises(UserError, match="dev.tsv, line 2: unknown label 'inf'"):
        read(tmp_path, {"dev.tsv": TSV + "a\tinf\n"})


def test_a_class_that_is_called_nan_stands_in_labels_txt(tmp_path: Path) -> None:
    """ "nan" is the code of a language."""
    rows = TSV + "a\tnan\nb\tyue\n"
    labels = "index\tvalue\tname\n0\tnan\tMin Nan\n1\tyue\tCantonese\n"
    data = read(tmp_path, {"train.tsv": rows, "dev.tsv": rows, "labels.txt": labels})
    assert named(data, "dev") == ["Min Nan", "Cantonese"]


def test_a_placeholder_among_words_is_a_class(tmp_path: Path) -> None:
    rows = TSV + "a\tNone\nb\tnegative\n"
    assert read(tmp_path, {"train.tsv": rows, "dev.tsv": rows}).shape.labels == ("None", "negative")


def test_columns_that_the_exact_and_the_other_case_choose_differently_are_refused(tmp_path: Path) -> None:
    rows = "sentence,Label,score\na,x,0.1\nb,y,0.2\n"
    with pytest.raises(UserError, match="line 1: .*give data.label_column=Label or data.label_column=score"):
        read(tmp_path, {"train.csv": rows})
    assert read(tmp_path, {}, label="Label").shape.labels == ("x", "y")
    with pytest.raises(UserError, match=r"give data.columns=\[Sentence\] or data.columns=\[text\]"):
        read(tmp_path, {"train.csv": "Sentence,text,label\na,p,0\nb,q,1\n"})


def test_scores_with_a_decimal_comma_are_refused(tmp_path: Path) -> None:
    scores = TSV + "a\t2\nb\t0,5\nc\t1,25\n"
    words = "train.tsv, line 3: the label '0,5' has a decimal comma; write 0.5"
    for regression in (None, True):
        with pytest.raises(UserError, match=words):
            read(tmp_path, {"train.tsv": scores}, regression=regression)
    assert read(tmp_path, {}, regression=False).shape.labels == ("0,5", "1,25", "2")
    pairs = "sentence1\tsentence2\tlabel\na\tb\t"
    with pytest.raises(
        UserError, match="line 2: label '4,2' is not a finite number.*write a decimal point, not a comma"
    ):
        read(tmp_path, {"train.tsv": pairs + "4,2\n"}, task=TASKS["stsb"])


# ---- joined files, headers, columns


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.tsv", TSV + "a\t0\n" + TSV + "b\t1\n", "train.tsv, line 3: the header again .sentence, label."),
        ("train.tsv", TSV + "a\t0\nLabel\t\ufeffSentence\n1\tb\n", "train.tsv, line 3: the header again"),
        ("train.csv", 'sentence,label\na,0\n"sentence","label"\nb,1\n', "train.csv, line 3: the header again"),
        ("train.parquet", pa.table({"sentence": ["a", "sentence"], "label": ["0", "label"]}),
         "train.parquet, row 2: the names of the columns again"),
        ("train.csv", "sentence,label\n", "train.csv, line 1: a header, and no rows below it"),
        ("train.csv", "sentence,label\na,0,\nb,1,\n",
         r"train.csv, line 2: the row ends in a trailing separator.*3 fields where the header has 2 \(sentence, label\)"),
        ("train.csv", "sentence,label,\na,0\n", "train.csv, line 2: the header ends in a trailing separator"),
        ("train.csv", "sentence,label,label\na,0,1\n", "train.csv, line 1: 2 columns are called 'label'"),
        ("train.csv", "sentence,Label,LABEL\na,0,1\n", "line 1: no column 'label'; the columns are sentence, Label, LABEL"),
    ],
)  # fmt: skip
def test_headers_and_separators(tmp_path: Path, name: str, content: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read(tmp_path, {name: content})


def test_columns_match_in_any_case(tmp_path: Path) -> None:
    files = {
        "train.csv": "ID,Sentence1,SENTENCE2,Label\n1,a,b,x\n2,c,d,y\n",
        "dev.jsonl": '{"sentence1": "a", "Sentence2": "b", "LABEL": "y"}\n',
        "test.parquet": pa.table({"sentence1": ["a"], "sentence2": ["b"], "Label": ["x"]}),
    }
    data = read(tmp_path, files)
    assert data.splits["train"][1].texts == ("c", "d")
    assert [named(data, split) for split in ("train", "dev", "test")] == [["x", "y"], ["y"], ["x"]]
    given = read(tmp_path, {}, columns=("SENTENCE2",), label="label")
    assert given.splits["dev"][0].texts == ("b",)
    exact = tmp_path / "exact"
    exact.mkdir()
    rows = "Sentence,sentence,Label,label\na,b,0,x\nc,d,0,y\n"  # a name as written goes before one in another case
    data = read(exact, {"train.csv": rows, "dev.csv": rows})
    assert data.splits["dev"][0].texts == ("b",) and named(data, "dev") == ["x", "y"]


def test_a_folder_whose_name_begins_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "~rows").mkdir()
    (tmp_path / "~rows" / "train.tsv").write_text(TSV + "a\tx\nb\ty\n")
    monkeypatch.chdir(tmp_path)
    assert TaskFolder("~rows").read().shape.labels == ("x", "y")


# ---- compression and encodings


def test_compressed_files_are_read(tmp_path: Path) -> None:
    zstd = pa.Codec("zstd")
    files = {
        "train-00000-of-00002.tsv.gz": gzip.compress((TSV + "é\tx\n").encode()) + gzip.compress(b"b\ty\n"),
        "train-00001-of-00002.tsv.gz": gzip.compress((TSV + "c\tx\n").encode()),
        "dev.jsonl.zst": b"".join(
            zstd.compress(f'{{"text": "{i}", "label": "y"}}\n'.encode()).to_pybytes() for i in range(2)  # two frames
        ),
        "test.CSV.GZ": gzip.compress(b'sentence,label\n"a\nb",x\n'),
    }  # fmt: skip
    data = read(tmp_path, files)
    assert [row.texts[0] for row in data.splits["train"]] == ["é", "b", "c"]
    assert [row.texts[0] for row in data.splits["dev"]] == ["0", "1"]
    assert data.splits["test"][0].texts == ("a\nb",)
    with pytest.raises(UserError, match="split dev more than once: dev.jsonl.zst, dev.tsv"):
        read(tmp_path, {"dev.tsv": TSV})


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.tsv.gz", gzip.compress((TSV + "a\tx\n" * 99).encode(), mtime=0)[:-12], "cannot read .*train.tsv.gz: "),
        ("train.tsv.gz", TSV.encode(), "cannot read .*train.tsv.gz: Not a gzipped file"),
        ("train.tsv.zst", TSV.encode(), "cannot read .*train.tsv.zst: ZSTD decompress failed"),
        ("train.tsv.zst", pa.Codec("zstd").compress(b"a\tx\n" * 99).to_pybytes()[:-3], "train.tsv.zst: Truncated"),
        ("train.tsv.gz", gzip.compress(TSV.encode() + b"a\tx\nb\n", mtime=0), "train.tsv.gz, line 3: ragged row"),
        ("train.tsv.bz2", bz2.compress(TSV.encode()), "no train file such as train.tsv"),
        ("train.parquet.gz", b"", "no train file such as train.tsv"),
    ],
)  # fmt: skip
def test_damaged_compressed_files_are_one_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        read(tmp_path, {name: content})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32", "utf-8-sig", "gb18030", "cp500"]
)
def test_files_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    rows = TSV + "größer\tü\nb\ty\n"
    labels = "index\tvalue\tname\n0\tü\tÜ\n1\ty\tY\n"
    jsonl = json.dumps({"text": "größer", "label": "ü"}, ensure_ascii=False) + "\n"
    data = read(
        tmp_path,
        {
            "train.tsv": rows.encode(encoding),
            "dev.jsonl": jsonl.encode(encoding),
            "labels.txt": labels.encode(encoding),
            "test.tsv.gz": gzip.compress(rows.encode(encoding)),
        },
        encoding=encoding,
    )
    assert data.splits["train"][0].texts == data.splits["dev"][0].texts == ("größer",)
    assert named(data, "test") == ["Ü", "Y"]


def test_another_encoding_is_another_data_set_and_its_names_are_one(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(TSV + "a\tx\nb\ty\n")
    prints = {
        name: TaskFolder(str(tmp_path), encoding=name).fingerprint() for name in ("utf-8", "UTF8", "latin1", "latin-1")
    }
    assert prints["utf-8"] == prints["UTF8"] != prints["latin1"] == prints["latin-1"]


@pytest.mark.parametrize(
    ("content", "encoding", "words"),
    [
        (b"sentence\tlabel\na\tx\nb\xe9\ty\n", "utf-8",
         r"train.tsv, line 3: not UTF-8 \(byte 0xe9\); convert .* name its encoding, for example data.encoding=cp1252"),
        ((TSV + "a\tx\n").encode("utf-16"), "utf-8", "train.tsv is UTF-16, not utf-8 text: give data.encoding=utf-16"),
        ((TSV + "ü\tx\n").encode(), "ascii", r"train.tsv, line 2: not ascii \(byte 0xc3\); data.encoding= is another one"),
        (b"a\0b", "cp1252", "train.tsv is binary"),
        (TSV.encode(), "no-such", "data.encoding=no-such: no such text encoding; for example utf-8"),
        (TSV.encode(), "base64", "data.encoding=base64: no such text encoding"),
        (TSV.encode(), "a\0b", "no such text encoding"),
    ],
)  # fmt: skip
def test_wrong_encodings_are_one_line(tmp_path: Path, content: bytes, encoding: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read(tmp_path, {"train.tsv": content}, encoding=encoding)


def test_the_fingerprint_is_the_former_one_where_the_classes_are(tmp_path: Path) -> None:
    """Keys of artifacts outlast versions: the expected hashes are of the formula that version eb978b8 had."""

    def former(folder: Path) -> str:
        contents = [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in sorted(folder.iterdir())]
        return hashlib.sha256(json.dumps([None, None, None, None, contents]).encode()).hexdigest()

    same = ["x\ny\n", "0\n1\n", "0.5\n1\n", "1.0\n2\n", "-1\n1\n", "".join(f"{i}\n" for i in range(30))]
    other = ["1_1\n11\n", "01\n1\n", "".join(f"{i}\n" for i in range(1, 31)), "x\n01\n"]
    for number, labels in enumerate([*same, *other]):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows = "".join(f"s{i}\t{label}\n" for i, label in enumerate(labels.split()))
        (folder / "train.tsv").write_text(TSV + rows)
        assert (TaskFolder(str(folder)).fingerprint() == former(folder)) == (number < len(same)), labels
    for number, (train, dev) in enumerate((("ab", "ab"), ("ab", "ba"), ("ab", ""))):
        folder = tmp_path / f"named{number}"
        folder.mkdir()
        numbered([*train], [0, 1]).to_parquet(folder / "train.parquet")
        if dev:
            numbered([*dev], [0, 1]).to_parquet(folder / "validation.parquet")
        else:
            (folder / "dev.tsv").write_text(TSV + "x\ta\n")
        assert (TaskFolder(str(folder)).fingerprint() == former(folder)) == (train == dev)
