"""Gains of selection at equal queries and equal cost, on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from kdlab.errors import UserError
from kdlab.reporting.analyses.choosing import gains
from kdlab.reporting.analyses.choosing.runs import StudyRun, read


def run(
    select: str, seed: int, score: float, *, steps: int = 100, flops: float = 0.0, task: str = "t", **more: object
) -> StudyRun:
    """A run of 10 rows a step of 1 FLOP a forward of the student and 2 of the teacher; training costs 3 a row."""
    rows = 10 * steps
    settings: dict[str, object] = {
        "knowledge": "response", "start": "backbone", "settings": "", "ratio": 0.1, "batch": 100, "majority": 0.5,
        "queries": rows, "flops": flops or 5 * rows, "teacher_flops": 2 * rows, "student_flops": rows, "seconds": 1.0,
    }  # fmt: skip
    settings |= more
    return StudyRun(task=task, select=select, steps=steps, seed=seed, score=score, **settings)  # pyright: ignore


def test_score_at_is_linear_in_the_logarithm_of_the_cost_and_never_extrapolates():
    curve = [(1000.0, 0.5), (4000.0, 0.7)]
    assert gains.score_at(curve, 2000.0) == pytest.approx(0.6)  # half way in log cost
    assert gains.score_at(curve, 4000.0) == 0.7
    assert gains.score_at(curve, 4100.0) == 0.7  # 2.5 % above counts as the same cost
    assert gains.score_at(curve, 5000.0) is None
    assert gains.score_at(curve, 500.0) is None
    assert gains.score_at([], 500.0) is None


def test_a_method_is_compared_at_its_own_cost_and_at_its_own_queries():
    # entropy scores 100 rows a step: 5 * 1000 + 100 * 100 = 15,000 FLOPs, as much as random for 300 steps
    runs = [run("random", 1, 0.60), run("random", 1, 0.72, steps=300), run("entropy", 1, 0.70, flops=15_000)]
    row = next(row for row in gains.table(runs) if row.cell[1] == "entropy")
    assert row.equal_queries is not None and row.equal_queries.difference == pytest.approx(10)
    assert row.equal_cost is not None and row.equal_cost.difference == pytest.approx(-2)


def test_a_dearer_teacher_moves_the_break_even():
    # at 98 student forwards a teacher's, entropy costs (3 + 98) * 1000 + 10,000 = 111,000, random 101,000 for 100 steps and
    # 303,000 for 300
    runs = [run("random", 1, 0.60), run("random", 1, 0.72, steps=300)]
    entropy = [run("entropy", 1, 0.70, flops=15_000)]
    assert entropy[0].cost(98) == 111_000
    found = gains.gains_at_cost(entropy, gains.curves(runs, "random", 98), None, 98)
    at = 0.60 + 0.12 * math.log(111 / 101) / math.log(3)
    assert found[1] == pytest.approx(100 * (0.70 - at))


def test_a_dearer_teacher_is_paid_for_all_the_answers_that_a_strategy_reads(tmp_path):
    """20 rows of 200 a step are kept, and the teacher answers about all 200: 10 queries for each row learnt from. At 98
    student forwards of 1 FLOP a teacher's costs 98 x 200 a step, beside 60 of training and 200 of scoring."""
    assert run("disagreement", 1, 0.7, flops=1000.0, teacher_flops=600.0, student_flops=20.0, asked=10.0).cost(98) == (
        1000 - 600 + 98 * 10 * 20
    )
    row = dict.fromkeys(("task", "knowledge", "select", "start", "settings"), "x") | {
        "seed": 1, "ratio": 0.1, "steps": 5, "batch": 200, "score": 0.7, "flops": 5 * (60 + 200 + 400), "teacher_flops": 2000,
        "teacher_queries": 1000, "student_flops": 100,
    }  # fmt: skip
    replayed = {"settings": "look=0.3 replay=3", "teacher_queries": 100}  # 100 rows are kept, and 300 come again
    # on two ranks of 200 rows 2000 are seen
    for more, asked in (({}, 10.0), ({"rows_seen": 2000}, 5.0), (replayed, 0.25)):
        file = tmp_path / "runs.csv"
        file.write_text("\n".join(",".join(map(str, line)) for line in zip(*(row | more).items(), strict=True)))
        (one,) = read([file])
        assert one.asked == asked and one.teacher_ratio == pytest.approx(2000 / (asked * 100))
        assert one.cost(98) == 5 * 660 - 2000 + 98 * asked * 100


