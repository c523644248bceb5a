"""Former spellings: accepted where they stand on a command line, in a sweep file, a filter or an old config.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdlab.config import spellings
from kdlab.errors import UserError
from kdlab.sweeps import files
from kdlab.sweeps.expansion import Expansion

OVERRIDES = {
    "policy=ksm": "weigh=ksm",
    "policy=ksm,fixed": "weigh=ksm,fixed",
    "policy.episodes=2": "weigh.episodes=2",
    "+policy.arms.ksm.rows=32": "+weigh.arms.ksm.rows=32",
    "++policy.phase=3": "++weigh.phase=3",
    "~policy.arms.ksm": "~weigh.arms.ksm",
    "policy.chooser._target_=x": "weigh.policy._target_=x",
}
OTHERS = [
    "select.policy.alpha=0.1",
    "adopt.policy._target_=x",
    "weigh.policy.at=[0.5]",
    "policyx=1",
    "-m",
    "seed=1",
    "",
]


@pytest.mark.parametrize("former", OVERRIDES)
def test_an_override_is_translated_and_one_line_names_the_new_spelling(former, capsys):
    spellings._printed.clear()
    assert spellings.overrides([former, former]) == [OVERRIDES[former]] * 2
    assert capsys.readouterr().err.splitlines() == [
        f"kdlab: {former}: spelled {OVERRIDES[former]} now; the former spelling is still accepted"
    ]
    assert spellings.former_override(OVERRIDES[former]) == former


def test_other_overrides_stay(capsys):
    assert spellings.overrides(OTHERS) == OTHERS
    assert capsys.readouterr().err == ""


def test_other_ranks_print_nothing(monkeypatch, capsys):
    spellings._printed.clear()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert spellings.overrides(["policy=ksm"]) == ["weigh=ksm"]
    assert capsys.readouterr().err == ""


def test_grids_of_a_sweep_file_are_translated_before_repeated_keys_are_merged(tmp_path: Path):
    (tmp_path / "sweep").mkdir()
    text = "question: Q?\nsource: S\nshared: [+exp=ksm, policy=ksm]\ngrids:\n  - ['policy=fixed,ksm', policy.phase=3]\n"
    (tmp_path / "sweep" / "mine.yaml").write_text(text)
    assert files.grids("mine", ["weigh.phase=4"], [tmp_path]) == [["+exp=ksm", "weigh=fixed,ksm", "weigh.phase=4"]]


def test_the_folder_of_a_sweep_does_not_depend_on_the_spelling(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["+exp=ksm", "weigh.episodes=1", "weigh.phase=3,4"]
    job = Expansion(lines, []).job(0, [*lines[:2], "weigh.phase=3"])[0]
    assert job.folder.name == "all-weigh.phase_3-s1"
    former = job.folder.with_name("policy.phase=3")
    former.mkdir(parents=True)  # begun before the group was renamed
    assert Expansion(lines, []).job(0, [*lines[:2], "weigh.phase=3"])[0].folder == former


def test_an_old_configuration_is_read_under_the_new_name():
    former = {"name": "ksm", "policy": {"name": "ksm", "chooser": {"_target_": "x"}, "phase": 3}, "seed": 1}
    current = {"name": "ksm", "weigh": {"name": "ksm", "policy": {"_target_": "x"}, "phase": 3}, "seed": 1}
    assert spellings.configuration(former) == current
    assert list(spellings.configuration(former)) == list(current)
    assert spellings.configuration(current) == current
    assert spellings.former_configuration(current) == former
    assert spellings.configuration({"policy": None}) == {"policy": None}


def test_a_file_with_the_former_key_is_refused_with_the_new_one():
    from omegaconf import OmegaConf

    from kdlab.config.schema import checked

    with pytest.raises(UserError, match=r"unknown key policy: it is weigh now"):
        checked(OmegaConf.create({"policy": {"episodes": 1}}))


def test_the_command_line_is_translated_and_files_of_ones_own_are_refused_with_the_new_name(tmp_path: Path, capsys):
    from kdlab.run import main

    spellings._printed.clear()
    assert main(["+exp=ksm", "policy=none_such"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "policy=none_such: spelled weigh=none_such now" in first and "weigh=none_such: there is no such" in second
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - override /policy: uncertainty\n")
    assert main(["--config-dir", str(tmp_path), "+exp=mine"]) == 2
    assert "unknown key policy: it is weigh now" in capsys.readouterr().err
    (tmp_path / "policy").mkdir()
    assert main(["--config-dir", str(tmp_path), "seed=1"]) == 2
    assert "rename the folder to weigh" in capsys.readouterr().err


def test_old_and_new_runs_fall_into_one_group(tmp_path: Path):
    import yaml

    from kdlab.config.saved import read_config
    from kdlab.runs.settings_used import flat

    weigh = {"name": "fixed", "arms": {}, "path": None}
    target = {"_target_": "kdlab.methods.selection.policies.Fixed"}
    written = {
        "old": {"seed": 1, "policy": {**weigh, "chooser": {"_target_": "kdlab.policies.Fixed"}}},
        "new": {"seed": 1, "weigh": {**weigh, "policy": target}},
    }
    for name, config in written.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
    old, new = (dict(flat(read_config(tmp_path / name))) for name in written)
    assert old == new and "weigh.policy._target_" in new


def test_a_resumed_run_keeps_the_preparation_that_an_older_version_gave_it():
    """Present defaults alone give way, and where the file has the key, its run was made with today's."""
    former = {"teachers": {"name": "x", "prepare": {"lr": 1.0}}}
    today = {
        "teachers": {"name": "x", "exec": "packed", "part_tokens": "auto", "prepare": {"lr": 1.0, "precision": "auto"}}
    }
    padded = {
        "teachers": {"name": "x", "exec": "padded", "part_tokens": None, "prepare": {"lr": 1.0, "precision": "32-true"}}
    }
    assert spellings.with_recipe(today, former) == padded == spellings.configuration(former)
    assert spellings.with_recipe(today, today) == today
    other = {"teachers": {"name": "x", "exec": "bucketed", "prepare": None}}
    assert spellings.with_recipe(other, former) == other
    assert spellings.former_configuration(padded) == former
    assert spellings.former_configuration(today) == today
