"""Trainings before the run use the caches too: an assistant's leaves the main teacher's answers to the next."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from kdlab.errors import UserError
from kdlab.stages.finetuning import FinetuneStage
from tests.end_to_end.stages.teachers.test_assistants import ASSISTANT
from tests.end_to_end.stages.test_several_teachers import make_stage as make_stage  # a fixture

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (".*LeafSpec", ".*does not have many workers", ".*dataloader is not resumable")
]
OTHER = "adopt.assistant.temperature=2.0"


def distilled(made: FinetuneStage) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The cost of the assistant's training, and its weights."""
    folder = made.teacher_pool.folder(made.teacher_pool.members[0])
    (stage,) = [stage for stage in made.inputs.prerequisites.stages() if stage["what"].startswith("assistant")]
    return stage, safetensors.torch.load_file(Path(folder) / "model.safetensors")


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_second_assistant_asks_nobody_and_learns_the_same(make_stage, tmp_path, cache):
    """Each row is queried once, so that a first training with a cache is one without, bit for bit."""
    one = make_stage(*ASSISTANT, f"teachers.cache={cache}")
    stage, first = distilled(one)
    assert (stage["queries"], stage["cached"]) == (64, 0)  # 2 steps of 32 rows
    other = make_stage(*ASSISTANT, f"teachers.cache={cache}", OTHER)
    other.inputs.memory_stores = one.inputs.memory_stores  # of one process
    stage, second = distilled(other)
    assert (stage["queries"], stage["cached"]) == (0, 64)
    answers = list((tmp_path / "artifacts").glob("answers/*"))
    assert len(answers) == (cache == "disk")
    assert [f"answers/{folder.name}" for folder in answers] == [
        n for n in other.inputs.store.used if n.startswith("answers/")
    ]
    if cache == "disk":
        shutil.rmtree(tmp_path / "artifacts" / "assistant")
        stage, plain = distilled(make_stage(*ASSISTANT, OTHER))
        assert (stage["queries"], stage["cached"]) == (64, 0)
        assert all(torch.equal(plain[name], second[name]) for name in plain)
    assert not all(torch.equal(first[name], second[name]) for name in first)


def test_answers_of_another_precision_are_other_answers(make_stage, tmp_path):
    for precision in ("32-true", "bf16-mixed"):
        made = make_stage(*ASSISTANT, "teachers.cache=disk", f"adopt.assistant.precision={precision}")
        assert distilled(made)[0]["queries"] == 64
    assert len(list((tmp_path / "artifacts" / "answers").iterdir())) == 2


def test_over_the_limit_an_assistant_is_refused_or_asks_its_teacher(make_stage, tmp_path):
    small = ["teachers.cache=disk", "teachers.cache_limit=1e-9"]
    with pytest.raises(UserError, match=r"240 rows that the assistant learns from .* over the limit of 1e-09 GB"):
        distilled(make_stage(*ASSISTANT, *small))
    stage, _ = distilled(make_stage(*ASSISTANT, *small, "teachers.cache_over=without"))
    assert (stage["queries"], stage["cached"]) == (64, 0)
    assert not (tmp_path / "artifacts" / "answers").exists()
