"""Sentences of a report: headlines above a table, and notes on how to read it."""

from __future__ import annotations

from kdlab.reporting.comparison_text import notes
from kdlab.reporting.page.cells import spread
from kdlab.reporting.page.content import ReportPage
from kdlab.reporting.papers import CAUTIONS, PAPERS
from kdlab.reporting.statistics import ALPHA
from kdlab.reporting.tables import BELOW, GAP, TaskTable


def headlines(table: TaskTable) -> list[str]:
    """Sentences above a table: for each ratio the best and the worst group, and random selection."""
    said = []
    for ratio in dict.fromkeys(row.ratio for row in table.rows):
        peers = [row for row in table.rows if row.ratio == ratio and row.taught]
        if not peers:
            continue
        best, worst = peers[0], peers[-1]
        where = "Full data" if ratio == 1 else f"At ratio {ratio:g}"
        text = f"{where}: {'best ' if len(peers) > 1 else ''}{best.name} {spread(table, best.mean, best.std)}"
        if worst.mean != best.mean:
            text += f", worst {worst.name} {spread(table, worst.mean, worst.std)}"
        drawn = [row for row in peers if row.group.one.select == "random"]
        if drawn and drawn[0].mean not in (best.mean, worst.mean):
            text += f"; {drawn[0].name} {spread(table, drawn[0].mean, drawn[0].std)}"
        below = sum(BELOW in row.marks for row in peers)
        text += f"; {below} of {len(peers)} worse than random" if below else ""
        said.append(f"{text}.")
    tests = [row for row in table.rows if row.line.holm is not None]
    if tests:
        sure = sum((row.line.holm or 0) < ALPHA for row in tests)
        what = (
            "No difference from a baseline is"
            if not sure
            else f"{sure} of {len(tests)} differences from the baselines {'is' if sure == 1 else 'are'}"
        )
        said.append(f"{what} more than chance (Holm p < {ALPHA}, {len(tests)} tests).")
    return said


def explained(report: ReportPage) -> list[str]:
    """Sentences that explain the report."""
    said = notes([table.comparison for table in report.tables], report.baseline)
    said += [
        f"best, worst: by the mean, among the groups with a teacher at the same ratio; {BELOW}: a lower mean than the "
        "group that differs in nothing but random selection, whether or not that is more than chance",
        "queries, FLOPs, time: means over seeds of the runs themselves; in brackets how many times less than distillation on "
        "all data in as many steps, by the ledger of the same run (time: only where trainer.probes measured it); time is that "
        "of training",
        "total: with all that was trained for the run before it (teachers, assistants, KSM episodes) as if nothing of it had "
        "been there; runs may share it. In brackets the same comparison, with the main teacher's preparation on both sides. "
        "A model given by its path counts as it is",
    ]
    if len(report.tables) > 1 and any(table.scores > 1 for table in report.tables):
        said.append(
            "means over tasks count MNLI as two scores, matched and mismatched, as AdaDS, Dynamic KD and KSM do"
        )
    rows = [row for table in report.tables for row in table.rows]
    if any(row.group.cached for row in rows):
        said.append(
            "cached: rows that a teacher cache answered, without a query; a run with many of them had a dearer one before it"
        )
    if not all(row.queries.measured for row in rows):
        said.append("≥: a part of the preparation recorded no cost")
    if any(row.same_cost is not None for row in rows):
        said.append(
            "full data, same FLOPs: what the full-data group had reached when it had spent as many FLOPs, by its "
            f"evaluations along the way (between two that are at most {GAP:g} of that cost apart); a run planned to be "
            "that short would have lowered its learning rate earlier"
        )
    if report.paper:
        said.append(
            f"published: numbers printed in {PAPERS[report.paper]}; they were got with BERT-base, GPUs and full data, "
            f"and stand beside ours, which are compared with our own baselines only; {CAUTIONS[report.paper]}"
        )
    return said
