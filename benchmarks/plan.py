"""How far a run's forecast (`--plan`) is off: short runs, each with the forecast made directly before it.

    python -m benchmarks.plan --data DATA/SST-5

Each run is one command in a process of its own; "off" is forecast / real - 1. On a shared machine the load changes between a
forecast and its run, and the seconds with it: the table names the load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import machine, table

COMMON = ["figures=false", "trainer.probes=2", "trainer.measure_speed=false"]
TASK = [
    "+exp=adads_finetune", "no_kd_baseline=false", "teachers.finetune.max_steps=20", "teachers.finetune.max_epochs=null",
    "teachers.sanity=false",
]  # fmt: skip
NAMES = ("queries", "flops", "seconds", "memory", "disk")


def runs(data: Path, steps: int) -> dict[str, list[str]]:
    """The overrides of each run by its name."""
    task = [*TASK, f"data.path={data}", f"trainer.max_steps={steps}"]
    return {
        "random, 0.1": [*task, "select=random"],
        "AdaDS, 0.1": [*task, "select=adads"],
        "random, 0.3": [*task, "select=random", "select.ratio=0.3"],
        "pre-training, AdaDS, 0.1": [
            "+exp=adads_pretrain",
            "teachers.prepare.max_steps=20",
            f"trainer.max_steps={steps}",
        ],
    }


def planned(overrides: list[str], folder: Path) -> dict[str, Any]:
    """The entry `plan` of a run of these overrides in `folder`."""
    command = [
        sys.executable,
        "-m",
        "kdlab",
        "run",
        "--plan",
        *overrides,
        *COMMON,
        "hydra.run.dir=run",
        "overwrite=true",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads((folder / "run" / "result.json").read_text())["plan"]


def main() -> None:
    """Run all, each with a line of its own as it ends, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of labelled rows, such as SST-5")
    parser.add_argument("--steps", type=int, default=60, help="of each run (default 60)")
    parser.add_argument("--turns", type=int, default=1, help="times that each run is taken (default 1)")
    chosen = parser.parse_args()
    rows = []
    root = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        for name, overrides in runs(chosen.data.absolute(), chosen.steps).items():
            for _ in range(chosen.turns):
                plan, load = planned(overrides, Path(folder)), os.getloadavg()[0]
                off = [plan["forecast"][key] / plan["real"][key] - 1 for key in NAMES]
                seconds = f"{plan['forecast']['seconds']:.1f} / {plan['real']['seconds']:.1f} s"
                rows.append([name, f"{load:.1f}", seconds, *(f"{100 * one:+.1f} %" for one in off)])
                print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    print(machine(int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1))
    print(table(["run", "load", "forecast / real", *NAMES], rows))


if __name__ == "__main__":
    main()
