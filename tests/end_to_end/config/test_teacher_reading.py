"""Strategies that read the teacher's answers, labels or a reference model where there are none: refused in one line."""

from __future__ import annotations

import pytest

from kdlab.errors import UserError
from kdlab.stages import cache_plan
from kdlab.stages.validation import check
from tests.conftest import write_task, write_teacher
from tests.end_to_end.stages.test_several_teachers import make_stage as make_stage  # a fixture

DISK = "teachers.cache=disk"


@pytest.mark.parametrize("select", ["disagreement", "reducible"])
def test_without_cached_answers_the_setting_that_makes_them_is_offered(select, make_stage, tmp_path):
    with pytest.raises(UserError, match=f"^select={select}: {select} reads .* teachers.cache=disk makes them") as error:
        check(make_stage(f"select={select}"))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=f"select={select}: {select} reads the teacher's answers, and knowledge="):
        check(make_stage(f"select={select}", "+exp=finetune", "select.ratio=0.5", DISK))
    assert not (tmp_path / "artifacts").exists()
    stage = make_stage(f"select={select}", DISK)
    check(stage)
    check(make_stage(f"select={select}", "select.ratio=1"))  # nothing is scored
    rows, size = 1000, stage.config.data.batch_size
    assert cache_plan.max_rows(stage, rows, 3, 2) == 3 * 2 * size  # an answer for every row of a batch


def test_classes_of_regression(make_stage, tmp_path):
    rows = write_task(tmp_path / "numbers", rows=30, regression=True)
    for select in ("loss", "reducible", "disagreement"):
        with pytest.raises(UserError, match=f"select={select}: {select} read the probabilities of classes"):
            check(make_stage(f"select={select}", DISK, rows=rows))


def test_a_reference_must_be_a_trained_model_that_a_strategy_reads(make_stage, tmp_path):
    folder = write_teacher(tmp_path / "masked lm")
    for reference, select, message in (
        (folder, "entropy", "no strategy of select=entropy reads it; select=reducible does"),
        (tmp_path / "nowhere", "reducible", "no model folder, nor a run folder"),
        (folder, "reducible", "a model without a trained head|it predicts the classes"),
    ):
        with pytest.raises(UserError, match=f"^select.reference=.*: {message}"):
            check(make_stage(f"select={select}", f"select.reference='{reference}'"))
