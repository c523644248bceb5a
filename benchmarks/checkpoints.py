"""Share of a run's time that goes to checkpoints at the default cadence, at the demo's sizes.

    python -m benchmarks.checkpoints [--steps 201] [--every 100]

Runs `+exp=adads_pretrain` and `+exp=adads_finetune` as a user does, with random weights of MiniLM's sizes (6 layers,
hidden 384, vocabulary 30,522; the student has 3) and made text, and reads the seconds from result.json. With another
`--every` the share at a checkpoint each 100 steps is worked out from the time of one checkpoint and one step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers

from kdlab.small import tiny_tokenizer, write_task, write_text

DEFAULT = 100  # trainer.checkpoint_every
ROWS = {"adads_pretrain": 600, "adads_finetune": 4000}


def measure(name: str, steps: int, every: int, folder: Path) -> str:
    """A line of the table."""
    rows = folder / "data"
    task = name == "adads_finetune"
    (write_task if task else write_text)(rows, ROWS[name])
    more = ["teachers.finetune.max_steps=5", "teachers.sanity=false", "no_kd_baseline=false"] if task else []
    command = [
        sys.executable, "-m", "kdlab.run", f"+exp={name}", f"teachers.path={folder.parent / 'teacher'}",
        f"data.path={rows}", f"trainer.max_steps={steps}", f"trainer.checkpoint_every={every}", "trainer.probes=0",
        "hydra.run.dir=run", *more,
    ]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    seconds = json.loads((folder / "run" / "result.json").read_text())["ledger"]["seconds"]
    size = max(file.stat().st_size for file in (folder / "run" / "checkpoints").glob("*.ckpt"))
    one = seconds["checkpoint"] / ((steps - 1) // every)
    step = (seconds["total"] - seconds["checkpoint"]) / steps
    share = one / (one + DEFAULT * step)
    return f"| {name} | {1000 * step:.0f} | {1000 * one:.0f} | {size / 1e6:.0f} | {share:.2%} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=201)
    parser.add_argument("--every", type=int, default=DEFAULT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as top:
        config = transformers.BertConfig(
            vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
        torch.manual_seed(0)
        transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(Path(top) / "teacher")
        tiny_tokenizer().save_pretrained(Path(top) / "teacher")
        print("| run | step, ms | checkpoint, ms | MB | share at one each 100 steps |\n|---|---|---|---|---|")
        for name in ROWS:
            print(measure(name, given.steps, given.every, Path(top) / name), flush=True)


if __name__ == "__main__":
    main()
