"""AdaDS as a user sees it: selector.csv of a real run against Eq. 9 to 11 written again, with SciPy and by hand."""

from __future__ import annotations

import collections

import pytest
from scipy.stats import linregress

from kdlab.storage import tables
from tests.support.runs import call, run_folder, tiny

WINDOW, ALPHA = 3, 0.3


@pytest.fixture(scope="module")
def rows(tmp_path_factory, teacher_folder, text_folder):
    folder = tmp_path_factory.mktemp("adads")
    more = [
        "trainer.max_steps=24", "select.reward.window=3", "select.policy.alpha=0.3", "select.policy.epsilon=0.3",
        "select.interval=2", "trainer.probes=0",
    ]  # fmt: skip
    done = call(tiny(teacher_folder, text_folder, *more), folder)
    assert done.code == 0, done.output
    return tables.read(run_folder(folder) / "selector.csv")


def test_speed_is_minus_the_slope_of_the_last_observations(rows):
    assert [int(r["step"]) for r in rows] == list(range(0, 24, 2))
    seen: collections.deque[float] = collections.deque(maxlen=WINDOW)
    before = None
    for row in rows:
        seen.append(float(row["observation"]))
        if len(seen) < WINDOW:
            assert row["speed"] == "" and row["reward"] == ""
            continue
        speed = -linregress(range(WINDOW), seen).slope
        assert float(row["speed"]) == pytest.approx(speed, rel=1e-6, abs=1e-9)
        if before is None:
            assert row["reward"] == ""
        else:
            assert float(row["reward"]) == pytest.approx(speed - before, rel=1e-5, abs=1e-9)
        before = speed


def test_only_the_arm_that_was_in_force_learns(rows):
    arms = [key[2:] for key in rows[0] if key.startswith("q_")]
    assert arms == ["entropy", "margin", "least_confidence", "certainty", "cluster", "density"]
    values = dict.fromkeys(arms, 0.0)
    for previous, row in zip([None, *rows], rows, strict=False):
        if row["reward"]:
            arm = previous["arm"]
            values[arm] = ALPHA * float(row["reward"]) + (1 - ALPHA) * values[arm]
        for arm in arms:
            assert float(row[f"q_{arm}"]) == pytest.approx(values[arm], rel=1e-6, abs=1e-12)


def test_most_choices_are_greedy_and_queries_only_grow(rows):
    arms = [key[2:] for key in rows[0] if key.startswith("q_")]
    greedy = [float(r[f"q_{r['arm']}"]) == max(float(r[f"q_{a}"]) for a in arms) for r in rows]
    assert sum(greedy) >= len(rows) / 2  # epsilon 0.3: a random draw is greedy now and then too
    queries = [int(r["teacher_queries"]) for r in rows]
    assert queries == sorted(queries) and queries[0] == 0 and queries[-1] > 0
