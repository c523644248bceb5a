"""select=auto and select.look=auto: the strategy a task allows, and scoring that costs half of the training on the rows kept."""

from __future__ import annotations

from typing import Any

import pytest

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.models.flops import MethodCost
from kdlab.stages.costs import auto
from kdlab.stages.registry import stage_of
from kdlab.stages.validation import check
from kdlab.testing.child_process import tiny, tiny_task


@pytest.mark.parametrize(
    ("teacher", "ratio", "layers", "share"),
    [
        (2, 0.1, 1.0, 0.25),  # 0.5 x 0.1 x (1 + 2 + 2)
        (2, 0.1, 0.5, 0.5),  # half of the layers: twice as many rows for the same FLOPs
        (9, 0.1, 1.0, 0.6),
        (100, 0.1, 1.0, 1.0),  # 5.15 batches could be afforded
        (0, 0.1, 1.0, 0.2),  # two for each row kept, though 0.15 could be afforded
        (2, 0.6, 1.0, 1.0),
    ],
)
def test_the_share_follows_from_the_cost_of_the_teacher(teacher, ratio, layers, share):
    assert auto.affordable(MethodCost(1.0, 2.0, float(teacher)), ratio, layers) == share


@pytest.fixture
def shares(tmp_path, monkeypatch, teacher_folder, task_folder) -> Any:
    """The share of a checked tiny run, and the lines printed about it."""
    monkeypatch.chdir(tmp_path)

    def of(*more: str) -> tuple[Any, list[str]]:
        lines: list[str] = []
        command = tiny_task(teacher_folder, task_folder, "select.look=auto", *more)
        stage = stage_of(checked(composition(command)[0]), lines.append)
        check(stage)
        return stage.config.select.look, [line for line in lines if "look" in line]

    return of


def test_a_run_takes_the_share_that_its_models_afford(shares):
    """The tiny student is its teacher's size, so 0.5 x 0.3 x (1 + 2 + 1) = 0.6 of the rows; of one layer of two 1.2."""
    one = ["select=entropy", "select.ratio=0.3", "student.layers=all"]
    assert shares(*one) == (0.6, ["select.look=auto: 60 % of each batch is scored, at the models' FLOPs"])
    assert shares(*one, "select.scoring=early_exit")[0] == 1.0


@pytest.mark.parametrize("more", [["select=random"], ["select=all"], ["select=entropy", "knowledge.labels_on=all"]])
def test_all_rows_are_taken_where_scores_cost_nothing(shares, more):
    assert shares(*more, "select.ratio=0.3")[0] == 1.0


def test_something_is_left_to_choose_in_a_small_batch(shares):
    """Of a batch of 16 one row is kept and two are scored, also where a sixteenth is more than the ratio."""
    for ratio in ("0.0625", "0.01"):
        assert shares("select=entropy", f"select.ratio={ratio}", "student.layers=all")[0] == 0.13


# ---- select=auto


@pytest.fixture
def arms(tmp_path, monkeypatch, teacher_folder, task_folder, text_folder) -> Any:
    """The strategies of a checked tiny run of select=auto, the share it scores, and the line printed about it."""
    monkeypatch.chdir(tmp_path)

    def of(*more: str, text: bool = False) -> tuple[list[str], Any, list[str]]:
        lines: list[str] = []
        given = ("select=auto", "select.ratio=0.25", *more)
        command = tiny(teacher_folder, text_folder, *given) if text else tiny_task(teacher_folder, task_folder, *given)
        stage = stage_of(checked(composition(command)[0]), lines.append)
        check(stage)
        return (
            list(stage.selection().arms),
            stage.config.select.look,
            [line for line in lines if "select=auto:" in line],
        )

    return of


def test_classes_take_the_strategy_of_the_file(arms):
    names, look, lines = arms()
    assert names == ["divbs"] and 0.5 <= look < 1 and lines == []


def test_text_and_regression_keep_random_rows_and_say_so(arms, tmp_path):
    rows = tmp_path / "scores"
    rows.mkdir()
    lines = [f"a row of number {i}\t{i / 7:.2f}" for i in range(40)]
    for part in ("train", "dev"):
        (rows / f"{part}.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    assert arms(text=True)[0] == ["random"]
    names, look, said = arms(f"data.path={rows}", "data.regression=true")
    assert (names, look) == (["random"], 1.0)
    assert said == ["select=auto: random rows on regression, which has no probabilities"]
