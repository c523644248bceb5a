"""Names of jobs' folders: typed without quotes, the same for a job in any sweep, and old ones found."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from kdlab.config import quoting
from kdlab.config.groups.data import DataConfig
from kdlab.config.groups.training import OptimizerConfig, TrainerConfig
from kdlab.sweeps import expansion
from kdlab.sweeps.expansion import Expansion
from kdlab.sweeps.job_names import plain_name

SHARED = ["+exp=adads_finetune", "trainer.max_steps=3"]
RESOLVED = {"select": {"name": "random", "ratio": 0.1}, "seed": 1}


def jobs(*lines: str) -> dict[str, Path]:
    """The folders of a sweep's jobs by their names."""
    return {job.folder.name: job.folder for job in expansion.jobs(Expansion([*SHARED, *lines], []), {})}


def name(*lines: str) -> str:
    return plain_name(RESOLVED, OverridesParser.create().parse_overrides(list(lines)))


def test_a_job_is_named_by_selection_ratio_and_seed():
    assert list(jobs("select=random,all", "seed=1,2")) == ["random-r0.1-s1", "random-r0.1-s2", "all-s1", "all-s2"]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("trainer.max_steps=60", "max_steps_60"),
        ("knowledge=pkd", "knowledge_pkd"),
        ("select.look=0.3", "select.look_0.3"),
        ("select.explore=0.5", "select.explore_0.5"),
        ("student.start=teacher", "student.start_teacher"),
        ("select.warmup=0.2", "select.warmup_0.2"),  # not that of the learning rate:
        ("optim.warmup=0.2", "warmup_0.2"),
        ("weigh.phase=2", "weigh.phase_2"),
        ("~select.arms.entropy", "no_select.arms.entropy"),
        ("student.layers=[0,5]", r"student.layers_0_5_[0-9a-f]{6}"),
        ("data.path='/my rows/été=1,2.csv'", r"path_t_1_2.csv_[0-9a-f]{6}"),
        ("optim.lr=1e-3", r"lr_1e_3_[0-9a-f]{6}"),
    ],
)
def test_no_name_needs_quotes_in_a_shell_or_in_an_override(line, part):
    found = name(line)
    assert re.fullmatch(rf"random-r0\.1-{part}-s1", found)
    assert shlex.quote(found) == found and not set(found) & set("=,~^#*?[]{}()$!<>|;&'\"\\ ")  # zsh's too
    assert quoting.override("teachers.path", f"outputs/x/{found}/student") == f"teachers.path=outputs/x/{found}/student"


def test_values_that_look_alike_have_names_of_their_own():
    lines = ["student.layers=[0,5]", "student.layers=[0.5]", "data.path=/a/rows", "data.path=/b/rows", "data.path=rows"]
    assert len({name(line) for line in lines}) == len(lines)
    groups = [{field.name for field in fields(group)} for group in (TrainerConfig, OptimizerConfig, DataConfig)]
    assert sum(map(len, groups)) == len(set().union(*groups))  # so their keys need no group in a name
    assert len(name(*(f"+x.a{i}=1" for i in range(99)))) < 200


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (["select=random,entropy", "seed=1"], ["select=random,entropy", "seed=1,2"]),
        (["select=random,entropy"], ["select=random,entropy", "seed=1,2,3"]),  # seed 1 is the default
        (["select=random", "seed=1,2"], ["select=random,adads", "seed=1,2"]),
        (["select.ratio=0.1", "seed=1,2"], ["select.ratio=0.1,0.3", "seed=1,2"]),
        (["select=random", "seed=1"], ["select=random", "seed=1,2"]),  # one job
    ],
)
def test_a_seed_a_strategy_or_a_ratio_more_goes_on_in_the_same_folder(tmp_path, monkeypatch, first, more):
    monkeypatch.chdir(tmp_path)
    begun, grown = jobs(*first), jobs(*more)
    assert begun.items() < grown.items() and len({folder.parent for folder in grown.values()}) == 1
    assert not begun.keys() & {
        folder.name for folder in jobs(*more, "optim.lr=1e-3").values() if folder in begun.values()
    }


def test_folders_of_an_older_kdlab_are_gone_on_with(tmp_path, monkeypatch):
    """Named and hashed by hand as the version of 2026-11-28 did."""
    monkeypatch.chdir(tmp_path)
    home = Path("outputs/adads_finetune")
    for old in ("sweep-de65cb62/seed=1,select=random", "sweep-de65cb62/policy=fixed,seed=1"):
        (home / old).mkdir(parents=True)
    assert list(jobs("select=random,entropy", "seed=1,2").values()) == [
        home / "sweep-de65cb62" / one for one in ("seed=1,select=random", "random-r0.1-s2", "entropy-r0.1-s1", "entropy-r0.1-s2")
    ]  # fmt: skip
    assert list(jobs("weigh=fixed,uncertainty", "seed=1").values())[0].name != "policy=fixed,seed=1"  # seed was no part


def test_a_sweep_of_one_seed_that_an_older_kdlab_began(tmp_path, monkeypatch):
    import hashlib

    monkeypatch.chdir(tmp_path)
    digest = hashlib.sha256("\n".join(sorted([*SHARED, "seed=2"])).encode()).hexdigest()[:8]
    old = Path(f"outputs/adads_finetune/sweep-{digest}/select=random")
    old.mkdir(parents=True)
    for seeds in ("seed=2", "seed=1,2"):
        found = jobs("select=random,entropy", seeds)
        assert old in found.values() and {folder.parent for folder in found.values()} == {old.parent}
    assert {"random-r0.1-s1", "entropy-r0.1-s1", "entropy-r0.1-s2", "select=random"} == {*found}
