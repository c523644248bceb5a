"""Text, Markdown and CSV of comparisons: a table of groups, a table of tests, and notes on how to read them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from kdlab.config.groups.select import SelectConfig
from kdlab.errors import one_line
from kdlab.reporting import more_seeds, statistics
from kdlab.reporting.caveats import footnotes
from kdlab.reporting.comparison import Comparison, ComparisonLine, compare
from kdlab.reporting.group_names import joined
from kdlab.reporting.score_columns import values_on_test
from kdlab.reporting.seed_groups import Group, Run, grouped, read
from kdlab.reporting.statistics import Paired
from kdlab.runs.closing import costs
from kdlab.runs.closing.cost_lines import si
from kdlab.runs.closing.costs import RunCost
from kdlab.runs.closing.question import BASELINE
from kdlab.runs.closing.scores import is_saving
from kdlab.storage.escaping import csv_table, markdown_text
from kdlab.storage.files import atomic_write_text

GROUP = ("group", "mean", "std", "seeds", "best", "worst", "queries", "FLOPs", "total queries", "total FLOPs")
PAYS = "pays from run"  # column of groups with a preparation that distillation on all data does without
TEST_COLUMN = 3  # place of the test scores, where there are any: after std
PAYS_NOTE = (
    f"{PAYS}: an assistant or a module is made once for all runs that share it; from that run on the FLOPs that the runs save "
    "against distillation on all data exceed its own"
)
SAME = ("task", "knowledge", "policy", "adopt", "select", "ratio")
TEST = ("group", "baseline", "common seeds", "difference", "95 % interval", "p", "Holm p")


def print_comparison(
    paths: Sequence[Path],
    metric: str | None = None,
    baseline: str | None = None,
    markdown: bool = False,
    groups_csv: Path | None = None,
    runs_csv: Path | None = None,
    across: Sequence[str] = (),
) -> int:
    """Print the comparison of the finished runs in `paths`, and write its groups and runs as CSV; returns the exit code.

    UserError as `read` and `compare` raise it.
    """
    runs, skipped = read(paths)
    for folder, reason in skipped.items():
        to_stderr(f"left out, {reason}: {folder}")
    comparisons = compare(runs, metric, baseline, to_stderr, across)
    if groups_csv:
        atomic_write_text(groups_csv, as_csv([numbers(one, line) for one in comparisons for line in one.lines]))
    if runs_csv:
        atomic_write_text(runs_csv, as_csv(run_rows(runs)))
    for one in comparisons:
        print(text(one, markdown), end="\n\n")
    for note in notes(comparisons, baseline):
        print(f"- {note}" if markdown else note)
    return 0


def to_stderr(line: str) -> None:
    """Print a message to standard error, so that the tables can be piped."""
    print(f"kdlab: {one_line(line)}", file=sys.stderr)


def text(comparison: Comparison, markdown: bool = False) -> str:
    """Tables of the groups with footnotes of their caveats, and of their tests, and the smallest difference such tests detect; optionally as Markdown.

    Losses are printed unscaled, scores times 100. Names are escaped for a terminal or for Markdown.
    """
    task = one_line(comparison.task)
    title = f"### {markdown_text(task)}" if markdown else task
    parts = [f"{title}: {comparison.described}", ""]
    marked = footnotes([line.group for line in comparison.lines])
    rows = [[marked.named(line.group), *_group(comparison, line)[1:]] for line in comparison.lines]
    head: list[str] = [*GROUP]
    paid = [pays_cell(line.group) for line in comparison.lines]
    if any(cell != "-" for cell in paid):
        head.append(PAYS)
        rows = [[*row, cell] for row, cell in zip(rows, paid, strict=True)]
    tested = [values_on_test(line.group, comparison.metric) for line in comparison.lines]
    if any(tested):
        head.insert(TEST_COLUMN, "test")
        for row, values in zip(rows, tested, strict=True):
            row.insert(TEST_COLUMN, shown(comparison, fmean(values)) if values else "-")
    parts.append(_grid(head, rows, markdown))
    said = [f"- {markdown_text(line)}" if markdown else line for line in marked.lines]
    parts += ["", *said] if said else []
    tests = [tested_cells(comparison, line) for line in comparison.lines if line.baseline]
    parts += ["", _grid(TEST, tests, markdown) if tests else "one group alone: nothing to compare it with"]
    sentence = power(comparison)
    return "\n".join([*parts, *(["", sentence] if sentence else [])])


def _group(comparison: Comparison, line: ComparisonLine) -> list[str]:
    row = numbers(comparison, line)
    return [
        line.group.name,
        shown(comparison, row["mean"]),
        "-" if row["std"] is None else shown(comparison, row["std"]),
        seeds_cell(line),
        *(f"{shown(comparison, row[which])} (seed {row[f'{which}_seed']})" for which in ("best", "worst")),
        f"{row['queries']:,.0f}",
        si(row["flops"]),
        *total_cells(line.group.total),
    ]


def seeds_cell(line: ComparisonLine) -> str:
    """The number of seeds of a group, and which: "3 (1-3)"."""
    seeds = sorted(line.values)
    starts = [seed for seed in seeds if seed - 1 not in line.values]
    ends = [seed for seed in seeds if seed + 1 not in line.values]
    runs = (f"{low}" if low == high else f"{low}-{high}" for low, high in zip(starts, ends, strict=True))
    return f"{len(seeds)} ({','.join(runs)})"


def total_cells(cost: RunCost) -> tuple[str, str]:
    """Queries and FLOPs with preparation; ">=" where a part of it recorded no cost."""
    least = "" if cost.measured else ">="
    return f"{least}{cost.queries:,.0f}", f"{least}{si(cost.flops)}"


def pays_from_run(group: Group) -> int | str | None:
    """The run from which on a group's preparation beyond the teacher is paid by the FLOPs that each run saves, or "never".

    None where there is nothing to pay, no student that learnt, or a cost that was not recorded.
    """
    results = [run.result for run in group.runs.values() if is_saving(run.result)]
    if not any(costs.beyond_teacher(result) for result in results):
        return None
    runs = costs.pays_from(*results)
    return costs.NEVER if runs == 0 else runs


def pays_cell(group: Group) -> str:
    """The cell of `pays_from_run`."""
    runs = pays_from_run(group)
    return "-" if runs is None else str(runs)


def tested_cells(comparison: Comparison, line: ComparisonLine) -> list[str]:
    """Cells of the table of tests (columns `TEST`) for a group that has a baseline."""
    assert line.baseline is not None
    pair = line.found
    names = [line.group.name, line.baseline.name]
    if line.unlike:
        return [*names, "-", f"- ({line.unlike})", "-", "no test: settings differ", "-"]
    if pair is None:
        return [*names, "0", "-", "-", _no_test(pair), "-"]
    first = [*names, str(pair.pairs), shown(comparison, pair.difference, "+")]
    if pair.p is None or pair.low is None or pair.high is None or line.holm is None:
        return [*first, "-", _no_test(pair), "-"]
    return [
        *first,
        f"{shown(comparison, pair.low, '+')} to {shown(comparison, pair.high, '+')}",
        p_value(pair.p),
        p_value(line.holm),
    ]


def _no_test(pair: Paired | None) -> str:
    if pair is None:
        return "no test: no common seed"
    return "no test: 1 common seed" if pair.pairs == 1 else "no test: all differences are equal"


def p_value(value: float) -> str:
    """A p value with three digits, with a star below ALPHA."""
    return f"{'<0.001' if value < 0.001 else f'{value:.3f}'}{'*' if value < statistics.ALPHA else ''}"


def shown(comparison: Comparison, value: float, sign: str = "") -> str:
    """A value of the metric for a table: scores times 100 with two digits, losses unscaled with four."""
    digits, scale = (4, 1) if comparison.lower else (2, 100)
    return f"{round(scale * value, digits) + 0.0:{sign}.{digits}f}"  # + 0.0: no -0.00


def power(comparison: Comparison) -> str:
    """Power of the tests and the seeds that are missing, with the command; "" where nothing was compared."""
    return more_seeds.power(comparison, lambda value, sign="": shown(comparison, value, sign))


def notes(comparisons: Sequence[Comparison], baseline: str | None = None) -> list[str]:
    """Sentences that explain the columns of the tables."""
    tests = sum(len(one.tested) for one in comparisons)
    groups = [line.group for one in comparisons for line in one.lines]
    lines = [
        "std: sample standard deviation over seeds; queries (rows that a teacher's forward answered) and FLOPs: means of the "
        "runs themselves; total: with all that was trained for them before (teachers, assistants, KSM episodes), which runs may share",
        "seeds: of the students; a teacher or an assistant that a run trains has one seed for all (teachers.finetune.seed, "
        "adopt.assistant.seed), so std has nothing of its spread",
    ]
    if not all(group.total.measured for group in groups):
        lines.append(">=: a part of the preparation recorded no cost")
    if any(pays_from_run(group) is not None for group in groups):
        lines.append(PAYS_NOTE)
    if any(group.cached for group in groups):
        lines.append(
            "a teacher cache answered rows of these runs: such rows are in no cost here, and --csv counts them (cached)"
        )
    if any(line.unlike for one in comparisons for line in one.lines):
        asked = dict.fromkeys(name for one in comparisons for name in one.across)
        lines.append(
            f"- (SETTING MINE, BASELINE'S): no difference, for the two differ in more than {', '.join(asked)}: run the baseline "
            "in the group's own settings, or ask for it: --across SETTING compares groups that differ in SETTING too"
        )
    if any(line.baseline for one in comparisons for line in one.lines):
        choice = f"by default {BASELINE}; --baseline takes another" if baseline is None else f"--baseline {baseline!r}"
        lines += [
            f"baseline: {choice}",
            f"difference: group minus baseline, mean over the seeds both have; p: paired two-sided t-test, * below "
            f"{statistics.ALPHA}; interval: 95 % t interval of the mean difference",
        ]
    if tests > 1:
        lines.append(f"Holm p: adjusted for the {tests} tests made here; of several tests, this is the p that counts")
    return lines


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    names = {"group", "baseline"}
    if markdown:
        rule = ["---" if name in names else "---:" for name in head]
        body = [head, *([markdown_text(cell) for cell in line] for line in rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in (body[0], rule, *body[1:]))
    rows = [[one_line(cell) for cell in line] for line in rows]
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    lines = []
    for line in (head, *rows):
        cells = zip(line, widths, head, strict=True)
        lines.append("  ".join(f"{cell:{'<' if name in names else '>'}{width}}" for cell, width, name in cells))
    return "\n".join(line.rstrip() for line in lines)


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV with all digits, in the metric's own unit (scores are not times 100), safe for spreadsheets."""
    return csv_table(list(rows[0]), rows)


