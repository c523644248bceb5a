"""Reading labelled rows: four formats, folders, inference, and each kind of bad input as one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from kdlab.data.tasks.files import read_table
from kdlab.data.tasks.registry import TASKS
from kdlab.data.tasks.rows import LabelledRow
from kdlab.data.tasks.sources import TaskFolder, TaskHub, infer
from kdlab.errors import UserError
from kdlab.types import TaskShape

PAIR = [("a cat sat", "it sat", "yes"), ("a dog, big", 'he said "no"', "no"), ("a\u2028b", "", "yes")]
HEADER = ("sentence1", "sentence2", "label")


def write(path: Path, header, rows) -> Path:
    """`rows` as .tsv, .csv, .jsonl or .parquet, written by independent code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(
            pa.table({name: list(column) for name, column in zip(header, zip(*rows, strict=True), strict=True)}), path
        )
        return path
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
    elif path.suffix == ".csv":
        quoted = ['"' + str(field).replace('"', '""') + '"' for row in (header, *rows) for field in row]
        lines = [",".join(quoted[i : i + len(header)]) for i in range(0, len(quoted), len(header))]
    else:
        lines = ["\t".join(map(str, row)) for row in (header, *rows)]
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path


def tsv(text: str):
    return lambda folder: (folder / "train.tsv").write_bytes(text.encode("latin-1"))


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_a_table_in_every_format(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"t{suffix}", HEADER, PAIR)
    records = list(read_table(file, ("sentence1", "sentence2"), "label"))
    assert [(*record.texts, record.label) for record in records] == PAIR
    assert [record.line for record in records] == ([2, 3, 4] if suffix in (".tsv", ".csv") else [1, 2, 3])
    assert list(read_table(file, ("sentence2",), None))[1] == (records[1].line, ('he said "no"',), None)


