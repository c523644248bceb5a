"""Two ranks (gloo) as processes of their own, without a run around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from kdlab.testing.child_process import forked


def results_of_two(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What `work`, which can be pickled, returns for rank 0 and for rank 1; `folder` takes their files."""
    processes = [
        forked(partial(_one_rank, work, rank, folder), {}, folder / f"{rank}.log", folder) for rank in range(2)
    ]
    codes = [process.wait(100) for process in processes]
    assert codes == [0, 0], "".join((folder / f"{rank}.log").read_text()[-2000:] for rank in range(2))
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _one_rank(work: Callable[[int], Any], rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    torch.save(work(rank), folder / f"{rank}.pt")
    dist.destroy_process_group()
