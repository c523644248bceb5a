"""Planted secrets reach no file of a run: not its YAML, tables, checkpoints, model card, nor what W&B writes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.support.runs import call, run_folder, tiny

PLANTED = {
    "HF_TOKEN": "hf_PlantedPlantedPlantedPlantedPlant",
    "WANDB_API_KEY": "fedcba9876543210fedcba9876543210fedcba98",
    "MY_DATABASE_PASSWORD": "a planted password",
}


def plant() -> None:
    os.environ.update(PLANTED)


def where(root: Path, secret: str) -> list[str]:
    """The files below `root` that hold a secret, as UTF-8 or UTF-16, or have it in their name."""
    forms = [secret.encode(), secret.encode("utf-16-le")]
    files = [path for path in root.rglob("*") if path.is_file()]
    assert files
    return [str(f) for f in files if secret in str(f) or any(form in f.read_bytes() for form in forms)]


def test_a_run_with_planted_secrets_writes_none(tmp_path, teacher_folder, text_folder):
    given = tiny(teacher_folder, text_folder, "logger=wandb", "trainer.max_steps=4", "trainer.checkpoint_every=2")
    done = call(given, tmp_path, plant)
    assert done.code == 0, done.output
    run = run_folder(tmp_path)
    assert list(run.glob("wandb/offline-run-*/*.wandb"))
    assert list(run.glob("checkpoints/*.ckpt"))
    for secret in PLANTED.values():
        assert where(tmp_path, secret) == []  # the run folder, the artifacts, and all that was printed
    (run / "config.yaml").write_text(PLANTED["HF_TOKEN"])
    assert where(tmp_path, PLANTED["HF_TOKEN"])  # the search finds what is there
    shutil.rmtree(run)

    for override in (f"logger.entity={PLANTED['WANDB_API_KEY']}", "logger.project=${oc.env:MY_DATABASE_PASSWORD}"):
        refused = call([*given, override], tmp_path / "refused", plant)
        assert refused.code == 2
        assert "looks like a secret" in refused.output
        assert not [path for path in (tmp_path / "refused").iterdir() if not path.name.startswith("log-")]
    for secret in PLANTED.values():
        assert where(tmp_path / "refused", secret) == []


def test_an_error_that_quotes_a_secret_is_written_without_it(tmp_path, teacher_folder, text_folder):
    """A folder named like the password cannot be read: the line names it."""
    missing = tmp_path / PLANTED["MY_DATABASE_PASSWORD"]
    refused = call(["+exp=adads_pretrain", f"data.path='{missing}'", "teachers.name=x"], tmp_path / "run", plant)
    assert refused.code == 2
    assert PLANTED["MY_DATABASE_PASSWORD"] not in refused.output
    unknown = call(["+exp=adads_pretrain", f"+logger.sesame={PLANTED['HF_TOKEN']}"], tmp_path / "run", plant)
    assert unknown.code == 2
    assert PLANTED["HF_TOKEN"] not in unknown.output
