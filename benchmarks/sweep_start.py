"""Start of the jobs of a sweep: forked from a process that has imported everything, or each imports by itself.

    python -m benchmarks.sweep_start --jobs 40

Both ways run one sweep of tiny jobs (3 steps of a 4-layer teacher with 32 hidden units), one at a time, and take turns. A job reports
the seconds from the start of its process to its first step. "300 jobs" is scaled by the number of jobs, the sweep's own start left out.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import machine, table
from kdlab.testing.child_process import tiny
from kdlab.testing.tiny import write_teacher, write_text

PROBE = """
import os, time
from kdlab.methods.marks import needs
from kdlab.methods.selection import strategies
seen = []
@needs("logits")
def probe(evidence):
    if not seen:
        seen.append(1)
        began = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        print(f"first step after {time.clock_gettime(time.CLOCK_BOOTTIME) - began:.2f} s", flush=True)
    return strategies.entropy(evidence)
"""
WAYS = {"forked": "true", "each by itself": "false"}
MANY = 300


def sweep(fork: str, jobs: int, folder: Path, place: str) -> tuple[list[float], list[float]]:
    """Seconds to the first step of each job, and seconds of each job, by the sweep's own log."""
    overrides = tiny(folder / "teacher", folder / "text", "trainer.max_steps=3", "select=entropy")
    command = [
        sys.executable, "-m", "kdlab.run", "-m", *overrides, "select.arms.entropy._target_=probe.probe", f"seed=range(1,{jobs + 1})",
        f"hydra.launcher.fork={fork}", f"hydra.sweep.dir={place}", "--code", "probe.py",
    ]  # fmt: skip
    began: dict[str, float] = {}
    seconds: list[float] = []
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if (match := re.match(r"kdlab: (\S+): (started|finished)", line)) is None:
                continue
            if match[2] == "started":
                began[match[1]] = time.perf_counter()
            else:
                seconds.append(time.perf_counter() - began[match[1]])
    if process.returncode:
        raise SystemExit(f"the sweep in {folder / place} failed with code {process.returncode}")
    logs = [file.read_text() for file in (folder / place).glob("*-s*.log")]
    return [float(re.findall(r"first step after (\S+) s", log)[-1]) for log in logs], seconds


def main() -> None:
    """Run both ways in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=40, help="of each sweep (default 40)")
    parser.add_argument("--turns", type=int, default=1, help="sweeps of each way (default 1)")
    chosen = parser.parse_args()
    root = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    first: dict[str, list[float]] = {way: [] for way in WAYS}
    whole: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_teacher(folder / "teacher")
        write_text(folder / "text")
        (folder / "probe.py").write_text(PROBE)
        for turn in range(chosen.turns):
            for way, fork in WAYS.items():
                steps, seconds = sweep(fork, chosen.jobs, folder, f"{fork}{turn}")
                first[way] += steps
                whole[way] += seconds
    rows = []
    for way in WAYS:
        low, middle, high = statistics.quantiles(first[way], n=4)
        each = statistics.median(whole[way])
        rows.append([way, f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{each:.2f}", f"{MANY * each / 60:.1f} min"])
    print(
        f"{machine(int(os.environ.get('OMP_NUM_THREADS', '0')) or os.cpu_count() or 1)}; load {os.getloadavg()[0]:.1f}"
    )
    print(f"{len(first['forked'])} jobs of each way")
    print(table(["a job is", "s to its first step (quartiles)", "s a job", f"{MANY} jobs, one at a time"], rows))


if __name__ == "__main__":
    main()
