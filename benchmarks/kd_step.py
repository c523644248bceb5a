"""Time of one distillation step: kdlab's ways to run it against a plain loop on transformers models.

    python -m benchmarks.kd_step [--data FOLDER] [--batch 64,256] [--minutes 8] [--threads 1]

FOLDER holds a GLUE-style train.tsv (made texts of SST-2's lengths without it). Every way takes the same random batches
(as they come, not sorted by length), the same student (3 layers, hidden 384), teacher (6 layers), dropout, trained
embeddings and AdamW; random weights. The ways take turns, so that all see the same machine, and the table has medians,
quartiles and the ratio of medians. "plain": one padded batch through `model(...)` under autocast, student and teacher.
"reference": how public code selects: student forward and backward on the whole batch, the teacher on the selected rows.
"""

from __future__ import annotations

import argparse
import csv
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers

from kdlab import strategies, terms
from kdlab.distill import Distiller
from kdlab.encoder import Encoder
from kdlab.objective import Weighted
from kdlab.optim import Optim
from kdlab.packing import layout
from kdlab.teacher import Teacher
from kdlab.types import Batch, Evidence

RATIO = 0.1
SIZES: dict[str, Any] = dict(
    vocab_size=30522, hidden_size=384, num_attention_heads=12, intermediate_size=1536, num_labels=2
)


def lengths_of(folder: Path | None, limit: int) -> np.ndarray:
    """Token counts of the rows of a task: one for each word and sign, a little more for long words, two around them."""
    rng = np.random.default_rng(0)
    if folder is None:
        return np.clip(np.round(rng.lognormal(2.3, 0.75, 20000)).astype(int) + 3, 4, limit)
    with open(folder / "train.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    texts = [name for name in rows[0] if name.startswith(("sentence", "question"))]
    counts = [2 + sum(1 + round(1.15 * len(row[name].split())) for name in texts) for row in rows[:50000]]
    return np.minimum(np.array(counts), limit)


def batches(lengths: np.ndarray, size: int, count: int) -> list[Batch]:
    """Random rows of these lengths, padded to the longest of each batch."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        chosen = rng.choice(lengths, size)
        mask = torch.arange(int(chosen.max())) < torch.from_numpy(chosen).unsqueeze(1)
        ids = torch.from_numpy(rng.integers(1000, SIZES["vocab_size"], mask.shape)) * mask
        labels = torch.from_numpy(rng.integers(0, 2, size))
        found.append(Batch(torch.arange(size), 0, ids, mask.long(), labels, torch.ones(size, dtype=torch.bool)))
    return found


def built() -> tuple[transformers.PreTrainedModel, transformers.PreTrainedModel]:
    torch.manual_seed(0)
    made = transformers.AutoModelForSequenceClassification.from_config
    pair = (made(transformers.BertConfig(num_hidden_layers=n, **SIZES)) for n in (3, 6))
    student, teacher = pair
    return student.train(), teacher.eval().requires_grad_(False)


def soft(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return F.kl_div(F.log_softmax(s.float(), -1), F.log_softmax(t.float(), -1), reduction="batchmean", log_target=True)


def plain(reference: bool) -> Callable[[Batch], None]:
    """The step as public code has it: everything on the whole padded batch but, at a ratio, the teacher."""
    student, teacher = built()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5)

    def step(b: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = student(input_ids=b.input_ids, attention_mask=b.attention_mask).logits
            asked = b
            if reference:
                scores = torch.special.entr(logits.detach().float().softmax(-1)).sum(-1)
                rows = scores.topk(max(1, round(RATIO * len(scores)))).indices
                asked = Batch(rows, 0, b.input_ids[rows], b.attention_mask[rows], b.labels[rows], b.real[rows])
            with torch.no_grad():
                told = teacher(input_ids=asked.input_ids, attention_mask=asked.attention_mask).logits
            mine = logits if asked is b else logits[asked.rows]
            loss = 0.5 * F.cross_entropy(logits.float(), b.labels) + 0.5 * soft(mine, told)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def ours(execution: str, ratio: float = 1.0, frozen: str = "bf16") -> Callable[[Batch], None]:
    """kdlab's own step; at a ratio below 1 all rows are scored by entropy and the best are learnt from."""
    student, teacher = built()
    encoder = Encoder(student, execution)
    told = Teacher("teacher", Encoder(teacher, execution))
    if frozen == "bf16":
        told.to(torch.device("cpu"), torch.bfloat16)
    knowledge = {
        "label": Weighted(terms.label_cross_entropy, 0.5),
        "soft": Weighted(functools.partial(terms.soft_cross_entropy, temperature=1.0), 0.5, "all"),
    }
    module = Distiller(encoder, knowledge, Optim(lr=1e-5), 10**6, [told])
    optimizer = module.configure_optimizers()["optimizer"]

    def step(b: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            if ratio < 1:
                student.eval()
                with torch.no_grad():
                    shown = encoder.encode(b)
                    every = torch.arange(len(b))
                    logits = encoder.project(encoder.vectors(shown, every, every))
                    rows = strategies.top(strategies.entropy(Evidence(logits=logits)), ratio)
                student.train()
                b = b.take(rows)
            loss = module.loss(b, alone=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


WAYS: dict[str, Callable[[], Callable[[Batch], None]]] = {
    "plain, ratio 1": lambda: plain(False),
    "reference, ratio 0.1": lambda: plain(True),
    "kdlab padded, ratio 1": lambda: ours("padded"),
    "kdlab bucketed, ratio 1": lambda: ours("bucketed"),
    "kdlab packed, ratio 1": lambda: ours("packed"),
    "kdlab padded, ratio 0.1": lambda: ours("padded", RATIO),
    "kdlab packed, ratio 0.1": lambda: ours("packed", RATIO),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--batch", default="64,256")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lengths = lengths_of(arguments.data, arguments.max_length)
    sizes = [int(size) for size in arguments.batch.split(",")]
    for size in sizes:
        rows = batches(lengths, size, 16)
        padding = 1 - sum(int(b.attention_mask.sum()) for b in rows) / sum(b.attention_mask.numel() for b in rows)
        fill = statistics.mean(
            int(b.attention_mask.sum()) / layout(tuple(b.attention_mask.sum(1).tolist())).tokens for b in rows
        )
        print(f"batch {size}: {padding:.0%} of a padded batch is padding; packed rows are {fill:.0%} full")
        steps = {name: made() for name, made in WAYS.items()}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        until, turn = time.monotonic() + 60 * arguments.minutes / len(sizes), 0
        while time.monotonic() < until or turn < 4:
            b = rows[turn % len(rows)]
            for name, step in steps.items():
                torch.manual_seed(turn)
                started = time.perf_counter()
                step(b)
                if turn:  # the first turn warms up
                    seconds[name].append(time.perf_counter() - started)
            turn += 1
        base = {1: statistics.median(seconds["plain, ratio 1"]), 2: statistics.median(seconds["kdlab packed, ratio 1"])}
        reference = statistics.median(seconds["reference, ratio 0.1"])
        print(f"| way, {turn - 1} turns | ms | quartiles | of plain | of reference | of our packed ratio 1 |")
        print("|---|---|---|---|---|---|")
        for name, found in seconds.items():
            low, middle, high = (1000 * q for q in statistics.quantiles(found, n=4))
            ratios = (1000 * x / middle for x in (base[1], reference, base[2]))
            cells = " | ".join(f"{ratio:.2f}x" for ratio in ratios)
            print(f"| {name} | {middle:.0f} | {low:.0f} to {high:.0f} | {cells} |")


if __name__ == "__main__":
    main()
