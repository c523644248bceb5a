"""`python -m kdlab.evaluate RUN`: score a finished run's student again, from the files in its folder, on dev, on a labelled
test split, or on any file of rows or text (`--data`); a decoder also on questions and prompts; with `--glue-submission OUT.zip`, answer GLUE's hidden test sets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdlab.errors import UserError
from kdlab.plugins import own_modules
from kdlab.runtime.command_line import CommandLine


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate the student; returns the exit code: 1 if its scores differ from result.json, 2 for bad input."""
    chosen = _parser().parse_args(argv)
    from kdlab.runs.finished import command

    return command(lambda: _evaluate(chosen), chosen.code)


def _parser() -> argparse.ArgumentParser:
    parser = CommandLine(prog="python -m kdlab.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="also write the student's predictions as CSV")
    parser.add_argument(own_modules.OPTION, action="append", default=[], metavar="CODE", help=own_modules.HELP)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--split", choices=("dev", "test"), default="dev", help="the rows to score (default: dev)")
    mode.add_argument(
        "--data", type=Path, metavar="FILE", help="other rows to score, with labels; on text: a file or folder"
    )
    mode.add_argument("--rows", type=int, default=None, help="number of held-out rows (default: as in the run)")
    mode.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        help="multiple choice for a decoder: .jsonl of question, choices, answer",
    )
    mode.add_argument(
        "--exact-match", type=Path, metavar="FILE", help="greedy generation of a decoder: .jsonl of prompt, completion"
    )
    mode.add_argument("--lm-eval", metavar="TASKS", help="tasks of lm-evaluation-harness for a decoder, by commas")
    mode.add_argument(
        "--glue-submission",
        type=Path,
        metavar="OUT.zip",
        help="write a zip for the GLUE server; RUN is a run on a GLUE task, or the folder of +exp=glue",
    )
    return parser


def _evaluate(chosen: argparse.Namespace) -> int:
    if chosen.glue_submission is not None:
        if chosen.predictions is not None:
            raise UserError("--predictions goes with --split or --data; --glue-submission writes predictions itself")
        from kdlab.reporting.glue_submission import submit

        submit(chosen.run, chosen.glue_submission)
        return 0
    of_decoders = (chosen.questions, chosen.exact_match, chosen.lm_eval)
    if any(option is not None for option in of_decoders):
        if chosen.predictions is not None:
            raise UserError("--predictions goes with --split or --data")
        from kdlab.runs.decoding import scoring

        if chosen.questions is not None:
            return scoring.answer_questions(chosen.run, chosen.questions)
        if chosen.exact_match is not None:
            return scoring.match_completions(chosen.run, chosen.exact_match)
        return scoring.in_harness(chosen.run, chosen.lm_eval)
    from kdlab.runs.rescoring import Rescoring, rescore

    return rescore(chosen.run, chosen=Rescoring(chosen.split, chosen.data, chosen.rows, chosen.predictions))


if __name__ == "__main__":
    sys.exit(main())
