"""Time that `python -m kdlab.report` takes: `python -m benchmarks.report_time [--runs 300]`.

Makes run folders with real configurations and tables as long as a paper's (200 decisions, 20 evaluations), five tasks,
five strategies, four ratios, then times the command as a process of its own, start-up included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from kdlab.config.composition import composition, to_plain

TASKS = ("sst2", "qnli", "qqp", "mrpc", "rte")
SELECTIONS = ("random", "entropy", "certainty", "adads", "randmix")
RATIOS = (0.1, 0.2, 0.3, 0.5)
ARMS = ("entropy", "margin", "least_confidence", "certainty", "cluster", "density")
STEPS, DECISIONS, EVALUATIONS = 2000, 200, 20


def write(folder: Path, config: dict[str, Any], task: str, ratio: float, seed: int, rng: random.Random) -> None:
    """A finished run's files."""
    select = config["select"]["name"]
    config = {**config, "seed": seed, "data": {**config["data"], "task": task}}
    config["select"] = {**config["select"], "ratio": ratio}
    score, total, flops = 0.8 + rng.gauss(0, 0.02), int(STEPS * 32 * ratio), 1e13 * (ratio + (select != "random") * 0.2)
    result = {
        "status": "finished", "name": config["name"], "scale": "demo", "steps": STEPS, "seed": seed, "stage": "finetune",
        "metrics": {"student": {"loss": 0.5, "accuracy": score, "score": score}, "teacher": {"accuracy": 0.92, "score": 0.92}},
        "ledger": {
            "teacher_queries": {"total": total}, "flops": {"total": flops}, "rows_seen": STEPS * 32,
            "seconds": {"training": 100.0}, "speedup": {"queries": 1 / ratio, "flops": 1e13 / flops, "wallclock": None},
        },
        "select": {"name": select, "ratio": ratio}, "adopt": "single", "policy": {"name": "fixed", "reward_data": None},
        "knowledge": "response", "data": {"task": task, "path": "DATA", "source": "TaskFolder"}, "student": {"layers": 6},
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "result.json").write_text(json.dumps(result, indent=2))
    arms = [rng.choice(ARMS) if select in ("adads", "randmix") else select for _ in range(DECISIONS)]
    lines = [f"{i * STEPS // DECISIONS},{arm},0.5,0.01,{i}" for i, arm in enumerate(arms)]
    (folder / "selector.csv").write_text("\n".join(["step,arm,observation,reward,teacher_queries", *lines]) + "\n")
    at = [i / EVALUATIONS for i in range(EVALUATIONS + 1)]
    lines = [f"{STEPS * x:.0f},0.5,{score - 0.3 * (1 - x)},{total * x:.0f},{flops * x}" for x in at]
    head = "step,heldout_loss,heldout_score,teacher_queries,flops"
    (folder / "metrics.csv").write_text("\n".join([head, *lines]) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    given = parser.parse_args()
    each = [(s, r, t) for t, s, r in itertools.product(TASKS, SELECTIONS, RATIOS)]
    configs = {
        s: to_plain(composition(["+exp=adads_finetune", "data=glue", "data.path=DATA", f"select={s}"])[0])
        for s in SELECTIONS
    }
    with tempfile.TemporaryDirectory() as home:
        for i in range(given.runs):
            select, ratio, task = each[i % len(each)]
            write(Path(home) / "runs" / f"{i:04}", configs[select], task, ratio, 1 + i // len(each), random.Random(i))
        command = [sys.executable, "-m", "kdlab.report", f"{home}/runs", "--paper", "adads", "--out", f"{home}/r.html"]
        for _ in range(3):
            started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f"{wall:.1f} s, {cpu:.1f} s of them computing: {done.stdout.strip().split(';')[0]}")
        print(f"page: {Path(home, 'r.html').stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
