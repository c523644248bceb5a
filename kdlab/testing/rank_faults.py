"""A rank that dies in a job of two, or the process that started them: the job has to end within a minute, nothing left.

Ranks die by a trap of their own (`dying_ranks`), or are killed from another session (`first_killed`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
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


# a trap that holds a rank at a moment until it is killed from outside; rank 1 is held only for as long as it takes
HOLD = """
import os, sys, time
from pathlib import Path

def held(seconds):
    Path("reached").write_text(str(os.getpid()))
    time.sleep(seconds)

def hold(module):
    if module.trainer.global_step == 4 and module.trainer.max_epochs is not None:
        held(300)

def holding(function):
    def hold(*arguments, **named):
        held(300)
        return function(*arguments, **named)
    return hold

if __name__ == "__main__":
    moment = sys.argv[1]
    second = os.environ.get("LOCAL_RANK", "0") == "1"
    if second and moment == "importing":
        held(3)
    if second and moment == "preparing":
        from kdlab.runs import single
        single.prepare = holding(single.prepare)
    if not second and moment == "training":
        from kdlab.testing.fault_points import before_each
        before_each("training_step", hold)
    if not second and moment == "finishing":
        from kdlab.runs import single
        single.finish = holding(single.finish)
    from kdlab.run import main
    sys.exit(main(sys.argv[2:]))
"""
MOMENTS = ("importing", "preparing", "finishing", "training")  # of rank 1, rank 1, rank 0, rank 0
# who starts the ranks, and who is killed
VICTIMS = ("devices, rank 0", "torchrun, rank 0", "torchrun, torchrun itself")


def first_killed(lab: FaultLab, victims: Sequence[str] = VICTIMS, moments: Sequence[str] = MOMENTS) -> FaultResult:
    """SIGKILL of the first process, from outside its session, at moments of the job; all its processes must end."""
    summary = FaultResult()
    for victim in lab.cases(victims):
        for moment in lab.cases(moments):
            seconds, left, output = _killed_from_outside(lab, lab.new_folder(), victim, moment)
            summary.injected += 1
            summary.wrong += bool(left)
            what = f"{victim}, {moment}: all ended {seconds:.1f} s after"
            summary.notes.append(f"{what}, left {left}: {output[-3000:]}" if left else what)
    return summary


def _killed_from_outside(lab: FaultLab, folder: Path, victim: str, moment: str) -> tuple[float, list[int], str]:
    """Kill `victim` at `moment`; the seconds until all processes of the job had ended, those that are left, the output."""
    launcher, _, who = victim.partition(", ")
    mark = f"KDLAB_FAULT_{uuid.uuid4().hex}"
    process = _start(lab, folder, launcher, HOLD, [moment], {mark: "1"})
    reached, until = folder / "reached", time.monotonic() + 300
    while not (reached.exists() and reached.read_text()) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    first = process.pid if who != "rank 0" or launcher == "devices" else _rank(mark, 0)
    os.kill(first, signal.SIGKILL)
    killed = time.monotonic()
    while (left := _marked(mark)) and time.monotonic() - killed < SECONDS:
        process.poll()
        time.sleep(0.1)
    seconds = time.monotonic() - killed
    for one in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    process.wait()
    return seconds, left, (folder / "log.txt").read_text(errors="replace")


def _start(
    lab: FaultLab, folder: Path, launcher: str, source: str, given: Sequence[str], more: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a script as a job of two ranks, in a session of its own; the first process."""
    script = folder / "trapped.py"
    script.write_text(source)
    arguments = [*given, *lab.command, *RUN, "trainer.devices=2", "trainer.accelerator=cpu"]
    port = f"--master-port={free_port()}"
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", port] if launcher == "torchrun" else []
    top = str(Path(__file__).resolve().parents[2])
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    environment |= {"PYTHONPATH": top, "OMP_NUM_THREADS": "1", **more}
    with open(folder / "log.txt", "wb") as log:
        return subprocess.Popen(
            [sys.executable, *torchrun, str(script), *arguments], cwd=folder, env=environment, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _job(lab: FaultLab, folder: Path, launcher: str, how: str, rank: int) -> tuple[ChildResult, float, list[int]]:
    """Run until it ends; the seconds since the rank died, and the processes that are left."""
    process = _start(lab, folder, launcher, SCRIPT.replace("MESSAGE", MESSAGE), [how, str(rank)], {})
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


def _marked(mark: str) -> list[int]:
    """The living processes whose environment has the variable `mark`, whatever their session or parent."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            alive = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if alive and f"{mark}=".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def _rank(mark: str, rank: int) -> int:
    """The process of a rank that torchrun has started."""
    for process in sorted(_marked(mark)):
        with contextlib.suppress(OSError):
            if f"\0RANK={rank}\0".encode() in b"\0" + Path(f"/proc/{process}/environ").read_bytes():
                return process
    raise RuntimeError(f"no process of rank {rank}")
