"""Arguments of `kdlab.distill` as files and overrides; one line for each mistake, before anything is written."""

from __future__ import annotations

import datasets
import pandas
import pyarrow.parquet as parquet
import pytest
import transformers

import kdlab
from kdlab.api import inputs
from kdlab.storage.artifacts import ArtifactStore
from tests.conftest import tiny_config, tiny_tokenizer

ROWS = [{"text": "ba ke", "label": 0}, {"text": "lo mi", "label": 1}]
KINDS = {
    "list": ROWS,
    "frame": pandas.DataFrame(ROWS),
    "dataset": datasets.Dataset.from_list(ROWS),
}


def write(folder, train=None, dev=None, teacher=None, student=None, tokenizer=None):
    return inputs.write(train, dev, teacher, student, tokenizer, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_memory_become_files_of_the_same_rows(tmp_path, kind):
    inputs.check_rows(KINDS[kind], KINDS[kind])
    written = write(tmp_path, KINDS[kind], KINDS[kind])
    assert set(written) == {"data.path"}
    for split in ("train", "dev"):
        assert parquet.read_table(written["data.path"] / f"{split}.parquet").to_pylist() == ROWS


def test_class_names_of_a_dataset_are_kept(tmp_path):
    named = KINDS["dataset"].cast_column("label", datasets.ClassLabel(names=["no", "yes"]))
    place = write(tmp_path, named)["data.path"]
    from kdlab.data.tasks.sources import TaskFolder

    assert TaskFolder(str(place)).read().shape.labels == ("no", "yes")


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        (3, None, "train: int; give a folder or file, a datasets.Dataset, a pandas DataFrame or a list of dicts"),
        (datasets.DatasetDict(train=KINDS["dataset"]), None, "train: a DatasetDict with the splits train"),
        (KINDS["dataset"].to_iterable_dataset(), None, "train: an IterableDataset has no fixed rows"),
        ("rows", ROWS, "dev: a folder of rows has its own dev file"),
        (None, ROWS, "dev without train"),
        (ROWS, "rows", "dev: a path beside train rows in memory"),
    ],
)
def test_rows_of_another_type_are_refused(train, dev, message):
    with pytest.raises(kdlab.UserError, match=message.replace("(", r"\(")):
        inputs.check_rows(train, dev)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "train: no rows"),
        (pandas.DataFrame({"text": [], "label": []}), "train: no rows"),
        ([ROWS[0], "lo mi"], r"train\[1\]: str; a row is a dict"),
        ([ROWS[0], {"text": "lo mi"}], r"train\[1\]: 'label' is in this row or in train\[0\], and not in both"),
        ([ROWS[0], {"text": "lo", "label": "x"}], "train: no table of rows"),
        (pandas.DataFrame({"text": ["a", 3], "label": [0, 1]}), "train: no table of rows"),
    ],
)
def test_rows_that_are_no_table_are_refused(tmp_path, rows, message):
    with pytest.raises(kdlab.UserError, match=message):
        write(tmp_path, rows)


def test_a_number_a_folder_a_hub_name_and_a_model_may_be_a_student_or_teacher(tmp_path):
    model = transformers.AutoModelForSequenceClassification.from_config(tiny_config("bert", 1))
    for value in ("bert-base-uncased", tmp_path, model, None):
        inputs.check_model("teacher", value)
    inputs.check_model("student", 3, number="a number of layers")
    for value in (3, 2.5, True, lambda batch: batch):
        with pytest.raises(kdlab.UserError, match="teacher: .*give a transformers model, its folder or its Hub name"):
            inputs.check_model("teacher", value)
    assert inputs.paths("rows", "org/name", "org/name") == {
        "data.path": "rows", "teachers.name": "org/name", "student.path": "org/name",
    }  # fmt: skip
    assert inputs.paths(ROWS, tmp_path, 3) == {"teachers.path": str(tmp_path)}


def test_a_model_in_memory_is_written_with_its_tokenizer_and_kept_once(tmp_path):
    model = transformers.AutoModelForSequenceClassification.from_config(tiny_config("bert", 1))
    with pytest.raises(kdlab.UserError, match="teacher: a model that was loaded from no folder has no tokenizer"):
        write(tmp_path, teacher=model)
    written = write(tmp_path, teacher=model, tokenizer=tiny_tokenizer())
    store = ArtifactStore(tmp_path / "artifacts", lambda line: None)
    kept = inputs.places(written, store)
    assert not kept["teachers.path"].exists()
    for _ in range(2):
        inputs.keep(written, store)
    assert list((tmp_path / "artifacts" / "given_model").glob("[!.]*")) == [kept["teachers.path"]]
    loaded = transformers.AutoTokenizer.from_pretrained(kept["teachers.path"])
    assert loaded.get_vocab() == tiny_tokenizer().get_vocab()
    assert transformers.AutoConfig.from_pretrained(kept["teachers.path"]).num_hidden_layers == 1


def test_a_student_in_memory_has_the_tokenizer_of_the_teacher(tmp_path, teacher_folder):
    model = transformers.AutoModelForSequenceClassification.from_config(tiny_config("bert", 1))
    written = write(tmp_path, teacher=teacher_folder, student=model)
    assert set(written) == {"student.path"}
    assert (
        transformers.AutoTokenizer.from_pretrained(written["student.path"]).get_vocab() == tiny_tokenizer().get_vocab()
    )
