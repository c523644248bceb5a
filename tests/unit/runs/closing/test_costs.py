"""kdlab.runs.closing.costs: what a run cost alone and with its preparation, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from kdlab.runs.closing import cost_lines, costs, model_card, scores
from kdlab.runs.closing.costs import RunCost
from tests.unit.runs.closing.test_summary import result

TEACHER = {"what": "teacher, 12 layers, fine-tuned", "made_now": False, "queries": 0, "flops": 2e12, "seconds": 60.0}
KSM = {"what": "KSM, 2 episodes", "made_now": True, "queries": 20_000, "cached": 5, "flops": 4e12, "seconds": 40.0}
BASELINE = {"what": "student without a teacher", "made_now": True, "queries": 0, "flops": 9e12, "seconds": 90.0}


def ksm_run(*stages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A run of 1,000 queries, 5.5 TFLOPs and 100 s on 4,128 rows (all data: 11 TFLOPs, 250 s)."""
    return result(ledger__teacher_queries={"total": 1000, "cached": 32}, preparation=list(stages), **changes)


def test_a_ksm_run_of_1000_queries_with_20000_of_preparation_cost_21000():
    made = ksm_run(TEACHER, KSM)
    assert costs.own(made) == RunCost(1000, 5.5e12, 100.0)
    assert costs.prepared(made) == RunCost(20_000, 6e12, 100.0)
    assert costs.total(made) == RunCost(21_000, 11.5e12, 200.0)
    assert costs.cached(made) == 32


def test_the_baseline_that_a_run_is_compared_with_is_no_part_of_its_cost():
    for baseline in (BASELINE, {**BASELINE, "what": "named anew", "baseline": True}):
        made = ksm_run(KSM, baseline)
        assert costs.total(made) == RunCost(21_000, 9.5e12, 140.0)
        lines = cost_lines.preparation(made)
        assert "not in the total" in lines[3] and lines[-1].split()[-5:] == ["21,000", "9.50", "T", "2.3", "min"]


@pytest.mark.parametrize("stages", [[KSM | {"queries": None}], None])
def test_a_stage_or_a_result_that_recorded_no_cost_makes_the_total_a_lower_bound(stages):
    made = ksm_run(*(stages or []))
    if stages is None:
        del made["preparation"]
    assert costs.own(made).measured and not costs.total(made).measured
    assert costs.total(made).queries == 1000
    assert costs.gains(made, True)["queries"] is None


def test_seconds_that_were_not_recorded_are_in_no_total():
    made = ksm_run(KSM)
    del made["ledger"]["seconds"]["training"]
    assert costs.own(made).seconds is None and costs.total(made).seconds is None
    assert costs.mean([costs.own(made), costs.own(ksm_run())]) == RunCost(1000, 5.5e12, 100.0)


def test_gains_with_preparation_have_the_main_teacher_on_both_sides():
    made = ksm_run(TEACHER, KSM, BASELINE)
    assert costs.gains(made, False) == {"queries": 4.0, "flops": 2.0, "wallclock": 2.5}  # as the ledger has them
    assert costs.gains(made, True) == pytest.approx(
        {"queries": 4128 / 21_000, "flops": (11 + 2) / 11.5, "wallclock": (250 + 60) / 200}
    )
    alone = ksm_run(TEACHER)
    assert costs.gains(alone, True)["flops"] == pytest.approx((11 + 2) / (5.5 + 2))


def test_the_model_card_has_both_numbers():
    assert "Teacher queries 1,000 of 4,128 rows seen, with the preparation of teachers and modules 21,000. " in (
        model_card.card(ksm_run(TEACHER, KSM))
    )
    assert "Teacher queries 1,000 of 4,128 rows seen. " in model_card.card(ksm_run(TEACHER))


@pytest.mark.parametrize(
    ("changes", "has"),
    [
        ({"adopt": "single"}, True),
        ({"adopt": None}, False),
        ({"adopt": None, "teachers": []}, False),
        ({"teachers": [{"name": "specialist-1"}]}, True),
        ({}, True),  # an older result: its teacher was scored
        ({"metrics": {"student": {"loss": 1.0}}}, False),
    ],
)
def test_whether_a_run_has_a_teacher_follows_from_its_configuration_and_not_from_a_counter(changes, has):
    for queries in (0, 1000):
        assert scores.taught(result(ledger__teacher_queries={"total": queries}, **changes)) == has


@pytest.mark.parametrize(
    ("spent", "wanted", "said"),
    [(8e12, 2, "it pays from run 2 on"), (4e12, 1, "it pays in this run"), (0.0, 1, "it pays in this run")],
)
def test_a_module_pays_from_the_run_on_whose_savings_reach_its_cost(spent, wanted, said):
    """Each run saves 11 - 5.5 TFLOPs against all data; the teacher is needed for all data as well."""
    made = ksm_run(TEACHER, KSM | {"flops": spent})
    assert costs.pays_from(made) == wanted and said in cost_lines.paid(made)[0]
    assert cost_lines.paid(ksm_run(TEACHER)) == []


def test_a_module_of_runs_that_save_nothing_never_pays():
    made = ksm_run(KSM)
    made["ledger"]["flops"]["all_data"] = made["ledger"]["flops"]["total"]
    assert costs.pays_from(made) == 0 and "it never pays" in cost_lines.paid(made)[0]


def test_the_closing_table_has_what_was_spent_of_the_budget():
    budget = {
        "asked": {"flops": 5.6e12, "queries": 1200.0}, "spent": {"steps": 90, "flops": 5.5e12, "queries": 1000},
        "planned": {"steps": 91}, "preparation": False,
    }  # fmt: skip
    line = "budget: 5.50 TFLOPs of 5.60 TFLOPs, 1,000 queries of 1,200 queries spent, in 90 of 91 planned steps"
    assert cost_lines.within_budget({**ksm_run(TEACHER), "budget": budget}) == [line]
    assert cost_lines.within_budget(ksm_run(TEACHER)) == []
