"""`artifacts list` names the task and the model of each trained teacher, of older artifacts what is known."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from kdlab import artifacts
from kdlab.storage.artifacts import ArtifactStore
from tests.support.made_runs import made_run

CONFIG = {"model_type": "bert", "num_hidden_layers": 12, "id2label": {"0": "no", "1": "yes", "2": "maybe"}}
PARTS = {"task": {"rows": "0123456789abcdef"}, "recipe": {"max_epochs": 4, "max_steps": None}}


def files(**content: object):
    """A builder of an artifact with these JSON files and weights."""

    def build(out: Path) -> None:
        (out / "model.safetensors").write_bytes(b"weights")
        for name, value in content.items():
            (out / f"{name}.json").write_text(json.dumps(value))

    return build


def listed(root: Path, runs: Path, capsys) -> list[str]:
    """The lines of facts."""
    assert artifacts.main(["list", "--root", str(root), "--runs", str(runs)]) == 0
    return [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]


def test_a_new_teacher_is_listed_with_model_data_score_and_length(tmp_path, capsys):
    store = ArtifactStore(tmp_path / "store", lambda line: None)
    about = {"model": "google-bert/bert-base-uncased", "data": "reviews", "metric": "f1"}
    store.get("classifier", PARTS, files(config=CONFIG, cost={"steps": 1340}, about=about))
    weights = hashlib.sha256(b"weights").hexdigest()
    scored = {"loss": 0.3, "accuracy": 0.9, "f1": 0.875, "score": 0.875}
    store.get(
        "scores", {"teacher": weights, "task": 1}, lambda out: (out / "scores.json").write_text(json.dumps(scored))
    )
    assert listed(store.root, tmp_path, capsys) == [
        "google-bert/bert-base-uncased, 12 layers; data reviews; 3 classes; f1 0.875 on dev; 1,340 steps, 4 epochs at most"
    ]


def test_an_old_one_is_named_by_a_run_that_used_it_else_by_what_its_files_say(tmp_path, capsys):
    store = ArtifactStore(tmp_path / "store", lambda line: None)
    made = store.get("classifier", PARTS, files(config=CONFIG))
    assert listed(store.root, tmp_path / "runs", capsys) == [
        "bert, 12 layers; data with fingerprint 01234567; 3 classes; 4 epochs at most"
    ]
    results = {"artifacts": [f"classifier/{made.name}"], "teacher": {"name": "all-MiniLM-L6-v2"}}
    made_run(tmp_path / "runs" / "one", 0.5, task="sst2", results=results)
    assert listed(store.root, tmp_path / "runs", capsys) == [
        "all-MiniLM-L6-v2, 12 layers; data sst2; 3 classes; 4 epochs at most"
    ]


def test_a_teacher_of_text_has_its_loss_and_other_artifacts_no_facts(tmp_path, capsys):
    store = ArtifactStore(tmp_path / "store", lambda line: None)
    parts = {"corpus": {"text": "fedcba9876"}, "recipe": {"max_steps": 220}}
    store.get("teacher", parts, files(config=CONFIG, heldout={"loss": 5.0023, "accuracy": 0.3}))
    store.get("task", {"n": 1}, lambda out: (out / "rows.arrow").write_text("x"))
    assert listed(store.root, tmp_path, capsys) == [
        "bert, 12 layers; data with fingerprint fedcba98; held-out loss 5.002; 220 steps"
    ]
