"""`python -m kdlab.analyse NAME RUN`: analyses of the papers, each as a CSV table and a figure."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdlab.errors import UserError

if TYPE_CHECKING:
    from kdlab.reporting.analyses.one_run import AnalysisResult


def main(argv: Sequence[str] | None = None) -> int:
    """Write OUT/NAME.csv and OUT/NAME.png and name them; 2 for bad input."""
    arguments = _parser().parse_args(argv)
    from kdlab.runs.finished import command

    return command(lambda: _analyse(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kdlab.analyse", description=__doc__)
    kinds = parser.add_subparsers(dest="name", required=True, metavar="NAME")

    def kind(
        name: str, says: str, make: Callable[[argparse.Namespace], AnalysisResult], rows: int | None = None
    ) -> argparse.ArgumentParser:
        one = kinds.add_parser(name, help=says, description=says)
        one.set_defaults(make=make)
        if rows is None:
            one.add_argument(
                "runs", type=Path, nargs="+", metavar="RUN", help="run folders, or folders with runs below"
            )
            one.add_argument("--out", type=Path, help="where to write (default: figures/ in the folder common to RUNs)")
            return one
        one.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run (gradients: also on text)")
        one.add_argument("--rows", type=int, default=rows, help=f"training rows to look at (default: {rows})")
        one.add_argument("--strategies", nargs="+", metavar="S", help="names such as entropy random")
        one.add_argument("--out", type=Path, help="where to write (default: RUN/figures)")
        return one

    checkpoint = {"type": Path, "metavar": "FILE", "help": "a checkpoint to look at instead of the finished student"}
    one = kind(
        "gradients",
        "share of selected rows whose label and distillation gradients agree (AdaDS Fig. 1)",
        _gradients,
        512,
    )
    one.add_argument("--head", action="store_true", help="the classifier's parameters alone: far cheaper")
    one.add_argument("--checkpoint", **checkpoint)
    kind(
        "selected", "teacher entropy of selected rows, distance to the class centre (Dynamic KD Fig. 4)", _selected, 512
    )
    one = kind("tsne", "t-SNE of the student's features, selected rows marked (Dynamic KD Fig. 5)", _tsne, 1000)
    one.add_argument("--ratio", type=float, help="share of the rows to select (default: the run's)")
    one.add_argument("--checkpoint", **checkpoint)
    kind("temperature", "score against the temperature of the loss, of many runs (Dynamic KD Fig. 7)", _temperature)
    kind("ratio", "score against the selection ratio, of many runs (AdaDS Fig. 3)", _ratio)
    one = kind(
        "against", "score against any setting, of many runs (Dynamic KD Fig. 2, KSM Fig. 4, DeKD Fig. 3)", _against
    )
    one.add_argument("--key", required=True, metavar="KEY", help="the setting, such as student.layers")
    return parser


def _analyse(given: argparse.Namespace) -> int:
    if getattr(given, "rows", 1) < 1:
        raise UserError(f"--rows {given.rows}: at least 1")
    found = given.make(given)
    name = f"{given.name}_{given.key}" if "key" in given else given.name
    for path in _write(found, name, given.out or _common(given) / "figures"):
        print(path)
    return 0


# the analyses are imported when one is made: --help needs no torch


def _gradients(given: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses import one_run, open_run

    return one_run.gradients(
        open_run.OpenRun(given.run, checkpoint=given.checkpoint, text=True), given.rows, given.strategies, given.head
    )


def _selected(given: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses import one_run, open_run

    return one_run.selected(open_run.OpenRun(given.run), given.rows, given.strategies)


def _tsne(given: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses import one_run, open_run

    return one_run.tsne(
        open_run.OpenRun(given.run, checkpoint=given.checkpoint), given.rows, given.strategies, given.ratio
    )


def _temperature(given: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses import across_runs

    return across_runs.temperature(given.runs)


def _ratio(given: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses import across_runs

    return across_runs.ratio(given.runs)


def _against(given: argparse.Namespace) -> AnalysisResult:
    from kdlab.reporting.analyses import across_runs

    return across_runs.against(given.runs, given.key)


def _common(given: argparse.Namespace) -> Path:
    return given.run if "run" in given else Path(os.path.commonpath([os.path.abspath(run) for run in given.runs]))


def _write(found: AnalysisResult, name: str, out: Path) -> list[Path]:
    from kdlab.plotting import style
    from kdlab.storage.files import atomic_write_bytes, atomic_write_text, user_errors

    stream = io.StringIO()
    writer = csv.DictWriter(stream, found.columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found.rows)
    with user_errors("writing an analysis", out):
        out.mkdir(parents=True, exist_ok=True)
    atomic_write_text(out / f"{name}.csv", stream.getvalue())
    atomic_write_bytes(out / f"{name}.png", style.png(found.figure))
    return [out / f"{name}.csv", out / f"{name}.png"]


if __name__ == "__main__":
    sys.exit(main())