def test_quoting_differs_between_tsv_and_csv(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_bytes(b'\xef\xbb\xbfsentence\tlabel\r\n"a, b\t1\r\n\r\nc""d\t0\r\n')
    assert [r[:3] for r in read_table(tmp_path / "t.tsv", ("sentence",), "label")] == [
        (2, ('"a, b',), "1"),
        (4, ('c""d',), "0"),
    ]
    (tmp_path / "t.csv").write_bytes(b'sentence,label\n"one\n\ntwo ""x""",1\nplain,\n')
    assert list(read_table(tmp_path / "t.csv", ("sentence",), "label")) == [
        (2, ('one\n\ntwo "x"',), "1"),
        (5, ("plain",), None),
    ]


def test_long_fields_are_read(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", ("text", "label"), [("x" * 300_000, 1)])
    assert len(next(read_table(file, ("text",), "label")).texts[0]) == 300_000


def test_typed_labels(tmp_path: Path) -> None:
    for name, labels in {"a": [0, 1], "b": [0.5, 2.0], "c": [True, False], "d": ["x", None]}.items():
        for suffix in (".jsonl", ".parquet"):
            file = write(tmp_path / f"{name}{suffix}", ("text", "label"), [("t", label) for label in labels])
            expected = {"a": ["0", "1"], "b": ["0.5", "2.0"], "c": ["True", "False"], "d": ["x", None]}[name]
            assert [record.label for record in read_table(file, ("text",), "label")] == expected


def test_a_folder_with_labels_txt(tmp_path: Path) -> None:
    for split, stem in {"train": "train", "dev": "validation", "test": "test"}.items():
        write(tmp_path / f"{stem}.tsv", HEADER, [(f"{split} a", "b", "no"), ("c", "d", "yes")])
    (tmp_path / "labels.txt").write_text("index\tvalue\tname\n0\tyes\tentailment\n1\tno\tnot_entailment\n")
    (tmp_path / "README.md").write_text("no data")
    data = TaskFolder(str(tmp_path)).read()
    assert data.shape == TaskShape(2, ("entailment", "not_entailment"), ("accuracy",))
    assert data.splits["dev"] == [LabelledRow(("dev a", "b"), 1), LabelledRow(("c", "d"), 0)]
    assert list(data.splits) == ["train", "dev", "test"]
    official = TaskFolder(str(tmp_path), task=TASKS["rte"]).read()
    assert official.splits == data.splits
    assert official.shape.metrics == ("accuracy",)
    assert official.notes == []
    with pytest.raises(UserError, match="labels.txt names the classes entailment, not_entailment; MRPC has not_equiv"):
        TaskFolder(str(tmp_path), task=TASKS["mrpc"]).read()


def test_the_order_of_labels_txt_gives_way_to_the_official_one(tmp_path: Path) -> None:
    """The same numbers may mean other classes: the files' 0 is contradiction, MNLI's 0 is entailment."""
    for split in ("train", "dev_matched", "dev_mismatched"):
        write(tmp_path / f"{split}.tsv", ("premise", "hypothesis", "label"), [("a", "b", 0), ("c", "d", 2)])
    (tmp_path / "labels.txt").write_text("index\tvalue\tname\n0\t0\tcontradiction\n1\t1\tneutral\n2\t2\tentailment\n")
    data = TaskFolder(str(tmp_path), task=TASKS["mnli"]).read()
    assert [row.label for row in data.splits["train"]] == [2, 0]
    assert list(data.splits) == ["train", "dev", "dev_mismatched"]


def test_the_class_names_that_datasets_writes_into_parquet(tmp_path: Path) -> None:
    features = {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string")}
    names = ["contradiction", "entailment", "neutral"]
    rows = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 1]}
    data = datasets.Dataset.from_dict(rows, datasets.Features({**features, "label": datasets.ClassLabel(names=names)}))
    for split in ("train", "validation"):
        data.to_parquet(tmp_path / f"{split}.parquet")
    assert TaskFolder(str(tmp_path)).read().shape.labels == tuple(names)
    official = TaskFolder(str(tmp_path), task=TASKS["mnli"]).read()
    assert [row.label for row in official.splits["train"]] == [2, 0]


def test_official_numbers_and_names_without_labels_txt(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", ("sentence", "label"), [("a", 0), ("b", "positive"), ("c", 1)])
    write(tmp_path / "dev.jsonl", ("sentence", "label"), [("d", 1.0)])
    write(tmp_path / "test.tsv", ("index", "sentence"), [(0, "x"), (1, "y")])  # as GLUE hands it out
    data = TaskFolder(str(tmp_path), task=TASKS["sst2"]).read()
    assert [row.label for row in data.splits["train"]] == [0, 1, 1]
    assert data.splits["dev"] == [LabelledRow(("d",), 1)]
    assert data.splits["test"] == [LabelledRow(("x",), None), LabelledRow(("y",), None)]


def test_hub_files_with_shards_and_hidden_test_labels(tmp_path: Path) -> None:
    for i in range(2):
        rows = [(f"{i} {j}", "q", j) for j in range(2)]
        write(tmp_path / f"train-{i:05}-of-00002.parquet", ("question1", "question2", "label"), rows)
    write(tmp_path / "validation-00000-of-00001.parquet", ("question1", "question2", "label"), [("a", "b", 1)])
    write(tmp_path / "test-00000-of-00001.parquet", ("question1", "question2", "label"), [("a", "b", -1)])
    data = TaskFolder(str(tmp_path), task=TASKS["qqp"]).read()
    assert [row.texts[0] for row in data.splits["train"]] == ["0 0", "0 1", "1 0", "1 1"]
    assert data.splits["test"] == [LabelledRow(("a", "b"), None)]


@pytest.mark.parametrize(
    ("header", "rows", "shape"),
    [
        (("sentence", "label"), [("a", "x"), ("b", "y")], TaskShape(1, ("x", "y"), ("accuracy",))),
        (("text", "label"), [("a", 3), ("b", 1)], TaskShape(1, ("1", "3"), ("accuracy",))),
        (("text", "label"), [("a", 3.5), ("b", 1)], TaskShape(1, None, ("pearson", "spearman"))),
        (("premise", "hypothesis", "gold_label"), [("a", "b", "x"), ("b", "c", "y")], TaskShape(2, ("x", "y"), ("accuracy",))),
        (("sentence1", "sentence2", "score"), [("a", "b", "-1.0"), ("b", "c", "2.2")], TaskShape(2, None, ("pearson", "spearman"))),
        (("text", "label"), [("a", -1), ("b", 1)], TaskShape(1, ("-1", "1"), ("accuracy",))),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_inferred_shapes(tmp_path: Path, header, rows, shape: TaskShape, suffix: str) -> None:
    if suffix == ".parquet":  # typed: one kind a column
        kind: type = str if any(isinstance(row[-1], str) for row in rows) else float
        rows = [(*row[:-1], kind(row[-1])) for row in rows]
    for split in ("train", "val"):
        write(tmp_path / f"{split}{suffix}", header, rows)
    TaskFolder(str(tmp_path)).check()
    data = TaskFolder(str(tmp_path)).read()
    assert infer(tmp_path) == data.shape == shape
    assert data.notes == [f"inferred: {shape}"]
    labels = [row.label for row in data.splits["dev"]]
    if shape.labels is None:
        assert labels == [float(row[-1]) for row in rows]
    else:
        assert [shape.labels[int(label or 0)] for label in labels] == [str(row[-1]).removesuffix(".0") for row in rows]


def test_given_columns_and_regression(tmp_path: Path) -> None:
    header, rows = ("id", "title", "body", "stars"), [(0, "a", "b", 1), (1, "c", "d", 5), (2, "e", "f", 3)]
    file = write(tmp_path / "reviews.csv", header, rows)
    source = TaskFolder(str(file), columns=("title", "body"), label="stars", regression=True)
    data = source.read()
    assert data.shape.regression
    assert data.shape.columns == 2
    assert len(data.splits["train"]) == 2
    assert data.notes[1] == "no dev split: 1 of 3 training rows are held out as dev"
    classes = TaskFolder(str(file), columns=("body",), label="stars").read()
    assert classes.shape.labels == ("1", "3", "5")
    many = write(tmp_path / "m.csv", ("text", "label"), [(f"t{i}", i * 2) for i in range(30)])
    assert TaskFolder(str(many)).read().shape.regression
    assert TaskFolder(str(many), regression=False).read().shape.outputs == 30


def test_fingerprints_differ_with_contents_and_settings(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.tsv", ("sentence", "label"), [("a", 0), ("b", 1)])
    sources = [
        TaskFolder(str(tmp_path)),
        TaskFolder(str(tmp_path), task=TASKS["sst2"]),
        TaskFolder(str(tmp_path), label="label"),
        TaskFolder(str(tmp_path), columns=("sentence",)),
        TaskFolder(str(tmp_path), regression=True),
    ]
    before = [source.fingerprint() for source in sources]
    assert len(set(before)) == 5
    assert before[0] == TaskFolder(str(tmp_path)).fingerprint()
    (tmp_path / "labels.txt").write_text("index\tvalue\tname\n0\t0\tno\n1\t1\tyes\n")
    assert sources[0].fingerprint() not in before


GOOD = "sentence\tlabel\na\t0\nb\t1\n"


def with_dev_file(text: str):
    def make(folder: Path) -> None:
        (folder / "train.tsv").write_text(GOOD)
        (folder / "dev.tsv").write_text(text)

    return make


def with_labels(text: str):
    def make(folder: Path) -> None:
        with_dev_file(GOOD)(folder)
        (folder / "labels.txt").write_text(text)

    return make


def twice(folder: Path) -> None:
    (folder / "train.tsv").write_text(GOOD)
    (folder / "train.csv").write_text("sentence,label\na,0\n")


def jsonl(text: str):
    return lambda folder: (folder / "train.jsonl").write_text(text)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "no train file such as train.tsv; it has no .tsv"),
        (lambda folder: (folder / "dev.tsv").write_text(GOOD), "no train file.*it has dev.tsv"),
        (twice, "split train more than once: train.csv, train.tsv"),
        (tsv(""), r"train.tsv is empty; its first line names the columns"),
        (tsv("sentence\tlabel\n"), "train.tsv, line 1: a header, and no rows below it"),
        (tsv("review\tlabel\na\t1\n"), "train.tsv, line 1: the columns are review, label, none with a usual name of a text column"),
        (tsv("sentence\tlabl\na\t1\n"), "train.tsv, line 1: no column 'label'; the columns are sentence, labl"),
        (tsv("sentence\tlabel\na\t1\nb\n"), r"train.tsv, line 3: ragged row, 1 fields where the header has 2"),
        (tsv("sentence\tlabel\na\t1\nb\t0\tc\n"), "train.tsv, line 3: ragged row, 3 fields"),
        (tsv("sentence\tlabel\na\t1\nb\xe9\t0\n"), "train.tsv, line 3: not UTF-8"),
        (tsv("sentence\tlabel\na\0\t1\n"), "train.tsv is binary"),
        (tsv("sentence\tlabel\na\t1\nb\t\n"), "train.tsv, line 3: the label is hidden"),
        (tsv("sentence\tlabel\na\t-1\nb\t-1\n"), "labels are hidden .all are -1."),
        (tsv("sentence\tlabel\na\t1\nb\t1\n"), "the labels are all '1'; at least two classes"),
        (tsv("sentence\tlabel\na\t0\na\t1\n"), "cannot be split into train and dev"),
        (tsv("sentence\tlabel\n" + "".join(f"a{i}\tid{i}\n" for i in range(25))), "train.tsv: the labels have 25 diff"),
        (with_labels("index\tvalue\tname\n0\t1\ta\n1\t1.0\tb\n"), "labels.txt: two classes are written alike"),
        (with_dev_file("sentence\tlabel\n"), "dev.tsv, line 1: a header, and no rows below it"),
        (with_dev_file("sentence\tlabel\na\t0\nb\t7\n"), "dev.tsv, line 3: unknown label '7'; known: 0, 1"),
        (with_dev_file("sentence\tlabel\na\t-1\n"), "dev.tsv, line 2: the label is hidden"),
        (with_dev_file("sentence\na\n"), "dev.tsv, line 1: no column 'label'"),
        (with_dev_file("sentence1\tsentence2\tlabel\na\tb\t0\n"), "single texts in one split and pairs in another"),
        (with_labels("index\tname\n0\ta\n"), "labels.txt, line 1: columns index, name"),
        (with_labels("index\tvalue\tname\n1\t1\ta\n"), "labels.txt, line 2: index '1'; 0 comes next"),
        (with_labels("index\tvalue\tname\n0\t0\ta\n"), "labels.txt names 1 classes"),
        (with_labels("index\tvalue\tname\n0\t0\ta\n1\t2\tb\n"), "train.tsv, line 3: unknown label '1'"),
        (jsonl('{"text": "a", "label": 1}\n{"text": 2, "label": 1}\n'), "line 2: 'text' is int '2', not text"),
        (jsonl('{"text": "a", "label": 1}\n\n{"text": "b"}\n'), "line 3: no field 'label', which the first row has"),
        (jsonl('{"text": "a", "label": [1]}\n'), r"line 1: 'label' is list"),
        (jsonl('{"text": "a"\n'), "line 1: not JSON"),
        (jsonl("[1]\n"), "line 1: list, not an object"),
        (jsonl("\n"), "train.jsonl has no rows"),
        (lambda folder: (folder / "train.csv").write_text('sentence,label\n"a,1\n'), "train.csv, line 2: unexpected end"),
        (lambda folder: (folder / "train.parquet").write_text("no"), "cannot read .*train.parquet as parquet"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_that_names_the_place(tmp_path: Path, make, words: str) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=words) as raised:
        TaskFolder(str(tmp_path)).read()
    assert "\n" not in str(raised.value)


def test_bad_input_of_official_tasks(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", HEADER, [("a", "b", "4.2"), ("c", "d", "many")])
    with pytest.raises(UserError, match="line 3: label 'many' is not a finite number"):
        TaskFolder(str(tmp_path), task=TASKS["stsb"]).read()
    with pytest.raises(UserError, match="has 2 text a row, SST-2 has 1"):
        TaskFolder(str(tmp_path), task=TASKS["sst2"]).read()
    with pytest.raises(UserError, match="line 2: unknown label '4.2'; "):
        TaskFolder(str(tmp_path), task=TASKS["mrpc"]).read()
    with pytest.raises(UserError, match="line 1: no column 'headline'; "):
        TaskFolder(str(tmp_path), columns=("headline",)).check()
    write(tmp_path / "train.tsv", HEADER, [("a", "b", "-1"), ("c", "d", "-1.0")])
    with pytest.raises(UserError, match="train.tsv, line 2: the label is hidden"):
        TaskFolder(str(tmp_path), task=TASKS["stsb"]).read()
    with pytest.raises(UserError, match="data.regression: False; STS-B is regression"):
        TaskFolder(str(tmp_path), task=TASKS["stsb"], regression=False).check()
    with pytest.raises(UserError, match="nowhere does not exist"):
        TaskFolder(str(tmp_path / "nowhere")).check()
    with pytest.raises(UserError, match="cannot read .txt"):
        TaskFolder(str(write(tmp_path / "t.txt", HEADER, PAIR))).read()


def test_a_hub_task(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Any] = []

    def load(name: str, config: str, revision: str, split: str) -> datasets.Dataset:
        requests.append((name, config, revision, split))
        labels = [-1, -1] if split.startswith("test") else [0, 2]
        names = ["contradiction", "neutral", "entailment"]  # not GLUE's order: names decide
        features = datasets.Features(
            {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
        )  # fmt: skip
        return datasets.Dataset.from_dict({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": labels}, features)

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = TaskHub(TASKS["mnli"]).read()
    assert data.splits["train"] == [LabelledRow(("a", "c"), 2), LabelledRow(("b", "d"), 0)]
    assert [row.label for row in data.splits["test_mismatched"]] == [None, None]
    assert [split for *_, split in requests][:3] == ["train", "validation_matched", "validation_mismatched"]
    assert requests[0][:3] == ("nyu-mll/glue", "mnli", TASKS["mnli"].hub.revision)
    assert TaskHub(TASKS["mnli"]).fingerprint() != TaskHub(TASKS["rte"]).fingerprint()


@pytest.mark.parametrize(("given", "held"), [({}, 10), ({"dev_share": 0.2}, 20)])
def test_a_set_without_dev_rows_gives_a_share_of_train(tmp_path: Path, given: dict[str, float], held: int) -> None:
    write(tmp_path / "train.tsv", ("text", "label"), [(f"text {i}", i % 2) for i in range(100)])
    data = TaskFolder(str(tmp_path), task=TASKS["imdb"], **given).read()  # pyright: ignore[reportArgumentType]
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 100 - held, "dev": held}


def test_the_share_of_dev_rows_is_in_the_fingerprint_where_it_counts(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", ("text", "label"), [("a", 0), ("b", 1)])
    assert len({TaskFolder(str(tmp_path), dev_share=share).fingerprint() for share in (0.1, 0.2)}) == 2
    write(tmp_path / "dev.tsv", ("text", "label"), [("c", 0)])
    assert len({TaskFolder(str(tmp_path), dev_share=share).fingerprint() for share in (0.1, 0.2)}) == 1
    assert TaskHub(TASKS["imdb"], 0.2).fingerprint() != TaskHub(TASKS["imdb"]).fingerprint()
    assert TaskHub(TASKS["rte"], 0.2).fingerprint() == TaskHub(TASKS["rte"]).fingerprint()
