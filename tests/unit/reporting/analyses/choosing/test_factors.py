"""Analyses `safe` and `depends`: worst cases and gains by a factor, on numbers worked out by hand."""

from __future__ import annotations

import pytest

from kdlab.analyse import FACTORS as NAMES
from kdlab.errors import UserError
from kdlab.reporting.analyses.choosing.factors import FACTORS, by_factor, depends
from kdlab.reporting.analyses.choosing.safety import by_method
from tests.unit.reporting.analyses.choosing.test_gains import run


def test_the_worst_run_and_the_collapsed_ones_are_counted_run_by_run():
    """The majority class scores 0.5: entropy gains 10 and loses 12 points, collapsed once; margin gains 2 and 4."""
    runs = [run("random", 1, 0.60), run("random", 2, 0.60)]
    runs += [run("entropy", 1, 0.70), run("entropy", 2, 0.48), run("margin", 1, 0.62), run("margin", 2, 0.64)]
    margin, entropy = by_method(runs)
    assert (margin["method"], margin["collapsed"], margin["worse"]) == ("margin", 0, 0)
    assert (entropy["runs"], entropy["collapsed"], entropy["worse"]) == (2, 1, 1)
    found = [entropy[name] for name in ("worst", "mean", "best")]
    assert found == pytest.approx([-12, -1, 10])
    assert entropy["equal_cost"] == pytest.approx(-1)  # the runs of random cost the same


def test_gains_by_the_number_of_classes_are_means_over_tasks():
    runs = []
    for task, classes, lead in (("a", 2, 0.02), ("b", 2, 0.04), ("c", 6, 0.10)):
        runs += [run("random", 1, 0.6, task=task, classes=classes)]
        runs += [run("entropy", 1, 0.6 + lead, task=task, classes=classes, scoring_flops=2500.0, flops=10_000)]
    two, six = by_factor(runs, "classes")
    assert (two["value"], two["tasks"], two["gain_equal_queries"]) == (2, 2, pytest.approx(3))
    assert (six["value"], six["gain_equal_queries"], six["random"]) == (6, pytest.approx(10), pytest.approx(60))
    assert two["scoring_share"] == 0.25 and two["gain_equal_cost"] is None  # random was not run at twice the FLOPs


def test_a_setting_of_the_selection_is_a_factor_and_no_part_of_the_method():
    runs = [run("random", 1, 0.6), run("entropy", 1, 0.7), run("entropy", 1, 0.65, settings="explore=0.5 look=0.3")]
    runs += [run("entropy", 1, 0.68, settings="look=0.3")]
    found = {(row["method"], row["value"]): row["gain_equal_queries"] for row in by_factor(runs, "look")}
    assert found == {
        ("entropy 10 %", 1.0): pytest.approx(10),
        ("entropy 10 %", 0.3): pytest.approx(8),
        ("entropy explore=0.5 10 %", 0.3): pytest.approx(5),
    }


def test_random_rows_of_another_batch_are_no_baseline():
    runs = [run("random", 1, 0.6), run("random", 1, 0.7, batch=50), run("entropy", 1, 0.8, batch=50)]
    (row,) = by_factor(runs, "batch")
    assert (row["value"], row["gain_equal_queries"]) == (50, pytest.approx(10))


def test_the_command_offers_the_factors_that_there_are():
    assert tuple(FACTORS) == NAMES


def test_another_factor_is_refused_and_a_single_value_shows_nothing(tmp_path):
    with pytest.raises(UserError, match="--on colour: ratio, batch"):
        depends([tmp_path], "colour")
