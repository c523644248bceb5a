"""The `kdlab` command: help, version, unknown names, and one import per command."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import kdlab
from kdlab import __main__ as command

ROOT = Path(kdlab.__file__).parent


def test_help_lists_each_command_with_one_line(capsys):
    for argv in (["--help"], ["-h"], []):
        assert command.main(argv) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
        assert [words[0] for words in lines] == list(command.COMMANDS)
        assert all(len(words) > 3 for words in lines)


def test_every_module_at_the_root_is_a_command():
    modules = {f"kdlab.{file.stem}" for file in ROOT.glob("*.py")} - {
        f"kdlab.{name}" for name in ("__init__", "__main__", "types", "errors", "ranges")
    }
    assert modules <= {function.partition(":")[0] for function, _ in command.COMMANDS.values()}


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_has_a_function(name):
    assert callable(command.function_of(name))


def test_version(capsys):
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"kdlab {kdlab.__version__}\n"


def test_an_unknown_name_is_one_line_with_the_nearest(capsys):
    assert command.main(["rapport"]) == 2
    assert capsys.readouterr().err == "kdlab: there is no command rapport; did you mean report or export?\n"
    assert command.main(["\x1b[31m\n"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "\x1b" not in err


@pytest.mark.parametrize("name", command.COMMANDS)
def test_a_name_calls_its_module_with_the_other_arguments(name, monkeypatch):
    calls = []
    module, _, function = command.COMMANDS[name][0].partition(":")
    monkeypatch.setitem(sys.modules, module, type("Module", (), {function: lambda argv: calls.append(argv) or 3}))
    assert command.main([name, "--flag", "a=1"]) == 3
    assert calls == [["--flag", "a=1"]]


def test_help_imports_no_command():
    code = (
        "import sys\nfrom kdlab.__main__ import COMMANDS, main\nmain(['--help'])\n"
        "heavy = {'torch', 'hydra', 'transformers', 'argparse', *(f.partition(':')[0] for f, _ in COMMANDS.values())}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr


def test_the_help_of_a_command_imports_nothing_slow():
    """So that it answers in well under a second; a clock would measure the machine."""
    code = (
        "import contextlib, io, sys\nfrom kdlab.__main__ import COMMANDS, main\n"
        "slow = {'torch', 'pytorch_lightning', 'transformers', 'hydra', 'numpy', 'matplotlib', 'wandb', 'pydantic'}\n"
        "for name in COMMANDS:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):\n"
        "        assert main([name, '--help']) == 0, name\n"
        "    assert len(out.getvalue()) > 100 and not slow & set(sys.modules), (name, slow & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr


def test_the_script_of_the_package_is_this_function():
    scripts = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"kdlab": "kdlab.__main__:main"}
