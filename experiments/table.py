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

COLUMNS = ["task", "knowledge", "policy", "adopt", "select", "ratio", "steps", "seed", "loss", "score", "teacher_score", "teacher_queries", "flops", "seconds"]  # fmt: skip
SAME = COLUMNS[:7]  # runs that differ in nothing but the seed


def rows(folders: list[str]) -> list[dict]:
    """One row a finished run, in a fixed order. The score is the task's, or the accuracy at masked positions."""
    found = []
    for file in sorted(path for folder in folders for path in Path(folder).rglob("result.json")):
        result = json.loads(file.read_text())
        if result.get("status") != "finished":
            print(f"left out, not finished: {file.parent}", file=sys.stderr)
            continue
        scores, ledger = result["metrics"], result["ledger"]
        name = "score" if "score" in scores["student"] else "accuracy"
        values = (
            result["data"].get("task") or result["data"]["source"], result["knowledge"], _policy(result), result.get("adopt") or "-", result["select"]["name"],
            result["select"]["ratio"], result["steps"], result["seed"], scores["student"]["loss"], scores["student"][name],
            scores.get("teacher", {}).get(name), ledger["teacher_queries"]["total"], ledger["flops"]["total"],
            ledger["seconds"]["training"],
        )  # fmt: skip
        found.append(dict(zip(COLUMNS, values, strict=True)))
    return sorted(found, key=lambda row: [str(row[name]) for name in SAME] + [row["seed"]])


def _policy(result: dict) -> str:
    policy = result.get("policy") or {"name": "fixed"}
    return policy["name"] + (" (rewarded on dev)" if policy.get("reward_data") == "dev" else "")


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
        groups[tuple(row[name] for name in SAME)].append(row)
    head = [*SAME, "seeds", "loss", "score", "teacher", "queries", "TFLOPs", "seconds"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), file=sys.stderr)

    def spread(values: list[float], digits: int) -> str:
        deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{deviation}"

    for same, group in groups.items():
        teacher = group[0]["teacher_score"]
        cells = [
            *map(str, same), str(len(group)), spread([r["loss"] for r in group], 3), spread([100 * r["score"] for r in group], 1),
            f"{100 * teacher:.1f}" if teacher is not None else "-", f"{statistics.mean(r['teacher_queries'] for r in group):,.0f}",
            spread([r["flops"] / 1e12 for r in group], 1), spread([r["seconds"] for r in group], 0),
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
