"""A sweep over budgets: those that do not last for a step are refused before the first job."""

from __future__ import annotations

from kdlab import run
from kdlab.testing.child_process import tiny_task


def test_a_budget_of_one_job_below_a_step_refuses_the_sweep(tmp_path, monkeypatch, capsys, teacher_folder, task_folder):
    monkeypatch.chdir(tmp_path)
    given = tiny_task(
        teacher_folder, task_folder, "trainer.max_steps=null", "select=random,adads", "budget.queries=100,2"
    )
    assert run.main(["-m", "--dry-run", *given]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "budget.queries=2: less than one step costs, which is 4 or more" in said[0], said
    assert "select=random" in said[0] and not list(tmp_path.iterdir())
    ratios = [o for o in given if not o.startswith(("budget", "select.ratio"))]
    assert run.main(["-m", "--dry-run", *ratios, "budget.queries=8", "select.ratio=0.5,0.75"]) == 2
    assert "budget.queries=8: less than one step costs, which is 12" in capsys.readouterr().err  # at the second ratio
