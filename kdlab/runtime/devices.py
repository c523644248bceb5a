"""The device and the precision of one process."""

from __future__ import annotations

import os
import resource

import torch


def precision_of(precision: str, accelerator: str) -> str:
    """Lightning's name of a precision; "auto" becomes "bf16-mixed" on a device with native bfloat16, else "32-true".

    Native bfloat16 products are about twice as fast as float32.
    """
    if precision != "auto":
        return precision
    if accelerator != "cpu" and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public query
        native = any(getattr(torch.cpu, name, bool)() for name in names)
    return "bf16-mixed" if native else "32-true"


def first_device(accelerator: str) -> torch.device:
    """Device of a training in one process: this rank's GPU if there is one and `accelerator` allows it, else the
    CPU."""
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if gpu else torch.device("cpu")


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most so far: of a GPU's memory what torch has reserved, else resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB
