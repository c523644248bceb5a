"""The sign of a group on the command line: + where it has no choice by default, none elsewhere; either is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdlab import run
from kdlab.config import choices
from kdlab.config.composition import CONF
from kdlab.sweeps import files
from kdlab.sweeps.expansion import Expansion, jobs

RIGHT = {
    "exp=dekd": "+exp=dekd",
    "sweep=adads_strategies": "+sweep=adads_strategies",
    "augment=tinybert": "+augment=tinybert",
    "exp=dekd,ksm": "+exp=dekd,ksm",
    "+select=random": "select=random",
    "+scale=own": "scale=own",
}
OTHERS = [
    "+exp=dekd", "select=random", "~augment", "++exp=dekd", "exp.a=1", "expo=1", "hydra/launcher=ray", "+hydra=x",
    "+teachers.others.a.layers=2", "seed=1", "exp@x=dekd", "job", "",
]  # fmt: skip


@pytest.mark.parametrize("given", RIGHT)
def test_the_sign_of_a_group_is_corrected(given):
    assert choices.with_right_sign(given) == RIGHT[given]
    assert choices.with_right_sign(RIGHT[given]) == RIGHT[given]


@pytest.mark.parametrize("given", OTHERS)
def test_what_chooses_from_no_group_stays(given):
    assert choices.with_right_sign(given) == given


def test_every_group_is_chosen_with_and_without_a_plus(monkeypatch):
    """The overrides of a command reach the run as Hydra accepts them."""
    received = []
    monkeypatch.setattr(run, "_run_or_suite", lambda overrides, *_: received.append(overrides) or 0)
    for group in (
        folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name not in ("base", "hydra", "sweep")
    ):
        choice = choices.groups()[group][0]
        assert run.main([f"{group}={choice}"]) == run.main([f"+{group}={choice}"]) == 0
        with_plus = choices.default_choice(group, "demo") is None
        assert received[-2:] == [[f"{'+' * with_plus}{group}={choice}"]] * 2


def test_a_sweep_and_its_file_may_leave_out_the_plus(tmp_path: Path, monkeypatch):
    started = []
    monkeypatch.setattr("kdlab.sweeps.sweep.start", lambda overrides, *_: started.append(overrides) or 0)
    assert run.main(["sweep=adads_strategies", "seed=1"]) == run.main(["-m", "exp=dekd,ksm"]) == 0
    assert started == [["+sweep=adads_strategies", "seed=1"], ["+exp=dekd,ksm"]]
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text("question: Q\nsource: S\nshared: [exp=ksm]\ngrids: [['seed=1,2']]\n")
    assert files.grids("mine", [], [tmp_path]) == [["+exp=ksm", "seed=1,2"]]
    made = jobs(Expansion(["seed=1"], []), {"exp": "ksm,finetune"})
    assert [job.config.name for job in made] == ["ksm", "finetune"]


def test_a_command_without_arguments_prints_help(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run.main([]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].startswith("usage: python -m kdlab.run +exp=NAME") and len(lines) <= 40
    assert all(f"+exp={name}" in out for name in choices.groups()["exp"]) and "--help" in out and "--explain" in out
    assert max(map(len, lines)) <= 118 and not list(tmp_path.iterdir())
