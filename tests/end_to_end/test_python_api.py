"""`kdlab.distill` from start to end: the command line's bits, and what its Result has."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest
import torch
import transformers

import kdlab
from kdlab.testing.child_process import TINY_TASK
from tests.support.runs import call, tiny_task

CHANGED = ("+exp", "select.ratio", "student.layers", "trainer.max_steps")
SMALL = [one for one in TINY_TASK if not one.startswith(CHANGED)]
CALL = {"student": 2, "ratio": 0.25, "max_steps": 8, "seed": 3}


def weights(run: Path) -> bytes:
    return (run / "student" / "model.safetensors").read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_call_gives_the_bits_of_the_command_line(tmp_path, monkeypatch, capsys, teacher_folder, task_folder):
    monkeypatch.chdir(tmp_path)
    typed = tiny_task(teacher_folder, task_folder, "scale=own", "seed=3", "knowledge=response", "hydra.run.dir=typed")
    done = call(typed, tmp_path)
    assert done.code == 0, done.output

    result = kdlab.distill(train=task_folder, teacher=teacher_folder, out="called", overrides=SMALL, **CALL)
    assert weights(result.folder) == weights(tmp_path / "typed")
    assert result.metrics["student"].keys() >= {"accuracy", "loss"} and result.ledger["teacher_queries"]["total"] > 0
    assert [row["step"] for row in result.schedule][:3] == [0, 1, 2] and result.figures == {}
    table = str(result)
    assert "teacher queries" in table and "dev set (60 rows)" in table and table not in capsys.readouterr().out
    assert "<td>student</td>" in result._repr_html_()
    logits = result.student(**result.tokenizer("ba ke", return_tensors="pt")).logits
    assert torch.isfinite(logits).all() and logits.shape == (1, 3)
    saved = result.save("saved")
    assert transformers.AutoModelForSequenceClassification.from_pretrained(saved).num_labels == 3
    with pytest.raises(kdlab.UserError, match="called .*is finished|finished run"):
        kdlab.distill(train=task_folder, teacher=teacher_folder, out="called", overrides=SMALL, **CALL)
    with pytest.raises(kdlab.UserError, match="called"):  # before rows that lie in memory are kept
        kdlab.distill(train=[{"text": "ba", "label": 0}], teacher=teacher_folder, out="called", overrides=SMALL, **CALL)
    assert not (tmp_path / "artifacts" / "given_rows").exists()

    frames = {}
    for split in ("train", "dev"):
        frames[split] = pandas.read_csv(task_folder / f"{split}.tsv", sep="\t")
    model = transformers.AutoModelForMaskedLM.from_pretrained(teacher_folder)
    in_memory = kdlab.distill(**frames, teacher=model, overrides=SMALL, **CALL)
    assert weights(in_memory.folder) == weights(result.folder)
    place = in_memory.folder
    del in_memory
    assert not place.exists()
