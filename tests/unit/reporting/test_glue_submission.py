"""Files for the GLUE server: names, formats, and which rows the diagnostic set has."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch

from kdlab.data.tasks.registry import AX, GLUE, TASKS
from kdlab.data.tasks.sources import TaskFolder, diagnostics
from kdlab.errors import UserError
from kdlab.reporting import glue_submission


def test_the_eleven_files_of_the_server():
    files = {file for name in GLUE for file in TASKS[name].glue.values()} | set(AX.glue.values())
    assert files == set(glue_submission.ROWS) and len(files) == 11


@pytest.mark.parametrize(
    ("task", "logits", "lines"),
    [
        ("cola", [[0.0, 1.0], [2.0, 1.0]], ["1", "0"]),
        ("wnli", [[0.0, 1.0]], ["1"]),
        ("qqp", [[3.0, 1.0]], ["0"]),
        ("rte", [[0.0, 1.0], [2.0, 1.0]], ["not_entailment", "entailment"]),
        ("qnli", [[5.0, 1.0]], ["entailment"]),
        ("mnli", [[0, 0, 1.0], [0, 1.0, 0], [1.0, 0, 0]], ["contradiction", "neutral", "entailment"]),
        ("stsb", [[-1.0], [2.5], [7.0]], ["0.000000", "2.500000", "5.000000"]),
    ],
)
def test_answers_are_written_as_the_server_reads_them(task, logits, lines):
    assert glue_submission.written(torch.tensor(logits), TASKS[task]) == lines


def test_the_zip_depends_on_the_files_alone():
    files = {"RTE.tsv": "index\tprediction\n0\tentailment\n", "CoLA.tsv": "index\tprediction\n0\t1\n"}
    made = glue_submission._zip(files)
    assert made == glue_submission._zip(dict(reversed(files.items())))
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name).decode() for name in archive.namelist()} == files
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("where", ["AX/test.tsv", "diagnostic/diagnostic.tsv", "MNLI/diagnostic.tsv"])
def test_the_diagnostic_set_is_found_where_people_keep_it(where, tmp_path):
    (tmp_path / "MNLI").mkdir()
    source = TaskFolder(str(tmp_path / "MNLI"), TASKS["mnli"])
    with pytest.raises(UserError, match="AX/test.tsv"):
        diagnostics(source)
    file = tmp_path / where
    file.parent.mkdir(exist_ok=True)
    file.write_text("index\tsentence1\tsentence2\n0\tThe cat sat.\tThe cat did not sit.\n1\ta\tb\n")
    rows = diagnostics(source)
    assert [row.texts for row in rows] == [("The cat sat.", "The cat did not sit."), ("a", "b")]
    assert {row.label for row in rows} == {None}
