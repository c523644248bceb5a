"""trainer=fsdp_teacher on two CPU ranks (gloo) against trainer=ddp: the same run, bit for bit, with an idle rank too."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.ddp.test_two_ranks_teaching import COMMON, IDLE, RULES
from tests.support.runs import call, outcome, tiny_task

TWO = ["data.batch_size=8", "trainer.devices=2", "trainer.accelerator=cpu"]


def both(given: list[str], folder: Path) -> list[dict[str, Any]]:
    """The outcomes with each trainer, from the artifacts in `folder`; teachers are scored anew."""
    found = []
    for name in ("ddp", "fsdp_teacher"):
        shutil.rmtree(folder / "artifacts" / "heldout", ignore_errors=True)
        done = call([*given, f"trainer={name}", f"hydra.run.dir={name}"], folder, ranks=2)
        assert done.code == 0, done.output
        found.append(outcome(folder / name))
    return found


def test_two_teachers_that_ranks_ask_unequally(tmp_path, teacher_folder, four_classes):
    given = tiny_task(teacher_folder, four_classes, *COMMON, *TWO, *IDLE, *RULES["hard"])
    whole, shared = both(given, tmp_path)
    assert shared == whole
    assert (tmp_path / "artifacts" / "heldout").is_dir()  # made by both ranks together
