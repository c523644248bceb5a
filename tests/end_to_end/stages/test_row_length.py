"""data.max_length of own rows: chosen from the data, the same in every process, and counted where it truncates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdlab.config.composition import composition, to_plain
from kdlab.config.schema import checked
from kdlab.data.tasks import dataset
from kdlab.errors import UserError
from kdlab.runs.finished import config_of
from kdlab.stages.validation import check
from tests.end_to_end.stages.test_finetuning import make_stage as make_task_stage

task_stage = make_task_stage


def cuts(made) -> list[dict[str, str]]:
    """The caveats of a stage on truncated texts; these rows also repeat texts of train."""
    return [entry for entry in made.inputs.caveats.entries if entry["kind"] == "cut_texts"]


def write_rows(folder: Path, words: list[int]) -> Path:
    """Rows of so many words in train; dev has the first four."""
    folder.mkdir()
    for split, counts in (("train", words), ("dev", words[:4])):
        lines = "".join(f"{' '.join(['ba'] * count)}\t{i % 2}\n" for i, count in enumerate(counts))
        (folder / f"{split}.tsv").write_text(f"sentence\tlabel\n{lines}")
    return folder


def test_own_rows_get_a_length_of_their_own_and_presets_keep_theirs():
    def composed(*more: str) -> dict:
        return to_plain(composition(["+exp=adads_finetune", *more])[0])["data"]

    assert composed("data.path=rows")["max_length"] == "auto"
    assert composed("data.path=rows", "scale=paper", "recipe=tinybert_paper")["max_length"] == "auto"
    assert composed("data.path=rows", "data.max_length=99")["max_length"] == 99
    assert composed()["max_length"] == 64 and composed("data.path=rows", "data.task=sst2")["max_length"] == 64
    assert composed("scale=paper", "data.task=sst5", "recipe=tinybert_paper")["max_length"] == 64
    suite = to_plain(composition(["+exp=glue", "student.path=x", "data.path=rows", "suite.tasks=[rte]"])[0])
    assert suite["data"]["max_length"] == 64


def test_pre_training_cuts_text_into_rows_and_chooses_no_length():
    with pytest.raises(UserError, match="data.max_length=auto: chosen from the rows of a task"):
        checked(composition(["+exp=adads_pretrain", "data.max_length=auto"])[0])


def test_the_length_is_chosen_once_and_found_without_reading_the_rows_again(task_stage, tmp_path):
    rows = write_rows(tmp_path / "rows", [20] * 38 + [60] * 2)  # 95 % have 22 tokens
    made = task_stage("data.max_length=auto", rows=rows)
    check(made)
    assert made.inputs.max_length == 24 and not (tmp_path / "artifacts").exists()
    assert dataset.load(made.inputs.task_folder, "train").lengths.max() == 24
    assert "data.max_length=24, chosen from the data: 95 % of the train texts have at most 22 tokens" in task_stage.said
    assert any(line.startswith("2 of 40 train texts are longer than data.max_length=24") for line in task_stage.said)
    assert cuts(made) == [] and made.inputs.facts()["max_length"] == 24
    again = task_stage("data.max_length=auto", rows=rows)
    assert again.inputs.max_length == 24 and "rows" not in vars(again.inputs)
    # the same artifacts as with the number: teachers and answers are shared
    assert again.inputs.task_parts == task_stage("data.max_length=24", rows=rows).inputs.task_parts


def test_the_length_is_at_most_what_every_model_reads(task_stage, tmp_path):
    rows = write_rows(tmp_path / "rows", [200] * 8)
    made = task_stage("data.max_length=auto", rows=rows)  # tokenizer and model read 64
    assert made.inputs.max_length == 64
    check(made)
    _ = made.inputs.task_folder
    assert cuts(made) == [
        {
            "kind": "cut_texts",
            "text": "8 of 8 train texts and 4 of 4 dev texts are longer than data.max_length=64 and are cut; the models "
            "read no more",
        }
    ]


def test_many_truncated_rows_are_a_caveat_with_a_better_length(task_stage, tmp_path):
    rows = write_rows(tmp_path / "rows", [40] * 10)  # 42 tokens
    made = task_stage("data.max_length=32", rows=rows)
    _ = made.inputs.task_folder
    [entry] = cuts(made)
    assert entry["text"] == (
        "10 of 10 train texts and 4 of 4 dev texts are longer than data.max_length=32 and are cut; 48 keeps 100 % of "
        "train whole"
    )


def test_commands_on_a_finished_run_have_the_length_that_it_chose(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    config = to_plain(composition(["+exp=adads_finetune", "data.path=gone"])[0])
    (run / "config.yaml").write_text(json.dumps(config))
    result = {
        "status": "finished", "seed": 1, "select": {"name": "all", "ratio": 1.0}, "data": {"path": "gone", "max_length": 40},
        "metrics": {"student": {"score": 0.5}},
        "ledger": {"teacher_queries": {"total": 1}, "flops": {"total": 1.0}, "seconds": {}},
    }  # fmt: skip
    (run / "result.json").write_text(json.dumps(result))
    assert config["data"]["max_length"] == "auto" and config_of(run).data.max_length == 40
