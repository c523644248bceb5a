"""`python -m kdlab.compare FOLDER...`: finished runs by task, mean over seeds, each group tested against a baseline."""

from __future__ import annotations

import argparse
import csv
import io
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdlab.reporting import statistics as significance
from kdlab.reporting.comparison import DEFAULT, Comparison, ComparisonLine, compare
from kdlab.reporting.seed_groups import Run, read
from kdlab.reporting.statistics import Paired
from kdlab.runs.finished import command
from kdlab.runs.summary import si
from kdlab.storage.files import atomic_write_text

FEW = 10  # from so many seeds on, nothing is said about the power of the test
GROUP = ("group", "mean", "std", "seeds", "best", "worst", "queries", "FLOPs")
SAME = ("task", "knowledge", "policy", "adopt", "select", "ratio")
TEST = ("group", "baseline", "common seeds", "difference", "95 % interval", "p", "Holm p")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; 2 for bad input."""
    given = _parser().parse_args(argv)
    return command(lambda: _compare(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kdlab.compare", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all numbers there too, a line a group")
    parser.add_argument("--runs-csv", type=Path, metavar="FILE", help="write the runs there too, a line each")
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is compared, by which metric and with what: the same for all commands that compare runs."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="FOLDER", help="run folders, or folders with runs below")
    parser.add_argument("--baseline", metavar="WHAT", help=f"part of a group's name (default: {DEFAULT})")
    parser.add_argument("--metric", metavar="NAME", help="such as accuracy (default: score; on text: loss)")


def _compare(given: argparse.Namespace) -> int:
    runs, left = read(given.runs)
    for folder, why in left.items():
        to_stderr(f"left out, {why}: {folder}")
    found = compare(runs, given.metric, given.baseline, to_stderr)
    if given.csv:
        atomic_write_text(given.csv, as_csv([numbers(one, line) for one in found for line in one.lines]))
    if given.runs_csv:
        atomic_write_text(given.runs_csv, as_csv(each(runs)))
    for one in found:
        print(text(one, given.markdown), end="\n\n")
    for note in notes(found, given.baseline):
        print(f"- {note}" if given.markdown else note)
    return 0


def to_stderr(line: str) -> None:
    """A line for the reader beside the tables."""
    print(f"kdlab: {line}", file=sys.stderr)


def text(found: Comparison, markdown: bool = False) -> str:
    """Two tables, of the groups and of their tests, and how small a difference such tests find; as Markdown if wanted.

    Losses are shown as they are, scores times 100.
    """
    parts = [f"{'### ' if markdown else ''}{found.task}: {found.described}", ""]
    parts.append(_grid(GROUP, [_group(found, line) for line in found.lines], markdown))
    tests = [tested_cells(found, line) for line in found.lines if line.baseline]
    parts += ["", _grid(TEST, tests, markdown) if tests else "one group alone: nothing to compare it with"]
    said = power(found)
    return "\n".join([*parts, *(["", said] if said else [])])


def _group(found: Comparison, line: ComparisonLine) -> list[str]:
    row = numbers(found, line)
    return [
        line.group.name,
        shown(found, row["mean"]),
        "-" if row["std"] is None else shown(found, row["std"]),
        str(len(line.values)),
        *(f"{shown(found, row[which])} (seed {row[f'{which}_seed']})" for which in ("best", "worst")),
        f"{row['queries']:,.0f}",
        si(row["flops"]),
    ]


def tested_cells(found: Comparison, line: ComparisonLine) -> list[str]:
    """A line of the table of tests (`TEST`), for a line that has a baseline."""
    assert line.baseline is not None
    pair = line.found
    names = [line.group.name, line.baseline.name]
    if pair is None:
        return [*names, "0", "-", "-", _no_test(pair), "-"]
    said = [*names, str(pair.pairs), shown(found, pair.difference, "+")]
    if pair.p is None or pair.low is None or pair.high is None or line.holm is None:
        return [*said, "-", _no_test(pair), "-"]
    return [
        *said,
        f"{shown(found, pair.low, '+')} to {shown(found, pair.high, '+')}",
        p_value(pair.p),
        p_value(line.holm),
    ]


def _no_test(pair: Paired | None) -> str:
    if pair is None:
        return "no test: no common seed"
    return "no test: 1 common seed" if pair.pairs == 1 else "no test: all differences are equal"


def p_value(value: float) -> str:
    """A p value as tables show it, with a star below ALPHA."""
    return f"{'<0.001' if value < 0.001 else f'{value:.3f}'}{'*' if value < significance.ALPHA else ''}"


def shown(found: Comparison, value: float, sign: str = "") -> str:
    """A value of the metric as tables show it: scores times 100, losses as they are."""
    digits, scale = (4, 1) if found.lower else (2, 100)
    return f"{round(scale * value, digits) + 0.0:{sign}.{digits}f}"  # + 0.0: no -0.00


def power(found: Comparison) -> str:
    """How small a true difference the tests would find at the spread that they saw, for each number of seeds."""
    tested = found.tested
    few = sorted({pair.pairs for pair in tested if pair.pairs < FEW})
    if not few:
        return ""
    squares = sum((pair.pairs - 1) * (pair.std or 0.0) ** 2 for pair in tested)
    std = math.sqrt(squares / sum(pair.pairs - 1 for pair in tested))
    least = ", ".join(f"{shown(found, significance.detectable(std, pairs))} ({pairs} seeds)" for pairs in few)
    return (
        f"a t-test over so few seeds has little power: where differences spread as here (standard deviation "
        f"{shown(found, std)}), it finds a true difference 4 times in 5 only if that is at least {least}"
    )


def notes(found: Sequence[Comparison], baseline: str | None = None) -> list[str]:
    """What has to be known to read the tables."""
    tests = sum(len(one.tested) for one in found)
    said = ["std: sample standard deviation over seeds; queries (rows that a teacher answered) and FLOPs: means"]
    if any(line.baseline for one in found for line in one.lines):
        taken = f"by default {DEFAULT}; --baseline takes another" if baseline is None else f"--baseline {baseline!r}"
        said += [
            f"baseline: {taken}",
            f"difference: group minus baseline, mean over the seeds both have; p: paired two-sided t-test, * below "
            f"{significance.ALPHA}; interval: bootstrap of the mean difference, {significance.RESAMPLES:,} resamples, too narrow with few seeds",
        ]
    if tests > 1:
        said.append(f"Holm p: adjusted for the {tests} tests made here; of several tests, this is the p that counts")
    return said


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    names = {"group", "baseline"}
    if markdown:
        rule = ["---" if name in names else "---:" for name in head]
        return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in (head, rule, *rows))
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    lines = []
    for line in (head, *rows):
        cells = zip(line, widths, head, strict=True)
        lines.append("  ".join(f"{cell:{'<' if name in names else '>'}{width}}" for cell, width, name in cells))
    return "\n".join(line.rstrip() for line in lines)


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with all their digits, in the metric's own unit (scores are not times 100)."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def each(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row a run: what it is, the student's scores (on text: accuracy at masked positions) and its costs."""
    return sorted((_run(run) for run in runs), key=lambda row: [f"{row[name]}" for name in SAME] + [row["seed"]])


