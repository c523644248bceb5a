"""Short names of keys, and those of other tools, lead to the right key."""

from __future__ import annotations

import pytest

from kdlab.config import short_names
from kdlab.config.composition import _known_keys
from kdlab.run import main
from tests.support.runs import tiny, tiny_task

KNOWN = frozenset(_known_keys())


def test_every_key_that_a_name_stands_for_exists():
    assert {target for target in short_names.SYNONYMS.values() if target not in KNOWN} == set()
    assert short_names.NOTES.keys() <= short_names.SYNONYMS.keys()
    ambiguous = [name for name in short_names.SYNONYMS if name in KNOWN]  # a key itself is never looked up
    assert ambiguous == []


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("experiment", "exp"), ("measure", "trainer.measure_speed"),
        ("lr", "optim.lr"), ("epochs", "trainer.max_epochs"), ("steps", "trainer.max_steps"),
        ("batch", "data.batch_size"), ("bs", "data.batch_size"), ("batch_size", "data.batch_size"),
        ("model", "student.path"), ("teacher", "teachers.path"), ("temperature", "knowledge.terms"),
        ("max_len", "data.max_length"), ("max_length", "data.max_length"), ("metric", "data.metric"),
        ("ratio", "select.ratio"), ("output_dir", "hydra.run.dir"), ("device", "trainer.devices"),
        ("devices", "trainer.devices"), ("gpus", "trainer.devices"), ("bf16", "trainer.precision"),
        ("fp16", "trainer.precision"), ("patience", "trainer.max_steps"), ("trainer.lr", "optim.lr"),
        ("weight_decay", "optim.weight_decay"), ("dropout", "student.dropout"), ("max_step", "trainer.max_steps"),
        ("select.ration", "select.ratio"), ("warm-up", "optim.warmup"),
        ("explore", "select.explore"), ("exploration", "select.explore"), ("look", "select.look"), ("start", "student.start"),
        ("balance", "select.balance"), ("importance", "select.importance"), ("student_init", "student.start"),
    ],
)  # fmt: skip
def test_a_short_name_leads_to_its_key(name, key):
    first = short_names.meant(name, KNOWN).removeprefix("did you mean ").partition(" or ")[0]
    assert first.partition("?")[0] == key


@pytest.mark.parametrize("line", ["lr=1e-3", "+lr=1e-3"])
def test_the_command_names_the_key(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["+exp=adads_finetune", line]) == 2
    assert capsys.readouterr().err == "kdlab: unknown key lr: did you mean optim.lr?\n"
    assert not list(tmp_path.iterdir())


def test_a_dry_run_checks_the_command_and_writes_nothing(
    capsys, tmp_path, monkeypatch, teacher_folder, text_folder, task_folder
):
    monkeypatch.chdir(tmp_path)
    assert main([*tiny_task(teacher_folder, task_folder, "select=random"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    for line in (
        f"data: {task_folder.name}; batches of 16, at most 8 steps",
        "select=random: 25% of the rows",
        "would write outputs",
    ):
        assert line in said
    assert main(["-n", *tiny(teacher_folder, text_folder), "-m", "seed=1,2"]) == 0
    said = capsys.readouterr().out
    assert "seed=1: to run: " in said and "--dry-run: 2 jobs in " in said
    assert main([*tiny_task(teacher_folder, task_folder, "student.layers=9"), "-n"]) == 2
    assert not list(tmp_path.iterdir())
