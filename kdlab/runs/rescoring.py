"""Score the student of a finished run again, or on other rows, from the files in its folder (`python -m kdlab.evaluate`)."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlab.errors import UserError
from kdlab.models.head import head_of_result
from kdlab.runs.finished import config_of, finished_result
from kdlab.runs.keeping import check_student
from kdlab.storage.files import atomic_write_text, user_errors, user_path

if TYPE_CHECKING:
    from kdlab.modules.evaluation import Answers
    from kdlab.runs.rescored_rows import HeldOutRows

TOLERANCE = 1e-3  # of the recorded loss, or of 1 for smaller losses


@dataclass(frozen=True)
class Rescoring:
    """Arguments of `rescore`: a part ("dev", on text its held-out rows, or "test"), or a `data` file or folder of other
    rows; `rows`: number of dev rows (None: as in the run); `out`: the file for the predictions."""

    part: str = "dev"
    data: Path | None = None
    rows: int | None = None
    out: Path | None = None

    def check(self) -> None:
        """UserError for arguments that contradict each other, and files that are missing or in the way."""
        if self.rows is not None and self.rows < 1:
            raise UserError(f"--rows {self.rows}: at least 1")
        if self.rows is not None and (self.part != "dev" or self.data is not None):
            raise UserError("--rows counts rows of dev: give neither --split test nor --data beside it")
        if self.data is not None and not user_path(self.data).exists():
            raise UserError(f"--data {self.data}: there is no such file")
        if self.out is not None and self.out.exists():
            raise UserError(f"--predictions {self.out}: the file exists, and is kept; choose another name")
        if self.out is not None and not self.out.parent.is_dir():
            raise UserError(f"--predictions {self.out}: there is no folder {self.out.parent}")


def rescore(run: Path, rows: int | None = None, chosen: Rescoring | None = None) -> int:
    """Print the student's scores, beside those in result.json if they are of the same rows; returns 1 if these differ, else 0.

    It needs the run folder; and the tokenised rows in the artifact store, or the rows' own files, or `chosen.data`. No
    teacher. UserError for bad input.
    """
    chosen = chosen or Rescoring(rows=rows)
    chosen.check()
    result, config = finished_result(run, "devices.precision", "metrics.student.loss"), config_of(run)
    check_student(run, result)
    if chosen.data is None and chosen.part == "test" and not head_of_result(result).per_row:
        raise UserError(f"{run} is on text, which has no test split: --data FILE scores other text")
    from kdlab.models.loading import silence_transformers
    from kdlab.runs import rescored_rows

    silence_transformers()
    with tempfile.TemporaryDirectory() as folder, user_errors("tokenising the rows", Path(folder)):
        found = rescored_rows.found(run, result, config, chosen, Path(folder))
        scores, answers = _scored(run, result, config, found)
    recorded = _recorded(result, chosen)
    _print(scores, recorded, found)
    if found.shape is not None and answers:
        _print_further(answers, found, config.data.metric)
    if chosen.out is not None:
        _write(chosen.out, answers, found)
    if (
        recorded
        and chosen.rows is None
        and abs(scores["loss"] - recorded["loss"]) > TOLERANCE * max(1.0, recorded["loss"])
    ):
        print("kdlab: the scores differ: did the student, the data or the machine's precision change?", file=sys.stderr)
        return 1
    return 0


def _scored(
    run: Path, result: dict[str, Any], config: Any, found: HeldOutRows
) -> tuple[dict[str, float], dict[str, Answers]]:
    """Scores of the student over the splits, and its answers; no scores where rows have no label."""
    import torch

    from kdlab.models import loading
    from kdlab.models.encoder import Encoder
    from kdlab.models.execution import execution_on
    from kdlab.modules.evaluation import TaskScore, in_order, text_score, with_answers
    from kdlab.runtime.devices import first_device

    device = first_device(config.trainer.accelerator)
    head = head_of_result(result)
    execution = execution_on(
        device, config.exec, result["devices"]["precision"]
    )  # in half precision, others round otherwise
    student = Encoder(loading.load_with_head(run / "student", head), execution).eval().to(device)
    score = text_score(head) if found.shape is None else TaskScore(found.shape, config.data.metric)
    half = result["devices"]["precision"] == "bf16-mixed"
    with torch.autocast(device.type, torch.bfloat16, enabled=half), torch.no_grad():
        if found.unlabelled:
            return {}, {split: in_order(student, batches, device) for split, batches in found.batches.items()}
        return with_answers(lambda batches: score(student, batches, device), lambda: score.answers, found.batches)


def _recorded(result: dict[str, Any], chosen: Rescoring) -> dict[str, float]:
    """The scores in result.json of the rows that are scored now; empty where it has none."""
    if chosen.data is not None:
        return {}
    return ((result.get("test") or {}) if chosen.part == "test" else result["metrics"]).get("student", {})


def _print(scores: dict[str, float], recorded: dict[str, float], found: HeldOutRows) -> None:
    print(f"{found.title}" if scores else f"{found.title}, without labels: no scores")
    if not scores:
        return
    print(f"{'held-out rows':<24}" + "".join(f"{name:>22}" for name in scores))
    for title, values in (("student, now", scores), ("student, as recorded", recorded)):
        if values:
            print(
                f"{title:<24}"
                + "".join(f"{values[name]:>22.4f}" if name in values else f"{'-':>22}" for name in scores)
            )


def _print_further(answers: dict[str, Answers], found: HeldOutRows, metric: str | None) -> None:
    from kdlab.runs.closing.further_scores import further
    from kdlab.runs.closing.held_out import HeldOut, detailed

    assert found.shape is not None
    if not found.unlabelled:
        whole = HeldOut({}, {}, {found.part: {"student": answers}})
        print("\n".join(further({"scores": detailed(whole, {"student": found.shape}, metric)})))


def _write(out: Path, answers: dict[str, Answers], found: HeldOutRows) -> None:
    """Write the student's predictions; of a second split (MNLI) to a file whose name ends with the split's."""
    from kdlab.runs.closing.predictions import table

    if found.shape is None:
        raise UserError("--predictions: a student of the pre-training stage predicts tokens, and no rows")
    for split, of in answers.items():
        file = out.with_name(f"{out.stem}_{split}{out.suffix}") if split else out
        with user_errors("writing the predictions", file.parent):
            atomic_write_text(file, table(found.numbers[split].tolist(), {"student": of}, {"student": found.shape}))
        print(f"predictions of {len(of.rows):,} rows: {file}")