def test_only_random_runs_of_the_same_start_and_ratio_are_a_baseline():
    runs = [
        run("random", 1, 0.9, start="teacher"),
        run("random", 1, 0.8, ratio=0.3),
        run("random", 1, 0.7, settings="warmup=0.2"),
        run("entropy", 1, 0.6),
    ]
    assert next(row for row in gains.table(runs) if row.cell[1] == "entropy").equal_queries is None


def test_holm_adjusts_over_the_tasks_of_a_method():
    runs = []
    for task, lead in (("a", 0.10), ("b", 0.05)):
        for seed, jitter in ((1, 0.0), (2, 0.01), (3, -0.01)):
            runs += [run("random", seed, 0.5, task=task), run("entropy", seed, 0.5 + lead + jitter, task=task)]
    rows = {row.cell[0]: row for row in gains.table(runs) if row.cell[1] == "entropy"}
    # differences 10, 11, 9: t = 10 / (1 / sqrt 3) = 17.32, p = 0.00332; and 5, 6, 4: t = 8.66, p = 0.01307 (SciPy's ttest_rel)
    a, b = rows["a"], rows["b"]
    assert a.equal_queries is not None and a.equal_queries.p == pytest.approx(0.003316, rel=1e-3)
    assert a.holm_queries == pytest.approx(2 * 0.003316, rel=1e-3)
    assert b.holm_queries == pytest.approx(0.01307, rel=1e-3)


def test_seeds_at_the_majority_class_are_counted():
    runs = [run("entropy", 1, 0.5), run("entropy", 2, 0.7), run("entropy", 3, 0.4)]
    (row,) = gains.table(runs)
    assert row.collapsed == 2 and row.seeds == 3


def test_the_share_of_all_data_is_over_the_seeds_that_both_have():
    whole = [run("all", 1, 0.8, ratio=1.0, flops=50_000), run("all", 2, 0.9, ratio=1.0, flops=50_000)]
    rows = gains.table([*whole, run("random", 1, 0.72), run("random", 3, 0.1)])
    assert next(row for row in rows if row.cell[1] == "random").share == pytest.approx(0.9)


def test_a_file_without_the_columns_is_refused(tmp_path):
    file = tmp_path / "old.csv"
    file.write_text("task,select\nsst2,random\n")
    with pytest.raises(UserError, match="lacks the column knowledge.*--runs-csv"):
        read([file])


def test_only_random_runs_of_the_same_labels_and_knowledge_are_a_baseline(tmp_path):
    """Runs that differ in these are other runs, and not earlier ones of the same; all data learn all labels anyway."""
    row = dict.fromkeys(("task", "start", "settings"), "") | {
        "knowledge": "response", "select": "random", "seed": 1, "ratio": 0.1, "steps": 100, "batch": 100, "score": 0.6,
        "flops": 5000, "teacher_flops": 2000, "teacher_queries": 1000, "student_flops": 1000,
    }  # fmt: skip
    rows = [
        row,
        row | {"settings": "labels_on=all", "score": 0.7},
        row | {"select": "entropy", "score": 0.65},
        row | {"select": "entropy", "settings": "labels_on=all look=0.3", "score": 0.72},
        row | {"select": "entropy", "knowledge": "pkd", "score": 0.8},
        row | {"select": "all", "ratio": 1, "score": 0.9},
    ]
    file = tmp_path / "runs.csv"
    file.write_text("\n".join(",".join(map(str, line)) for line in [list(row), *(one.values() for one in rows)]))
    table = {line.cell[1]: line for line in gains.table(read([file]))}
    assert list(table) == [
        "random", "random labels_on=all", "entropy", "entropy look=0.3 labels_on=all", "entropy knowledge=pkd", "all",
    ]  # fmt: skip
    gain = {name: line.equal_queries and round(line.equal_queries.difference, 6) for name, line in table.items()}
    assert gain == {
        "random": None, "random labels_on=all": None, "entropy": 5.0, "entropy look=0.3 labels_on=all": 2.0,
        "entropy knowledge=pkd": None, "all": None,
    }  # fmt: skip
    shares = {name: line.share and round(line.share, 6) for name, line in table.items()}
    assert shares["entropy look=0.3 labels_on=all"] == 0.8 and shares["entropy knowledge=pkd"] is None
