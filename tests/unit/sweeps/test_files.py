"""Sweep files: what they become as overrides, and what is refused, each in one line that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdlab.errors import UserError
from kdlab.sweeps import files

FILE = """
question: Which strategy is best?
source: AdaDS Table 1
shared: [+exp=adads_finetune, "seed=1,2,3", select.ratio=0.1]
demo: [trainer.max_steps=20]
paper: ["data.task=mnli,qqp", "seed=1,2,3,4,5"]
grids:
  - ["select=random,entropy"]
  - {both: [select=all], paper: [trainer.max_epochs=3]}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(FILE)
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "sweep" / "mine.yaml").write_text(text)


def test_a_grid_has_what_all_share_what_the_scale_adds_and_its_own(folder):
    assert files.grids("mine", [], [folder]) == [
        ["+exp=adads_finetune", "seed=1,2,3", "select.ratio=0.1", "trainer.max_steps=20", "select=random,entropy"],
        ["+exp=adads_finetune", "seed=1,2,3", "select.ratio=0.1", "trainer.max_steps=20", "select=all"],
    ]


def test_the_users_scale_picks_and_the_later_of_one_key_counts(folder):
    assert files.grids("mine", ["scale=paper"], [folder]) == [
        [
            "+exp=adads_finetune",
            "select.ratio=0.1",
            "data.task=mnli,qqp",
            "seed=1,2,3,4,5",
            "select=random,entropy",
            "scale=paper",
        ],
        [
            "+exp=adads_finetune",
            "select.ratio=0.1",
            "data.task=mnli,qqp",
            "seed=1,2,3,4,5",
            "select=all",
            "trainer.max_epochs=3",
            "scale=paper",
        ],
    ]


def test_the_users_overrides_replace_the_files_and_stand_last(folder):
    found = files.grids("mine", ["seed=7", "trainer.max_steps=5", "data.path=rows"], [folder])
    assert [grid[-3:] for grid in found] == [["seed=7", "trainer.max_steps=5", "data.path=rows"]] * 2
    assert all("seed=1,2,3" not in grid and "trainer.max_steps=20" not in grid for grid in found)


def test_other_signs_before_a_key_are_the_same_key(folder):
    write(folder, FILE.replace("select.ratio=0.1", "+select.arms.mine.at=1"))
    (grid, _) = files.grids("mine", ["++select.arms.mine.at=2", "+exp=dekd"], [folder])
    assert "+select.arms.mine.at=1" not in grid and "+exp=adads_finetune" not in grid


def test_overrides_of_a_group_that_some_grids_add_are_for_these(folder):
    write(folder, FILE.replace('["select=random,entropy"]', "[+augment=tinybert, select=random]"))
    own = ["data.augment.copies=4", "data.train_rows=9"]
    with_copies, without = files.grids("mine", own, [folder])
    assert with_copies[-2:] == own and without[-1] == own[1] and own[0] not in without
    assert all(own[0] in grid for grid in files.grids("mine", ["+augment=tinybert", *own], [folder]))
    write(folder, FILE)  # no grid adds it: the key is unknown, which is said later
    assert all(own[0] in grid for grid in files.grids("mine", own, [folder]))


def test_grids_that_the_user_makes_equal_are_one(folder):
    assert len(files.grids("mine", ["select=entropy"], [folder])) == 1


def test_the_sweep_itself_may_stand_among_the_overrides(folder):
    assert "+sweep=mine" not in files.grids("mine", ["+sweep=mine"], [folder])[0]


def test_ones_own_folder_comes_before_the_packages(folder):
    ours = files.names()
    assert ours and "mine" not in ours and "mine" in files.names([folder])
    (folder / "sweep" / f"{ours[0]}.yaml").write_text(FILE)
    assert files.read(ours[0], [folder]).question == "Which strategy is best?"
    assert files.read(ours[0]).question != "Which strategy is best?"


def test_a_grid_of_one_scale_alone_is_not_there_at_the_other(folder):
    write(folder, FILE + "  - {paper: [select=density]}\n")
    assert [len(files.grids("mine", given, [folder])) for given in ([], ["scale=paper"])] == [2, 3]
    assert "select=density" in files.grids("mine", ["scale=paper"], [folder])[2]


def test_a_file_without_grids_is_one_grid(folder):
    write(folder, 'question: q\nsource: s\nshared: ["seed=1,2"]\n')
    assert files.grids("mine", [], [folder]) == [["seed=1,2"]]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("shared:", "sharde:", r"unknown key sharde: did you mean shared"),
        ("both:", "bth:", r"unknown key grids\[1\]\.bth: did you mean both\?"),
        ("question: Which strategy is best?", "question: 3", "question: a line of text"),
        ("source: AdaDS Table 1\n", "", "source: a line of text"),
        ("demo: [trainer.max_steps=20]", "demo: trainer.max_steps=20", "demo: a list of KEY=VALUE"),
        ("select.ratio=0.1", "3", "both: a list of KEY=VALUE"),
        ("trainer.max_steps=20", "max_steps", "'max_steps' is not of the form KEY=VALUE"),
        ("trainer.max_steps=20", "hydra.launcher.n_jobs=2", "cannot set hydra.launcher.n_jobs"),
        ("trainer.max_steps=20", "hydra/launcher=joblib", "cannot set hydra/launcher"),
        ("trainer.max_steps=20", "scale=paper", "cannot set scale"),
        ("trainer.max_steps=20", "+sweep=mine", "cannot set sweep"),
        (FILE[FILE.index("grids") :], "grids: []", "grids: a list of grids"),
        (FILE[FILE.index("grids") :], "grids: [{paper: [select=all]}]", "none of them is there at scale=demo"),
        (FILE, "- 1", "keys and values were expected: question, source, "),
        (FILE, "a: [", "is no YAML file"),
        (FILE, "a: !!python/object/apply:os.getcwd []", "is no YAML file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(folder, old, new, said):
    write(folder, FILE.replace(old, new))
    with pytest.raises(UserError, match=said) as raised:
        files.grids("mine", [], [folder])
    assert "mine.yaml" in str(raised.value) and "\n" not in str(raised.value)


def test_an_unknown_sweep_names_the_nearest(folder):
    with pytest.raises(UserError, match=r"\+sweep=mien: there is no such sweep; did you mean mine\?"):
        files.grids("mien", [], [folder])


@pytest.mark.parametrize("scale", ["papper", "demo,paper"])
def test_a_sweep_has_one_scale(folder, scale):
    with pytest.raises(UserError, match="one scale at a time; did you mean"):
        files.grids("mine", [f"scale={scale}"], [folder])


def test_a_path_is_no_name(folder):
    with pytest.raises(UserError, match="there is no such sweep"):
        files.grids("../sweep/mine", [], [folder])
