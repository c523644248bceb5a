"""Score the student of a finished run again, from the files in its folder (`python -m kdlab.evaluate`)."""

from __future__ import annotations

import sys
from pathlib import Path

from kdlab.errors import UserError
from kdlab.runs.finished import config_of, finished_result
from kdlab.runs.keeping import check_student

TOLERANCE = 1e-3  # of the recorded loss, or of 1 for smaller losses


def rescore(run: Path, rows: int | None = None) -> int:
    """Print the student's held-out scores beside those in result.json; returns 1 if they differ, else 0.

    `rows`: number of held-out rows (default: as in the run; otherwise nothing is compared). UserError for bad input.
    """
    result, config = finished_result(run, "devices.precision", "metrics.student.loss"), config_of(run)
    check_student(run, result)
    if rows is not None and rows < 1:
        raise UserError(f"--rows {rows}: at least 1")
    import torch

    from kdlab.models.encoder import Encoder
    from kdlab.modules.evaluation import over_splits
    from kdlab.stages.registry import stage_of

    if rows is not None:
        config.data.heldout_rows = rows
    stage = stage_of(config, print)
    stage.inputs.source.check()
    student = Encoder(stage.inputs.load(run / "student")).eval()
    splits = stage.inputs.data_module(1, None).heldout_splits(final=rows is None)
    with torch.autocast("cpu", torch.bfloat16, enabled=result["devices"]["precision"] == "bf16-mixed"):
        scores = over_splits(lambda batches: stage.inputs.score(student, batches), splits)
    recorded = result["metrics"]["student"]
    print(f"{'held-out rows':<24}" + "".join(f"{name:>22}" for name in scores))
    for title, values in (("student, now", scores), ("student, as recorded", recorded)):
        print(f"{title:<24}" + "".join(f"{values[name]:>22.4f}" for name in scores))
    if rows is None and abs(scores["loss"] - recorded["loss"]) > TOLERANCE * max(1.0, recorded["loss"]):
        print("kdlab: the scores differ: did the student, the data or the machine's precision change?", file=sys.stderr)
        return 1
    return 0
