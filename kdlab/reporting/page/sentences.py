"""Sentences of a report: headlines above a table, and notes on how to read it."""

from __future__ import annotations

from collections.abc import Sequence

from kdlab.reporting.comparison_text import notes
from kdlab.reporting.page.cells import spread
from kdlab.reporting.page.content import ReportPage
from kdlab.reporting.papers import CAUTIONS, PAPERS
from kdlab.reporting.statistics import ALPHA
from kdlab.reporting.tables import BELOW, GAP, TableRow, TaskTable, comparable


def headlines(table: TaskTable) -> list[str]:
    """Sentences above a table: for each ratio the best and the worst group, and random selection."""
    said = []
    shown_rows: set[int] = set()
    for row in table.rows:
        if row.number in shown_rows or not row.taught:
            continue
        peers = comparable(row, table.rows, table.comparison.across)
        shown_rows |= {peer.number for peer in peers}
        said.append(_headline(table, peers))
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


def _headline(table: TaskTable, peers: Sequence[TableRow]) -> str:
    """The sentence on groups that compare, the best first: their highest and lowest mean, and random selection."""
    first, last = peers[0], peers[-1]
    high, low = ("lowest", "highest") if table.comparison.lower else ("highest", "lowest")
    where = "Full data" if first.ratio == 1 else f"At ratio {first.ratio:g}"
    if first.mean == last.mean:
        high = "equal" if len(peers) > 1 else ""
    text = f"{where}: {f'{high} mean ' if high else ''}{first.name} {spread(table, first.mean, first.std)}"
    if last.mean != first.mean:
        text += f", {low} {last.name} {spread(table, last.mean, last.std)}"
    drawn = [row for row in peers if row.group.one.select == "random"]
    if drawn and drawn[0].mean not in (first.mean, last.mean):
        text += f"; {drawn[0].name} {spread(table, drawn[0].mean, drawn[0].std)}"
    below = sum(BELOW in row.marks for row in peers)
    return text + (f"; {below} of {len(peers)} worse than random" if below else "") + "."


def explained(report: ReportPage) -> list[str]:
    """Sentences that explain the report."""
    said = notes([table.comparison for table in report.tables], report.baseline)
    said += [
        f"best, worst, {BELOW}: marked only where the difference is more than chance (Holm p < {ALPHA}): by the mean, among the "
        "groups with a teacher at the same ratio and in the same settings; from the group that differs in nothing but "
        "random selection. The highest and lowest means above may be chance",
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
    if report.undrawn:
        said.append(f"figures not drawn of any task, with what they need: {'; '.join(report.undrawn)}")
    if report.paper:
        said.append(
            f"published: numbers printed in {PAPERS[report.paper]}; they were got with BERT-base, GPUs and full data, "
            f"and stand beside ours, which are compared with our own baselines only; {CAUTIONS[report.paper]}"
        )
    return said
