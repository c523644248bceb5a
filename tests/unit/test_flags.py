"""Mistakes in flags: one line with the nearest flag and exit code 2, of every command, and nothing else is done."""

from __future__ import annotations

import pytest

from kdlab.__main__ import COMMANDS, main
from kdlab.errors import UserError

# command line, and what the line says
WRONG = {
    "run --dryrun +exp=adads_finetune": "--dryrun: there is no such flag; did you mean --dry-run",
    "run +exp=adads_finetune --multi": "did you mean --multirun",
    "run +exp=adads_finetune -mn": "-mn: there is no such flag",
    "run +exp=adads_finetune --cfg jobs": "invalid choice: 'jobs'",
    "run +exp=adads_finetune --cfg job words": "words: not of the form KEY=VALUE",
    "run +exp=adads_finetune --dry-run=true --resolve": "--dry-run=true",
    "run +exp=adads_finetune --repeat FOLDER": "--repeat comes first: python -m kdlab.run --repeat RUN",
    "run --repeat FOLDER --dryrun": "did you mean --dry-run",
    "run --explain --select": "no such flag",
    "run --explain qqqqqqq": "--explain without a name lists the groups",
    "report FOLDER --latx": "--latx: there is no such flag; did you mean --latex?",
    "report --latx": "the following arguments are required: FOLDER",
    "compare FOLDER --row": "did you mean --rows",
    "compare FOLDER --runs_csv x.csv": "did you mean --runs-csv",
    "analyse ratios FOLDER": "invalid choice: 'ratios'",
    "analyse ratio FOLDER --aut x": "did you mean --out",
    "plan --dryrun": "did you mean --dry-run",
    "evaluate RUN --splt test": "did you mean --split",
    "evaluate RUN --split tests": "invalid choice: 'tests'",
    "evaluate RUN --rows many": "invalid int value: 'many'",
    "export RUN OUT MORE": "MORE: one argument too many",
    "artifacts list --rot x": "did you mean --root",
    "artifacts list --unsued": "--unsued: there is no such flag",
    "artifacts prune --unsued": "did you mean --unused",
    "faults --quik": "did you mean --quick",
    "dashboard --projct x": "did you mean --project",
    "run --cod mine.py +exp=adads_finetune": "--cod: there is no such flag; did you mean --code",
    "run +exp=adads_finetune --code": "--code takes a file",
    "new strateg mine": "invalid choice: 'strateg'",
    "new strategy mine --foldr x": "did you mean --folder",
    "completion tcsh": "invalid choice: 'tcsh'",
    "dashboard --\x1b[31m\n": "\\x1b[31m\\n",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_mistake_is_one_line(line, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(line.split(" "))
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert err.startswith("kdlab: ") and err.count("\n") == 1 and WRONG[line] in err and len(err) < 300
    assert not list(tmp_path.iterdir())


def test_every_command_is_among_them():
    assert {line.split()[0] for line in WRONG} == set(COMMANDS)


def test_only_flags_of_the_action_are_named(capsys):
    with pytest.raises(SystemExit):
        main(["artifacts", "list", "--unsued"])
    assert "--unused" not in capsys.readouterr().err  # `list` lacks it


def test_flags_with_a_value_stand_anywhere(capsys):
    assert main(["run", "+exp=adads_finetune", "--cfg", "job", "seed=7"]) == 0
    assert "seed: 7" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["exp=adads_pretrain exp=dekd", "-m +exp=adads_pretrain exp=dekd seed=1,2"])
def test_a_group_chosen_twice_is_one_line(line, capsys):
    assert main(["run", *line.split()]) == 2
    said = "kdlab: +exp=adads_pretrain and +exp=dekd: exp takes one choice; leave one of them out\n"
    assert capsys.readouterr().err == said


def test_other_faults_of_a_composition_keep_their_line():
    from kdlab.config.composition import composition, error_line

    with pytest.raises(Exception, match="already") as caught:
        composition(["+seed=1", "+exp=adads_pretrain"])
    assert not isinstance(caught.value, UserError)
    assert "takes one choice" not in error_line(caught.value)
