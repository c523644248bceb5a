"""One value for a key that takes a list: the list of it, on a command line, in a sweep and in configuration files."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from kdlab.config.composition import composition, to_plain
from kdlab.config.saved import read_config
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.storage.files import atomic_write_text
from kdlab.sweeps.expansion import Expansion, jobs

TASK = "+exp=adads_finetune"


def composed(*overrides: str) -> dict:
    found, _ = composition([TASK, *overrides])
    checked(found)
    return to_plain(found)


def test_one_column_is_a_list_of_one():
    assert composed("data.columns=question")["data"]["columns"] == ["question"]
    assert composed("data.columns=question") == composed("data.columns=[question]")
    assert checked(composition([TASK, "data.columns=question"])[0]).data.columns == ["question"]
    assert composed("data.columns=[a,b]")["data"]["columns"] == ["a", "b"]
    assert composed("data.columns=null")["data"]["columns"] is None


def test_every_other_list_takes_one_value_as_well():
    found = checked(
        composition(
            [TASK, "student.freeze=word_embeddings", "confirm=trainer.max_steps", "knowledge.phases=0.5",
             "teachers.finetune.freeze=pooler"]
        )[0]
    )  # fmt: skip
    assert found.student.freeze == ["word_embeddings"] and found.confirm == ["trainer.max_steps"]
    assert found.knowledge.phases == [0.5] and found.teachers.finetune.freeze == ["pooler"]
    suite = checked(composition(["+exp=glue", "student.path=x", "suite.tasks=rte", "suite.seeds=3"])[0]).suite
    assert (suite.tasks, suite.seeds) == (["rte"], [3])


def test_an_interpolation_of_a_list_and_an_empty_text_stay():
    assert composed("student=whole")["student"]["freeze"] == ["word_embeddings"]
    with pytest.raises(UserError, match="data.columns"):
        composed("data.columns=''")


def test_a_sweep_over_single_columns(tmp_path: Path):
    made = jobs(Expansion([TASK, "data.columns=question,title,[question,title]"], []), {})
    assert [job.config.data.columns for job in made] == [["question"], ["title"], ["question", "title"]]
    assert [job.resolved["data"]["columns"] for job in made] == [job.config.data.columns for job in made]


def test_a_configuration_file_with_one_column(tmp_path: Path):
    """A config.yaml that was written by hand, and a choice in a folder of --config-dir."""
    plain = composed("data.columns=question")
    plain["data"]["columns"] = "question"
    atomic_write_text(tmp_path / "config.yaml", OmegaConf.to_yaml(plain))
    assert checked(OmegaConf.create(read_config(tmp_path))).data.columns == ["question"]
    (tmp_path / "data").mkdir()
    own = "defaults:\n  - labelled_demo\n  - _self_\ncolumns: question\n"
    (tmp_path / "data" / "mine.yaml").write_text(own)
    found = composed("data=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert found["data"]["columns"] == ["question"]
