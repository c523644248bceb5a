"""A rank that dies in the middle of a training of two: the job has to end within a minute, with that rank's error."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from kdlab.testing.child_process import ChildResult, free_port
from kdlab.testing.fault_lab import RUN, FaultLab, FaultResult, result

SECONDS = 60.0
MESSAGE = "an error that was made on purpose"
# what a user's `python -m kdlab.run` does, with a trap in one rank
SCRIPT = """
import os, signal, sys, time
from pathlib import Path

def dies(module):
    if module.trainer.global_step == 4 and module.trainer.max_epochs is not None:
        Path("died").write_text(repr(time.time()))
        if sys.argv[1] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("MESSAGE")

if __name__ == "__main__":
    how, rank = sys.argv[1:3]
    # the first process has no LOCAL_RANK yet when it is the one that starts the others
    if os.environ.get("LOCAL_RANK", "0") == rank:
        from kdlab.testing.fault_points import before_each
        before_each("training_step", dies)
    from kdlab.run import main
    sys.exit(main(sys.argv[3:]))
"""


def dying_ranks(lab: FaultLab, launchers: Sequence[str] = ("devices", "torchrun")) -> FaultResult:
    """SIGKILL and an exception in the second rank, SIGKILL of the first; started by trainer.devices=2, by torchrun."""
    summary = FaultResult()
    for launcher in launchers:
        for how, rank in (("kill", 1), ("raise", 1), ("kill", 0)):
            folder = lab.new_folder()
            done, seconds, left = _job(lab, folder, launcher, how, rank)
            summary.injected += 1
            fine = done.code != 0 and seconds < SECONDS and not left
            told = MESSAGE if how == "raise" else "rank 1 was ended by SIGKILL"
            if rank == 1 and (how == "raise" or launcher == "devices"):
                fine = fine and told in done.output
            if rank == 1 and launcher == "devices":
                fine = fine and result(folder)["status"] == "failed" and told in result(folder)["error"]
            what = f"{launcher}, {how} rank {rank}: ended with {done.code} after {seconds:.1f} s"
            summary.wrong += not fine
            summary.notes.append(what if fine else f"{what}, left {left}: {done.output[-3000:]}")
    return summary


def _job(lab: FaultLab, folder: Path, launcher: str, how: str, rank: int) -> tuple[ChildResult, float, list[int]]:
    """Run until it ends; the seconds since the rank died, and the processes that are left."""
    script = folder / "trapped.py"
    script.write_text(SCRIPT.replace("MESSAGE", MESSAGE))
    given = [how, str(rank), *lab.command, *RUN, "trainer.devices=2", "trainer.accelerator=cpu"]
    port = f"--master-port={free_port()}"
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", port] if launcher == "torchrun" else []
    top = str(Path(__file__).resolve().parents[2])
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    environment |= {"PYTHONPATH": top, "OMP_NUM_THREADS": "1"}
    with open(folder / "log.txt", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, *torchrun, str(script), *given], cwd=folder, env=environment, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(timeout=400)
        except subprocess.TimeoutExpired:
            code = 0
    died = folder / "died"
    while _group(process.pid) and died.exists() and time.time() - float(died.read_text()) < SECONDS:
        time.sleep(0.1)
    seconds = time.time() - float(died.read_text()) if died.exists() else float("inf")
    left = _group(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return ChildResult(code, (folder / "log.txt").read_text(errors="replace")), seconds, left


def _group(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ProcessLookupError, ValueError):
            state, _, _, own = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(own) == session and state != "Z":
                found.append(int(folder.name))
    return found
