"""`python -m kdlab.analyse NAME RUN`: analyses of the papers, each as a CSV table and a figure."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdlab.errors import UserError
from kdlab.plugins import own_modules
from kdlab.runtime.command_line import CommandLine

if TYPE_CHECKING:
    from kdlab.reporting.analyses.one_run import AnalysisResult

FACTORS = (
    "ratio",
    "batch",
    "steps",
    "classes",
    "majority",
    "look",
    "explore",
    "replay",
    "labels_on",
    "start",
    "stage",
    "task",
)  # of depends
Analysis = Callable[[argparse.Namespace], "AnalysisResult"]


def main(argv: Sequence[str] | None = None) -> int:
    """Write OUT/NAME.csv and OUT/NAME.png and print their paths; returns the exit code, 2 for bad input."""
    chosen = _parser().parse_args(argv)
    from kdlab.runs.finished import command

    return command(lambda: _analyse(chosen), chosen.code)


def _parser() -> argparse.ArgumentParser:
    parser = CommandLine(prog="python -m kdlab.analyse", description=__doc__)
    parser.set_defaults(code=[])
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")

    def add(name: str, summary: str, analysis: Analysis) -> argparse.ArgumentParser:
        sub = names.add_parser(name, help=summary, description=summary)
        sub.set_defaults(make=analysis)
        return sub

    def one_run(name: str, summary: str, analysis: Analysis, rows: int) -> argparse.ArgumentParser:
        sub = add(name, summary, analysis)
        sub.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run (gradients: also on text)")
        sub.add_argument("--rows", type=int, default=rows, help=f"number of training rows (default: {rows})")
        sub.add_argument(own_modules.OPTION, action="append", default=[], metavar="CODE", help=own_modules.HELP)
        sub.add_argument("--strategies", nargs="+", metavar="S", help="names such as entropy random")
        sub.add_argument("--out", type=Path, help="folder to write to (default: RUN/figures)")
        return sub

    def many_runs(name: str, summary: str, analysis: Analysis) -> argparse.ArgumentParser:
        sub = add(name, summary, analysis)
        sub.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, or folders with runs below")
        sub.add_argument("--out", type=Path, help="folder to write to (default: figures/ in the parent common to RUNs)")
        return sub

    checkpoint = {"type": Path, "metavar": "FILE", "help": "a checkpoint to read instead of the finished student"}
    sub = one_run(
        "gradients",
        "share of selected rows whose label and distillation gradients agree (AdaDS Fig. 1)",
        _gradients,
        512,
    )
    sub.add_argument("--head", action="store_true", help="gradients of the classifier's parameters alone: far cheaper")
    sub.add_argument("--checkpoint", **checkpoint)
    one_run(
        "selected", "teacher entropy of selected rows, distance to the class centre (Dynamic KD Fig. 4)", _selected, 512
    )
    sub = one_run("tsne", "t-SNE of the student's features, selected rows marked (Dynamic KD Fig. 5)", _tsne, 1000)
    sub.add_argument("--ratio", type=float, help="share of the rows to select (default: the run's)")
    sub.add_argument("--checkpoint", **checkpoint)
    sub = add("rewards", "correlation of cheap rewards with the paired probes of a run (select.probe_every=)", _rewards)
    sub.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run with probe.csv")
    sub.add_argument("--out", type=Path, help="folder to write to (default: RUN/figures)")
    many_runs(
        "temperature", "score against the temperature of the loss, of many runs (Dynamic KD Fig. 7)", _temperature
    )
    many_runs("ratio", "score against the selection ratio, of many runs (AdaDS Fig. 3)", _ratio)
    many_runs("glue", "mean of GLUE against the ratio of pre-training, of suites +exp=glue (AdaDS Fig. 4)", _glue)
    sub = many_runs(
        "against", "score against any setting, of many runs (Dynamic KD Fig. 2, KSM Fig. 4, DeKD Fig. 3)", _against
    )
    sub.add_argument("--key", required=True, metavar="KEY", help="the setting, such as student.layers")
    _runs_or_tables(add)
    return parser


def _runs_or_tables(add: Callable[[str, str, Analysis], argparse.ArgumentParser]) -> None:
    """Add the analyses of selection, which read tables of runs as well."""
    for name, summary in (
        ("pays", "gain of each selection over random rows, at equal queries and at equal total cost, with tests"),
        ("break_even", "gain over random rows at equal total cost, by the cost of the teacher over the student's"),
        ("safe", "worst, mean and best gain of each selection over random rows, and the runs that collapsed"),
        ("depends", "gain of each selection over random rows against a factor, such as the ratio or the classes"),
    ):
        sub = add(name, summary, _choosing)
        if name == "depends":
            sub.add_argument("--on", required=True, metavar="FACTOR", help=", ".join(FACTORS))
        where = "run folders, folders with runs below, or files of `kdlab compare --runs-csv`"
        sub.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=where)
        sub.add_argument("--out", type=Path, help="folder to write to (default: figures/ in the parent common to RUNs)")


def _analyse(chosen: argparse.Namespace) -> int:
    if getattr(chosen, "rows", 1) < 1:
        raise UserError(f"--rows {chosen.rows}: at least 1")
    from kdlab.reporting.analyses.output import write_analysis

    on = getattr(chosen, "key", None) or getattr(chosen, "on", None)
    name = f"{chosen.name}_{on}" if on else chosen.name
    return write_analysis(chosen.make(chosen), name, chosen.out or _common_parent(chosen) / "figures")


def _common_parent(chosen: argparse.Namespace) -> Path:
    if "run" in chosen:
        return chosen.run
    folders = [os.path.abspath(run if run.is_dir() else run.parent) for run in chosen.runs]
    return Path(os.path.commonpath(folders))


# an analysis is imported when it is chosen: --help needs no torch


def _gradients(chosen: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses import one_run, open_run

    run = open_run.OpenRun(chosen.run, checkpoint=chosen.checkpoint, text=True)
    return one_run.gradients(run, chosen.rows, chosen.strategies, chosen.head)


def _selected(chosen: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses import one_run, open_run

    return one_run.selected(open_run.OpenRun(chosen.run), chosen.rows, chosen.strategies)


def _tsne(chosen: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses import one_run, open_run

    run = open_run.OpenRun(chosen.run, checkpoint=chosen.checkpoint)
    return one_run.tsne(run, chosen.rows, chosen.strategies, chosen.ratio)


def _rewards(chosen: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses import reward_accuracy

    return reward_accuracy.rewards(chosen.run)


def _temperature(chosen: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses import across_runs

    return across_runs.temperature(chosen.runs)


def _ratio(chosen: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses import across_runs

    return across_runs.ratio(chosen.runs)


def _glue(chosen: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses import glue_by_ratio

    return glue_by_ratio.glue(chosen.runs)


def _against(chosen: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses import across_runs

    return across_runs.against(chosen.runs, chosen.key)


def _choosing(chosen: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses.choosing import factors, figures, safety

    if chosen.name == "depends":
        return factors.depends(chosen.runs, chosen.on)
    return {"pays": figures.pays, "break_even": figures.break_even, "safe": safety.safe}[chosen.name](chosen.runs)


if __name__ == "__main__":
    sys.exit(main())
