"""What a step of a preparation costs, without padding and with it: the teacher's fine-tuning, or the training of its masked-LM head.

    python -m benchmarks.preparation --data DATA/SST-5 --minutes 3
    python -m benchmarks.preparation --text --minutes 3

The demo's teacher and recipe, loss, backward, clipping and update, in turns A B C D A B C D in one process. "packed, in parts" is the default on a CPU;
"packed" takes whole batches (`teachers.part_tokens=null`), "padded" is `teachers.exec=padded` besides; "padded, float32" has no bfloat16 either, as
teachers were prepared before there were these keys. All have the same batches of texts of similar length. Time is the process's own computing time per 1,000 real tokens; memory is the rise of resident memory in the batch with
the most tokens (Linux).
`--rest` names further overrides of all ways.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import in_turns, machine, quartiles, table, times
from benchmarks.mlm_memory import peak_of
from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.runs.process import notify
from kdlab.runtime.seeding import reseed
from kdlab.stages.registry import stage_of
from kdlab.types import Batch

COUNT = 24  # batches of each way, used in turn


class Way:
    """A preparation with its model, optimizer and batches. `tokens`: real tokens of its steps; `seconds`: of these."""

    def __init__(self, overrides: Sequence[str]) -> None:
        stage = stage_of(checked(composition(list(overrides))[0]), notify)
        pool = stage.teacher_pool
        reseed(0, "finetune")
        source = stage.inputs.main_source
        if stage.inputs.head.per_row:
            model = pool._encoder(pool.main, pool.shape(pool.main))  # pyright: ignore[reportAttributeAccessIssue]
        else:
            import numpy as np

            from kdlab.models import loading

            counts = np.load(stage.inputs.corpus_folder / "token_counts.npy")  # pyright: ignore[reportAttributeAccessIssue]
            model = loading.load_with_new_lm_head(source.place, counts, stage.inputs.tokenizer.mask_token_id)  # pyright: ignore
        training = pool.training(pool.main, model)
        self.module, self.precision, data = training.module, training.precision, training.data
        self.optimizer = self.module.configure_optimizers()["optimizer"]
        order = data.sampler().epoch_batches(0)
        longest = max(order, key=lambda rows: int(data.lengths[rows].sum()))
        rows, collate = data.training_rows()
        self.longest, *batches = (
            collate([rows[0, int(row)] for row in chosen]) for chosen in (longest, *order[:COUNT])
        )
        padded = sum(batch.input_ids.numel() for batch in batches) / sum(map(_tokens, batches))
        print(
            f"{overrides[-1]}: {_tokens(self.longest):,} tokens in the largest batch, padded {padded:.2f} times as many as real"
        )
        self.batches = cycle(batches)
        self.tokens: list[int] = []

    def step(self, batch: Batch) -> None:
        """Loss, backward, clipping, update."""
        half = self.precision.startswith("bf16")
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            module: Any = self.module
            loss: Any = module.label_loss(batch)[0]
        loss.backward()
        self.module.optimization.clip(self.module, self.optimizer)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def __call__(self, turn: int) -> None:
        batch = next(self.batches)
        if turn:
            self.tokens.append(_tokens(batch))
        self.step(batch)


def _tokens(batch: Batch) -> int:
    return int(batch.attention_mask.sum())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="a task's folder with train.tsv; without it and --text: nothing to do"
    )
    parser.add_argument("--text", action="store_true", help="the masked-LM head on the demo's text instead")
    parser.add_argument("--minutes", type=float, default=3, help="of measuring (default 3)")
    parser.add_argument("--turns", type=int, help="measure so many turns, however long they take")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--artifacts", help="artifact store with the tokenised rows (default: a temporary one)")
    parser.add_argument("--rest", nargs="*", default=[], help="overrides of all ways")
    given = parser.parse_args(argv)
    if given.data is None and not given.text:
        parser.error("give --data FOLDER or --text")
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        common = (
            ["+exp=adads_pretrain"]
            if given.text
            else ["+exp=adads_finetune", f"data.path={Path(given.data or '.').absolute()}"]
        )
        common += [f"artifacts={given.artifacts or temporary}", *given.rest]
        before = f"teachers.{'prepare' if given.text else 'finetune'}.precision=32-true"
        whole = "teachers.part_tokens=null"
        ways = {
            "padded, float32": Way([*common, whole, before, "teachers.exec=padded"]),
            "padded": Way([*common, whole, "teachers.exec=padded"]),
            "packed": Way([*common, whole, "teachers.exec=packed"]),
            "packed, in parts": Way([*common, "teachers.exec=packed"]),
        }
        measure(ways, given.minutes, given.turns, given.threads)


def measure(ways: dict[str, Way], minutes: float, turns: int | None, threads: int) -> None:
    """Take the turns, then the memory of a step on the largest batches, and print the table."""
    found = in_turns(ways, minutes, turns, time.process_time)
    each = {name: [1e6 * s / t for s, t in zip(found[name], way.tokens, strict=True)] for name, way in ways.items()}
    memory = {}
    for name, way in ways.items():
        ctypes.CDLL(None).malloc_trim(0)  # what the steps before have freed is not this one's
        memory[name] = peak_of(lambda way=way: way.step(way.longest))
    print(machine(threads, "cpu"))
    print(f"{len(found['padded'])} turns; precision {ways['packed'].precision}\n")
    rows = []
    for name, values in each.items():
        low, middle, high = quartiles(values)
        faster = f"{times(each['padded, float32'], values):.2f}x"
        rows.append([name, f"{middle:.0f}", f"{low:.0f} to {high:.0f}", faster, f"{memory[name]:.2f}"])
    header = ["way", "ms per 1,000 tokens", "quartiles", "faster than the first", "GB of the largest step"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
