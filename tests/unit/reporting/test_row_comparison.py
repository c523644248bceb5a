"""McNemar's exact test against SciPy's binomial test, and pairs of runs that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats

from kdlab.errors import UserError
from kdlab.reporting import row_comparison
from tests.support.made_runs import made_run


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (7, 19), (12, 7), (30, 30), (400, 520)])
def test_the_p_value_is_that_of_a_binomial_test(b, c):
    wanted = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert row_comparison.sign_test(b, c) == pytest.approx(wanted, rel=1e-9)


def test_rows_are_counted_by_who_is_right():
    found = row_comparison.mcnemar([True, True, False, False, True], [True, False, True, False, False])
    assert (found.both, found.first, found.second, found.neither) == (1, 2, 1, 1)


def run(folder: Path, text: str, labels: list[str] | None = None) -> Path:
    made = made_run(folder, 0.1, 1)
    result = json.loads((made / "result.json").read_text())
    result["data"]["shape"] = {"columns": 1, "labels": labels, "metrics": ["accuracy"]}
    (made / "result.json").write_text(json.dumps(result))
    (made / "predictions").mkdir()
    (made / "predictions" / "dev.csv").write_text(text)
    return made


def test_two_runs_of_the_same_rows_and_none_of_others(tmp_path, capsys):
    head = "row,label,student\n"
    one = run(tmp_path / "one", head + "0,a,a\n1,b,a\n2,b,b\n", ["a", "b"])
    two = run(tmp_path / "two", head + "0,a,b\n1,b,b\n2,b,b\n", ["a", "b"])
    assert row_comparison.print_rows([one, two]) == 0
    said = capsys.readouterr().out
    assert "first 66.7%, second 66.7%" in said and "both 1, first alone 1, second alone 1, neither 0" in said
    other = run(tmp_path / "other", head + "0,a,b\n1,a,b\n2,b,b\n", ["a", "b"])
    with pytest.raises(UserError, match="row 1 with label b in .*, row 1 with label a in "):
        row_comparison.print_rows([one, other])
    fewer = run(tmp_path / "fewer", head + "0,a,b\n", ["a", "b"])
    with pytest.raises(UserError, match="3 rows in .* and 1 in "):
        row_comparison.print_rows([one, fewer])
    with pytest.raises(UserError, match="compares two runs, and 1 are given"):
        row_comparison.print_rows([one])
