"""Runs and artifacts of an older version are read, reported, repeated, resumed and found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from kdlab import compare, evaluate, export, report
from kdlab.config import spellings
from kdlab.config.composition import composition, to_plain
from kdlab.config.saved import read_config
from kdlab.reporting.seed_groups import read
from kdlab.runs.folders import IRRELEVANT_KEYS
from kdlab.storage import checkpoints
from kdlab.storage.artifacts import key_of
from tests.support.old_runs import (
    FINISHED,
    OLD,
    artifacts,
    as_old,
    command_of,
    names_in,
    recorded,
    with_hashes,
)
from tests.support.runs import KillAt, call, outcome

FORMER_EXEC = (
    "teachers.exec=padded",
    "teachers.part_tokens=null",
)  # as teachers were prepared when the old runs were made
WHOLE, UNFINISHED = "outputs/whole", "outputs/ksm/2026-11-28_23-45-00"


@pytest.fixture(scope="module")
def home(tmp_path_factory, teacher_folder, task_folder) -> Path:
    """A folder with a finished and an unfinished old run of one command, and the store that they share."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(teacher_folder, folder / "in" / "teacher")
    shutil.copytree(task_folder, folder / "in" / "task")
    # the first run trains what the others find, and leaves the teacher's answers: the others query the teacher for none
    for where, trap, code in (("first", None, 0), (WHOLE, None, 0), (UNFINISHED, KillAt(5), -9)):
        done = call([*command_of("ksm"), *FORMER_EXEC, f"hydra.run.dir={where}", "figures=false"], folder, trap)
        assert done.code == code, done.output
    shutil.copytree(folder / WHOLE, folder / "today")
    written = {run: json.loads((folder / run / "result.json").read_text()) for run in (WHOLE, UNFINISHED)}
    assert written[WHOLE].keys() - recorded("ksm").keys() == {
        "head", "started_in", "run_folder", "warnings", "caveats", "observation", "size", "date", "scores",
        "saved_with_preparation",
    }  # fmt: skip
    assert recorded("ksm").keys() <= written[WHOLE].keys()
    assert written[UNFINISHED].keys() == recorded("unfinished").keys() | {"started_in", "run_folder", "caveats"}
    as_old(folder / WHOLE, "ksm")
    as_old(folder / UNFINISHED, "unfinished")
    return folder


# choices that follow their paper since: DeKD, Eq. 8 and 9. The old run's own configuration keeps its meaning
CORRECTED: dict[str, dict[str, str]] = {"dekd": {"knowledge.terms.aligned.teacher": "largest"}}
# settings of the demo that are faster since
FASTER: dict[str, dict[str, str]] = {"pretrain": {"trainer.precision": "auto"}}
# what is prepared in another way since
RECIPE = {name: present for name, (_, present) in spellings.FORMER_RECIPE.items()}


@pytest.mark.parametrize("name", FINISHED)
def test_an_old_command_composes_to_the_old_configuration(name):
    """Nothing was added, dropped or changed but for names, what is `CORRECTED` and what is `FASTER`."""
    old = read_config(OLD / name)
    assert "kdlab.strategies" in (OLD / name / "config.yaml").read_text() and "policy" not in old
    corrected = OmegaConf.create(old)
    for key, value in {**RECIPE, **CORRECTED.get(name, {}), **FASTER.get(name, {})}.items():
        OmegaConf.update(corrected, key, value)
    old = to_plain(corrected)
    new = to_plain(composition(spellings.overrides(command_of(name)))[0])
    for config in (old, new):
        config["scale"].pop("says")  # text that is printed
    assert {key: value for key, value in new.items() if key not in IRRELEVANT_KEYS or key in old} == old


def test_old_runs_are_reported_and_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    for name in FINISHED:
        shutil.copytree(OLD / name, runs / name)
    assert report.main([str(runs)]) == 0
    assert "4 runs in 4 groups" in capsys.readouterr().out
    assert compare.main([str(runs / name) for name in ("finetune", "ksm", "dekd")]) == 0
    shown = capsys.readouterr().out
    assert "adads" in shown and "ksm" in shown


def test_old_and_new_runs_of_one_command_are_one_group(home):
    old, new = (read([home / name])[0][0] for name in (WHOLE, "today"))
    assert old.key == new.key


def test_an_old_checkpoint_has_the_names_of_today(home):
    file = max((home / "today" / "checkpoints").glob("*.ckpt"))
    names = set(names_in(checkpoints.load(file)))
    # the sums of the losses since the last line of metrics.csv moved from the module to the callback that writes the line
    moved = {
        name: name.replace("report/", "callbacks/MetricsLog/sums/", 1)
        for name in (OLD / "checkpoint.txt").read_text().splitlines()
    }
    assert set(moved.values()) <= names
    assert not any(name.startswith("report/") for name in names)


def test_artifacts_keep_their_keys(home, tmp_path):
    """With the old hashes of weights in place of this machine's, the key is the old one. A teacher's answers to dev have
    taken the place of its scores."""
    found = set()
    for file in (home / "artifacts").glob("*/*/manifest.json"):
        kind, parts = file.parent.parent.name, json.loads(file.read_text())["parts"]
        assert key_of(parts) == file.parent.name
        if kind == "heldout":
            continue
        keys = [key for key, old in artifacts().items() if key == f"{kind}/{key_of(with_hashes(parts, old))}"]
        assert keys, f"{kind}: no artifact of the old store has these parts"
        found.update(keys)
    assert {key.partition("/")[0] for key in found} == {"task", "classifier", "ksm"}
    today, old = json.loads((home / "today" / "result.json").read_text()), recorded("ksm")
    if today["teacher"] == old["teacher"]:  # its weights have the same hash
        kept = {"task", "classifier", "ksm"}
        assert [{key for key in one["artifacts"] if key.split("/")[0] in kept} for one in (today, old)] == [found] * 2


def test_an_old_finished_run_is_evaluated_exported_and_repeated(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    assert evaluate.main([WHOLE]) == 0
    assert export.main([WHOLE, "exported"]) == 0
    assert (home / "exported" / "model.safetensors").is_file()
    again = call(["--repeat", WHOLE, "hydra.run.dir=repeated"], home)
    assert again.code == 0, again.output
    assert "the same bits as outputs/whole" in again.output and "making" not in again.output
    finished = call([*command_of("ksm"), f"hydra.run.dir={WHOLE}"], home)
    assert finished.code == 2 and "finished run" in finished.output


def test_an_old_unfinished_run_is_resumed_bit_for_bit(home):
    done = call(command_of("ksm"), home)
    assert done.code == 0, done.output
    assert "resuming the unfinished run" in done.output and "making" not in done.output
    resumed, whole = outcome(home / UNFINISHED), outcome(home / "today")
    for part in whole:
        assert resumed[part] == whole[part], part
