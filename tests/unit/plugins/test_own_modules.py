"""Modules of the user's own: which a configuration may name, what is recorded of them, and imports that fail."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from kdlab.config import targets
from kdlab.errors import UserError
from kdlab.plugins import own_modules

CODE = """
from os import system
from kdlab.methods.marks import needs

LIMIT = 3

@needs("logits")
def mine(evidence):
    return evidence.logits[:, 0]

def _hidden(evidence):
    return evidence
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    own_modules.load([])


def written(name: str, text: str = CODE) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def check(target: str) -> None:
    targets.check({"select": {"arms": {"mine": {"_target_": target}}}})


def refused(given: str) -> str:
    with pytest.raises(UserError) as found:
        own_modules.load([given])
    return str(found.value)


def test_the_options_of_a_command_line_stand_anywhere_and_more_than_once():
    rest, given = own_modules.split(["--code", "a.py", "+exp=x", "--code=b", "-m"])
    assert (rest, given) == (["+exp=x", "-m"], ["a.py", "b"])
    for words in (["--code"], ["--code="], ["--code", "-m"]):
        with pytest.raises(UserError, match="takes a file"):
            own_modules.split(words)


def test_a_file_of_the_command_line_may_be_named_and_no_other():
    written("mine_a.py")
    with pytest.raises(UserError, match=r"may only name code of kdlab .*; add --code mine_a\.py"):
        check("mine_a.mine")
    own_modules.load(["mine_a.py"])
    check("mine_a.mine")
    for target in ("mine_a.system", "mine_a._hidden", "mine_a.LIMIT", "mine_a.os.system", "mine_b.mine", "mine_a"):
        with pytest.raises(UserError):
            check(target)
    own_modules.load([])
    with pytest.raises(UserError):
        check("mine_a.mine")


def test_no_configuration_and_no_variable_allows_a_file(monkeypatch):
    from kdlab.run import main

    written("mine_c.py")
    monkeypatch.setenv("KDLAB_CODE", "mine_c.py")
    own = ["+select.arms.x._target_=mine_c.mine", "teachers.path=x", "data.path=x"]
    assert main(["+exp=adads_pretrain", *own]) == 2
    assert main(["+exp=adads_pretrain", *own, "+code=mine_c.py"]) == 2
    assert "mine_c" not in sys.modules


def test_the_record_has_the_hash_of_what_ran_also_after_a_change_within_the_same_second():
    for text in (CODE, CODE.replace("[:, 0]", "[:, 1]")):
        written("mine_d.py", text)
        os.utime("mine_d.py", (1, 1))
        own_modules.load(["mine_d.py"])
        digest = hashlib.sha256(text.encode()).hexdigest()
        (record,) = own_modules.records()
        assert record == {"module": "mine_d", "file": "mine_d.py", "sha256": digest, "version": None}
        column = int(text.partition("[:, ")[2][0])
        assert column in sys.modules["mine_d"].mine.__code__.co_consts


def test_a_package_has_the_hash_of_all_its_files_and_its_version(monkeypatch):
    monkeypatch.syspath_prepend(Path.cwd())
    written("pack_e/__init__.py", "__version__ = '0.3'\n")
    written("pack_e/inner.py")
    own_modules.load(["pack_e"])
    check("pack_e.inner.mine")
    (before,) = own_modules.records()
    assert (before["file"], before["version"]) == (None, "0.3")
    written("pack_e/inner.py", CODE + "\n")
    own_modules.load(["pack_e"])
    assert own_modules.records()[0]["sha256"] != before["sha256"]


def test_the_modules_of_entry_points_may_be_named_and_are_imported_when_they_are(monkeypatch):
    monkeypatch.syspath_prepend(Path.cwd())
    written("plug_f.py")
    written("plug_f-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: plug-f\nVersion: 1.2\n")
    written("plug_f-1.2.dist-info/entry_points.txt", "[kdlab.plugins]\nf = plug_f\nbroken = plug_g\n")
    own_modules.load([])
    assert "plug_f" not in sys.modules and own_modules.records() == []
    check("plug_f.mine")
    (record,) = own_modules.records()
    assert (record["module"], record["file"], record["version"]) == ("plug_f", None, "1.2")
    assert record["sha256"] == hashlib.sha256(CODE.encode()).hexdigest()
    written("plug_g.py", "\nimport nothing_of_this_name\n")
    with pytest.raises(UserError, match=r"the plug-in broken: plug_g\.py:2: ModuleNotFoundError"):
        check("plug_g.mine")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nx = 1 / 0\n", "bad.py:2: ZeroDivisionError: division by zero"),
        ("x = = 1\n", "bad.py:1: SyntaxError: invalid syntax"),
        ("import nothing_of_this_name\n", "bad.py:1: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("import sys\nsys.exit('no')\n", "bad.py:2: SystemExit: no"),
        ("def f():\n    raise KeyError('a\\nb')\nf()\n", "bad.py:2 in f: KeyError: 'a\\nb'"),
    ],
)
def test_an_import_that_fails_is_one_line_with_the_file_and_the_line(text, said):
    assert refused(written("bad.py", text)) == f"--code bad.py: {said}"


def test_names_that_are_no_module_are_refused():
    assert refused("none.py") == "--code none.py: there is no such file"
    assert "rename the file" in refused(written("json.py"))
    assert "rename the file" in refused(written("torch.py"))
    assert "cannot name a module" in refused(written("my-file.py"))
    assert "not for kdlab's or Python's" in refused("kdlab.runs")
    assert "not for kdlab's or Python's" in refused("subprocess")
    assert "neither a file" in refused("some/where")
    written("lies_here.py")
    assert refused("lies_here").endswith("no module of that name is installed; --code lies_here.py names the file")


def test_a_difference_names_both_hashes_and_a_missing_module_the_option():
    own_modules.load([written("mine_h.py")])
    (now,) = own_modules.records()
    assert own_modules.difference([now]) == "" and own_modules.difference([]) == ""
    line = own_modules.difference([{**now, "sha256": "0123456789abcdef"}])
    assert "0123456789ab" in line and str(now["sha256"])[:12] in line
    own_modules.load([])
    assert own_modules.difference([now]).endswith("add --code mine_h.py")


def test_hashes_of_artifacts_depend_on_the_code_of_the_user_and_others_stay():
    parts = {"arm": {"_target_": "mine_i.mine"}, "other": [{"_target_": "kdlab.methods.adoption.hard"}]}
    own_modules.load([written("mine_i.py")])
    first = targets.original_targets(parts)
    own_modules.load([written("mine_i.py", CODE + "\n")])
    second = targets.original_targets(parts)
    assert first["arm"] != second["arm"] and first["other"] == second["other"] == [{"_target_": "kdlab.adoption.hard"}]


def test_other_processes_get_absolute_paths():
    own_modules.load([written("sub/mine_j.py")])
    assert own_modules.options() == ["--code", "sub/mine_j.py"]
    assert own_modules.options_elsewhere() == ["--code", str(Path("sub/mine_j.py").absolute())]
