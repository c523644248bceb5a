"""Whole runs through a launcher: processes of submitit's that import everything anew."""

from __future__ import annotations

import json
import os
from pathlib import Path

from kdlab.storage import locks
from tests.support.runs import call, tiny


class Importable:
    """Lets the processes of submitit find the packages under test, also where they are not installed."""

    def __call__(self) -> None:
        os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])


def test_submitit_runs_the_jobs_and_says_which_failed(tmp_path, teacher_folder, text_folder):
    short = tmp_path / "short"
    short.mkdir()
    (short / "text.txt").write_text("Too short.")
    command = ["-m", *tiny(teacher_folder, text_folder, "trainer.max_steps=2", "seed=1"),
               f"data.path={text_folder},{short}", "hydra/launcher=submitit_local", "hydra.launcher.array_parallelism=2",
               "hydra.sweep.subdir=job${hydra.job.num}"]  # fmt: skip
    done = call([a for a in command if a != f"data.path={text_folder}"], tmp_path, Importable(), timeout=240)
    assert done.code == 1, done.output
    assert "1 job failed" in done.output and "two are the least" in done.output.split("1 job failed")[1]
    (home,) = (tmp_path / "outputs" / "adads_pretrain").iterdir()
    assert json.loads((home / "job0" / "result.json").read_text())["status"] == "finished"
    assert not list(home.rglob(locks.NAME))
