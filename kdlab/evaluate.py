"""`python -m kdlab.evaluate RUN`: score a finished run's student again, from the files in its folder; with
`--glue-submission OUT.zip`, answer GLUE's hidden test sets instead."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdlab.runs.finished import command, config_of, finished_result


def main(argv: Sequence[str] | None = None) -> int:
    """Print the student's held-out scores beside those of its result.json; 1 if they differ, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m kdlab.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--rows", type=int, default=None, help="held-out rows to read (default: as the run did)")
    what.add_argument(
        "--glue-submission",
        type=Path,
        metavar="OUT.zip",
        help="write what the GLUE server takes; RUN learnt a GLUE task, or is the folder of +exp=glue",
    )
    arguments = parser.parse_args(argv)

    def body() -> int:
        from kdlab.errors import UserError

        if arguments.glue_submission is not None:
            from kdlab.reporting.glue_submission import submit

            submit(arguments.run, arguments.glue_submission)
            return 0
        result, config = finished_result(arguments.run), config_of(arguments.run)
        if arguments.rows is not None and arguments.rows < 1:
            raise UserError(f"--rows {arguments.rows}: at least 1")
        return _scores(arguments.run, result, config, arguments.rows)

    return command(body)


def _scores(run: Path, result: dict, config, rows: int | None) -> int:
    import torch

    from kdlab.models.encoder import Encoder
    from kdlab.modules.evaluation import over_splits
    from kdlab.stages.registry import stage_of

    if rows is not None:
        config.data.heldout_rows = rows
    stage = stage_of(config, print)
    stage.source.check()
    encoder = Encoder(stage.load(run / "student")).eval()
    score = stage.score
    splits = stage.data_module(1, None).heldout_splits(final=rows is None)
    with torch.autocast("cpu", torch.bfloat16, enabled=result["devices"]["precision"] == "bf16-mixed"):
        found, kept = over_splits(lambda batches: score(encoder, batches), splits), result["metrics"]["student"]
    names = list(found)
    print(f"{'held-out rows':<24}" + "".join(f"{name:>22}" for name in names))
    for who, scores in (("student, now", found), ("student, as recorded", kept)):
        print(f"{who:<24}" + "".join(f"{scores[name]:>22.4f}" for name in names))
    if rows is None and abs(found["loss"] - kept["loss"]) > 1e-3 * max(1.0, kept["loss"]):
        print(
            "kdlab: the scores differ: were the student, the data or the machine's precision changed?", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
