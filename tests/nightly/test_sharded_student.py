"""trainer.shard_student=true on two CPU ranks (gloo) against trainer=ddp, whatever is combined, at each stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdlab.testing.tiny import write_decoder
from tests.ddp.test_two_ranks import TWO, compare
from tests.ddp.test_two_ranks_tasks import ADAM
from tests.ddp.test_two_ranks_teaching import IDLE, SMALL
from tests.support.runs import call, tiny, tiny_causal, tiny_task

COMMON = ["trainer.accelerator=cpu", "trainer.probes=1", ADAM, *TWO]
KD = ["select=adads", "select.observe=kd", "select.evaluation_rows=24"]  # three batches of 8: one rank has two
TEXTS = {
    "adads": ["select=adads", "trainer.accumulate=2", "trainer.max_steps=4"],
    "observed by its whole loss": KD,
    "padded": ["select=entropy", "exec=padded"],
    "an idle rank": IDLE,
    "committee with dropout": ["select=committee", "select.votes=2", "student.dropout=0.1"],
    "positions": ["select=entropy", "select.unit=both", "knowledge.terms.cosine.weight=0"],
}
TASKS = {
    "adads": ["select=adads"],
    "tinybert, an idle rank": [*IDLE, "knowledge=tinybert", "knowledge.phases=[0.5]", "student.hidden=16"],
    "two teachers": ["select=entropy", "adopt=hard", "knowledge=dynamickd_objective", SMALL],
    "joint logits": ["select=entropy", "adopt=every", "knowledge=cfl", "knowledge.terms.common.weight=0", SMALL],
    "labels on all, an idle rank": [*IDLE, "knowledge.labels_on=all"],
    "frozen embeddings": ["select=random", "student.freeze=[embeddings]"],
}
DECODERS = {
    "states": ["select=entropy", "knowledge=causal_states"],
    "layers that run anew": ["select=entropy", "student.gradient_checkpointing=true"],
    "both sharded in bfloat16": ["select=entropy", "trainer.precision=bf16-mixed", "trainer.shard_teacher=true"],
}


def assert_as_ddp(given: list[str], folder: Path) -> None:
    for name, more in (("one", []), ("two", ["trainer.shard_student=true"])):
        done = call([*given, *more, f"hydra.run.dir={name}"], folder, ranks=2)
        assert done.code == 0, done.output
    compare(folder)


@pytest.mark.parametrize("case", TEXTS)
def test_on_text(case, tmp_path, teacher_folder, text_folder):
    assert_as_ddp(tiny(teacher_folder, text_folder, *COMMON, *TEXTS[case]), tmp_path)


@pytest.mark.parametrize("case", TASKS)
def test_on_tasks(case, tmp_path, teacher_folder, task_folder):
    assert_as_ddp(tiny_task(teacher_folder, task_folder, *COMMON, *TASKS[case]), tmp_path)


@pytest.mark.parametrize("case", DECODERS)
def test_of_decoders(case, tmp_path, text_folder):
    given = tiny_causal(write_decoder(tmp_path / "teacher"), text_folder, *COMMON, *DECODERS[case])
    assert_as_ddp(given, tmp_path)
