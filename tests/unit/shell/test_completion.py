"""Completion in the shell: commands, experiments, groups, keys and values."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kdlab.__main__ import COMMANDS, parser_of
from kdlab.config import choices
from kdlab.config.documentation import keys
from kdlab.shell import completion
from kdlab.shell.completion import candidates, names, typed_command

ROOT = Path(__file__).resolve().parents[3]


def test_an_experiment_is_completed_with_and_without_its_sign():
    assert list(candidates("+exp=ad")) == ["+exp=adads_finetune", "+exp=adads_pretrain"]
    assert candidates("exp=kd") == {} and list(candidates("exp=ks")) == ["exp=ksm"]
    assert list(candidates("+exp")) == ["+exp="] and list(candidates("exp")) == ["exp="]


def test_every_group_and_every_choice_is_offered_with_its_description():
    offered = candidates("")
    for group, choice_names in choices.groups().items():
        assert choices.with_right_sign(f"{group}=") in offered
        assert {f"{group}={name}" for name in choice_names} <= set(candidates(f"{group}="))
    assert candidates("select=ent") == {"select=entropy": choices.summary("select", "entropy")}


def test_the_last_of_several_values_is_completed():
    assert list(candidates("select=random,en")) == ["select=random,ensemble", "select=random,entropy"]


def test_every_key_is_reached_part_by_part():
    for key in keys().values():
        if key.group is None and "NAME" not in key.name.split("."):
            typed = ""
            while typed != f"{key.name}=":
                nexts = [
                    one for one in candidates(typed) if f"{key.name}=".startswith(one.lstrip("+")) and one != typed
                ]
                assert nexts, (key.name, typed)
                typed = max(nexts, key=len).lstrip("+")


def test_a_key_is_completed_with_its_line():
    assert candidates("trainer.max_s") == {"trainer.max_steps=": keys()["trainer.max_steps"].line}
    assert list(candidates("trainer.max")) == ["trainer.max_steps=", "trainer.max_epochs="]


def test_a_group_alone_is_completed_with_what_is_below_it():
    assert "budget.price_per_hour=" in candidates("budg") and "budget." not in candidates("budg")


def test_the_values_of_a_key_are_those_of_its_type_and_of_the_choices():
    assert set(candidates("overwrite=")) == {"overwrite=true", "overwrite=false"}
    assert {"select.interval=auto"} <= set(candidates("select.interval="))
    assert {"adopt.name=hard", "adopt.name=soft"} <= set(candidates("adopt.name="))


def test_a_path_is_completed_with_files_and_folders(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows.csv").touch()
    assert list(candidates(f"data.path={tmp_path}/ro")) == [
        f"data.path={tmp_path}/rows/",
        f"data.path={tmp_path}/rows.csv",
    ]
    assert candidates("data.path=/no/such/folder/x") == {}


def test_what_explain_takes_is_completed_without_signs():
    assert {"select", "select.ratio"} <= set(names("sel")) and not any("=" in name for name in names(""))


@pytest.mark.parametrize(
    ("line", "command"),
    [("kdlab ", None), ("kdlab ru", None), ("kdlab run ", "run"), ("kdlab run +exp=k", "run"), ("kdlab run 'a", "run")],
)
def test_the_command_of_a_line(line, command):
    assert typed_command(line, len(line)) == command


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_names_its_options(name):
    found = parser_of(name) or completion.run_parser()
    assert len(found._actions) > 1


def in_bash(line: str) -> list[str]:
    """The words that bash would offer after `line`, by the script that `kdlab completion bash` prints."""
    kdlab = f'kdlab() {{ {shlex.quote(sys.executable)} -m kdlab "$@"; }}'
    script = f"""{kdlab}
eval "$(kdlab completion bash)"
COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_TYPE=9
_python_argcomplete kdlab
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment)
    return [word.strip() for word in done.stdout.splitlines()]


def test_bash_completes_commands_choices_keys_and_options():
    assert in_bash("kdlab re") == ["report"]
    assert in_bash("kdlab run +exp=adads_finetune select=random,en") == ["random,ensemble", "random,entropy"]
    assert in_bash("kdlab run trainer.max_s") == ["trainer.max_steps="]
    assert in_bash("kdlab report --pap") == ["--paper"]


def test_each_shell_gets_a_script(capsys):
    scripts = {}
    for shell in completion.SHELLS:
        assert completion.main([shell]) == 0
        scripts[shell] = capsys.readouterr().out
    assert "complete " in scripts["bash"] and "-F _python_argcomplete kdlab" in scripts["bash"]
    assert scripts["zsh"].startswith("#compdef kdlab") and "compdef _python_argcomplete kdlab" in scripts["zsh"]
    assert "complete --command kdlab" in scripts["fish"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_zsh_and_fish_get_candidates_with_descriptions(shell, tmp_path):
    """As their scripts call the command: the answer goes to descriptor 8."""
    line, out = "kdlab run select=ent", tmp_path / "out"
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": shell, "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_DFS": "\t", "_ARGCOMPLETE_SUPPRESS_SPACE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)),
    }  # fmt: skip
    call = f"{shlex.quote(sys.executable)} -m kdlab 8>{shlex.quote(str(out))} 9>&2"
    subprocess.run(["bash", "-c", call], env=environment, check=True)
    assert choices.summary("select", "entropy").split(":")[0] in out.read_text() and "select=entropy" in out.read_text()
