"""Share of a run's time that goes to checkpoints at the default cadence, at the demo's sizes.

    python -m benchmarks.checkpoints [--steps 600] [--every auto] [--clock cpu]

Runs `+exp=adads_pretrain` and `+exp=adads_finetune` as a user does, with random weights of MiniLM's sizes (6 layers,
hidden 384, vocabulary 30,522; the student has 3) and made text, and reads what their result.json says. `--every`: another
`trainer.checkpoint_every`. A run of less than a minute writes none by default.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from benchmarks.measuring import CLOCKS, machine, table
from kdlab.testing.tiny import tiny_tokenizer, write_task, write_text

ROWS = {"adads_pretrain": 600, "adads_finetune": 4000}
HEADER = ["run", "steps", "step, ms", "seconds", "checkpoints", "one, ms", "MB", "share"]


RUN = """
import sys
from benchmarks.measuring import clock_of
clock_of(sys.argv[1])
from kdlab.run import main
sys.exit(main(sys.argv[2:]))
"""


def measure(name: str, given: argparse.Namespace, folder: Path, more: Sequence[str] = ()) -> list[str]:
    """A line of the table; `more` overrides of the run."""
    steps = given.steps
    rows = folder / "data"
    task = name == "adads_finetune"
    (write_task if task else write_text)(rows, ROWS[name])
    own = ["teachers.finetune.max_steps=5", "teachers.sanity=false", "no_kd_baseline=false"] if task else []
    command = [
        sys.executable, "-c", RUN, given.clock, f"+exp={name}", f"teachers.path={folder.parent / 'teacher'}",
        f"data.path={rows}", f"trainer.max_steps={steps}", f"trainer.checkpoint_every={given.every}", "trainer.probes=0",
        "trainer.accelerator=cpu", "hydra.run.dir=run", *own, *more,
    ]  # fmt: skip
    top = str(Path(__file__).resolve().parent.parent)
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": top})
    result = json.loads((folder / "run" / "result.json").read_text())
    whole, kept = result["ledger"]["seconds"]["total"], result["checkpoints"]
    sizes = [file.stat().st_size / 1e6 for file in (folder / "run" / "checkpoints").glob("*.ckpt")]
    one, size = (
        (f"{1000 * kept['seconds'] / kept['written']:.0f}", f"{max(sizes):.0f}") if kept["written"] else ("-", "-")
    )
    step = 1000 * (whole - kept["seconds"]) / steps
    return [name, str(steps), f"{step:.0f}", f"{whole:.0f}", str(kept["written"]), one, size, f"{kept['share']:.2%}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", default="auto")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="some of the runs")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: the cadence, too, goes by what is computed"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as top:
        config = transformers.BertConfig(
            vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
        torch.manual_seed(0)
        transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(Path(top) / "teacher")
        tiny_tokenizer().save_pretrained(Path(top) / "teacher")
        print(machine(torch.get_num_threads(), given.clock))
        print(table(HEADER, [measure(name, given, Path(top) / name) for name in given.only]))


if __name__ == "__main__":
    main()