def run_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row per run: its choices, the student's scores (on text: accuracy at masked positions), its costs and its group.

    `group`: the settings by which the tables name it, among the runs of its task (temperature=2), which no other column may hold.
    """
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault(run.task, []).append(run)
    groups = (group for members in tasks.values() for group in grouped(members))
    names = {run.folder: group.plain_name for group in groups for run in group.runs.values()}
    rows = [{**_run_row(run), "group": names.get(run.folder)} for run in runs]
    return sorted(rows, key=lambda row: [f"{row[name]}" for name in (*SAME, "group")] + [row["seed"]])


def _run_row(run: Run) -> dict[str, Any]:
    result, scores, test = run.result, run.result["metrics"], run.result.get("test") or {}
    name, policy = "score" if "score" in scores["student"] else "accuracy", result.get("policy") or {}
    values = (run.task, result.get("knowledge"), policy.get("name"), result.get("adopt"), run.select, run.ratio)
    return {
        **dict(zip(SAME, values, strict=True)),
        "rewarded_on": policy.get("reward_data"),
        "steps": result.get("steps"),
        "seed": run.seed,
        "loss": scores["student"].get("loss"),
        "score": scores["student"].get(name),
        "teacher_score": scores.get("teacher", {}).get(name),
        "test_score": (test.get("student") or {}).get(name),
        "teacher_test_score": (test.get("teacher") or {}).get(name),
        "teacher_queries": run.own.queries,
        "cached": costs.cached(result),
        **dict(zip(("positions_kept", "positions_seen"), costs.positions_kept(result) or (None, None), strict=True)),
        "flops": run.own.flops,
        "seconds": run.own.seconds,
        **_with_preparation(run.total, "teacher_queries"),
        **_of_study(run),
    }


def _of_study(run: Run) -> dict[str, Any]:
    """Columns of what a choice of rows is judged by (`kdlab analyse pays`): settings of the selection, start of the student,
    rows offered, the majority class's score, FLOPs of the teachers, of scoring and of the student's forwards, and the number
    of classes."""
    flops, name = run.result["ledger"]["flops"], "score"
    teacher = sum(value for part, value in flops.items() if part.startswith("teacher"))
    return {
        "stage": run.stage,
        "start": run.used.get("student.start"),
        "settings": selection_settings(run),
        "batch": run.used.get("data.batch_size"),
        "rows_seen": run.result["ledger"].get("rows_seen"),
        "majority_score": (run.result["metrics"].get("majority class") or {}).get(name),
        "teacher_flops": teacher,
        "scoring_flops": flops.get("scoring", 0),
        "student_flops": flops.get("student_forward", 0),
        "classes": len(((run.result.get("data") or {}).get("shape") or {}).get("labels") or ()) or None,
    }


def selection_settings(run: Run) -> str:
    """The settings of a run's selection that differ from their defaults, as "key=value ..."; no arms, policy or pace. With
    labels_on=all where labels are learnt on the rows that are not selected, too."""
    default = {f"select.{field.name}": field.default for field in fields(SelectConfig)}
    apart = ("select.name", "select.ratio", "select.interval", "select.evaluation_rows")
    found = {key: value for key, value in run.used.items() if key in default and key not in apart}
    changed = {key.removeprefix("select."): f"{v}" for key, v in sorted(found.items()) if v != default[key]}
    if run.used.get("knowledge.labels_on") == "all" and run.ratio < 1:
        changed["labels_on"] = "all"
    return joined(changed)


def _with_preparation(total: RunCost, queries: str = "queries") -> dict[str, Any]:
    """Columns of the cost with preparation; `preparation_measured`: false where they are lower bounds."""
    return {
        f"total_{queries}": total.queries,
        "total_flops": total.flops,
        "total_seconds": total.seconds,
        "preparation_measured": total.measured,
    }


def numbers(comparison: Comparison, line: ComparisonLine) -> dict[str, Any]:
    """All numbers of a group, by column; `seeds` in one cell, costs as means over seeds."""
    order = sorted(line.values.items(), key=lambda one: one[1], reverse=not comparison.lower)
    values = [value for _, value in order]
    own, total = line.group.own, line.group.total
    pair = line.found
    return {
        "task": comparison.task,
        "group": line.group.name,
        "metric": comparison.metric,
        "better": "lower" if comparison.lower else "higher",
        "mean": fmean(values),
        "std": stdev(values) if len(values) > 1 else None,
        "seeds": " ".join(map(str, line.values)),
        "best": values[0],
        "best_seed": order[0][0],
        "worst": values[-1],
        "worst_seed": order[-1][0],
        "test_mean": fmean(tested) if (tested := values_on_test(line.group, comparison.metric)) else None,
        "test_std": stdev(tested) if len(tested) > 1 else None,
        "queries": own.queries,
        "cached": line.group.cached,
        "flops": own.flops,
        "seconds": own.seconds,
        **_with_preparation(total),
        "pays_from_run": pays_from_run(line.group),
        "baseline": line.baseline.name if line.baseline else None,
        "unlike": line.unlike or None,
        "common_seeds": (pair.pairs if pair else 0) if line.baseline and not line.unlike else None,
        "difference": pair.difference if pair else None,
        "difference_std": pair.std if pair else None,
        "low": pair.low if pair else None,
        "high": pair.high if pair else None,
        "t": pair.t if pair else None,
        "p": pair.p if pair else None,
        "holm_p": line.holm,
    }
