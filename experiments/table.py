"""Collect finished runs into a CSV and a Markdown table: `python experiments/table.py FOLDER... > results.csv`.

Reads every result.json below the folders; the table (mean and standard deviation over seeds) goes to standard error.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

COLUMNS = [
    "select",
    "ratio",
    "seed",
    "steps",
    "heldout_loss",
    "heldout_accuracy",
    "teacher_queries",
    "flops",
    "seconds",
]


def rows(folders: list[str]) -> list[dict[str, float | str]]:
    """One row a finished run, in a fixed order."""
    found = []
    for file in sorted(path for folder in folders for path in Path(folder).rglob("result.json")):
        result = json.loads(file.read_text())
        if result.get("status") != "finished":
            print(f"left out, not finished: {file.parent}", file=sys.stderr)
            continue
        student, ledger = result["metrics"]["student"], result["ledger"]
        values = (
            result["select"]["name"], result["select"]["ratio"], result["seed"], result["steps"], student["loss"],
            student["accuracy"], ledger["teacher_queries"]["total"], ledger["flops"]["total"], ledger["seconds"]["training"],
        )  # fmt: skip
        found.append(dict(zip(COLUMNS, values, strict=True)))
    return sorted(found, key=lambda row: (row["select"], row["ratio"], row["seed"]))


def main() -> int:
    found = rows(sys.argv[1:])
    if not found:
        print("no finished run below " + " ".join(sys.argv[1:]), file=sys.stderr)
        return 2
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    groups = defaultdict(list)
    for row in found:
        groups[row["select"], row["ratio"], row["steps"]].append(row)
    print("| select | ratio | steps | seeds | held-out loss | accuracy | queries | TFLOPs | seconds |", file=sys.stderr)
    print("|---|---|---|---|---|---|---|---|---|", file=sys.stderr)

    def spread(values: list[float], digits: int) -> str:
        deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{deviation}"

    for (name, ratio, steps), group in groups.items():
        cells = [
            str(name), f"{ratio:g}", str(steps), str(len(group)),
            spread([r["heldout_loss"] for r in group], 3), spread([100 * r["heldout_accuracy"] for r in group], 1) + " %",
            f"{statistics.mean(r['teacher_queries'] for r in group):,.0f}",
            spread([r["flops"] / 1e12 for r in group], 1), spread([r["seconds"] for r in group], 0),
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