def _run(run: Run) -> dict[str, Any]:
    result, scores, ledger = run.result, run.result["metrics"], run.result["ledger"]
    name, policy = "score" if "score" in scores["student"] else "accuracy", result.get("policy") or {}
    said = (run.task, result.get("knowledge"), policy.get("name"), result.get("adopt"), run.select, run.ratio)
    return {
        **dict(zip(SAME, said, strict=True)),
        "rewarded_on": policy.get("reward_data"),
        "steps": result.get("steps"),
        "seed": run.seed,
        "loss": scores["student"].get("loss"),
        "score": scores["student"].get(name),
        "teacher_score": scores.get("teacher", {}).get(name),
        "teacher_queries": run.queries,
        "flops": ledger["flops"]["total"],
        "seconds": ledger["seconds"].get("training"),
    }


def numbers(found: Comparison, line: ComparisonLine) -> dict[str, Any]:
    """All that is known of a group, by column; `seeds` in one cell, costs as means over them."""
    order = sorted(line.values.items(), key=lambda one: one[1], reverse=not found.lower)
    values = [value for _, value in order]
    ledgers = [run.result["ledger"] for run in line.group.runs.values()]
    pair = line.found
    return {
        "task": found.task,
        "group": line.group.name,
        "metric": found.metric,
        "better": "lower" if found.lower else "higher",
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "seeds": " ".join(map(str, line.values)),
        "best": values[0],
        "best_seed": order[0][0],
        "worst": values[-1],
        "worst_seed": order[-1][0],
        "queries": statistics.fmean(ledger["teacher_queries"]["total"] for ledger in ledgers),
        "flops": statistics.fmean(ledger["flops"]["total"] for ledger in ledgers),
        "baseline": line.baseline.name if line.baseline else None,
        "common_seeds": (pair.pairs if pair else 0) if line.baseline else None,
        "difference": pair.difference if pair else None,
        "difference_std": pair.std if pair else None,
        "low": pair.low if pair else None,
        "high": pair.high if pair else None,
        "t": pair.t if pair else None,
        "p": pair.p if pair else None,
        "holm_p": line.holm,
    }


if __name__ == "__main__":
    sys.exit(main())
