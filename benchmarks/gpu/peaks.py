"""Peak rates of GPUs: bfloat16 matrix products with float32 accumulation, dense (half of what sheets print "with sparsity")."""

from __future__ import annotations

import re

# TFLOP/s by words of the name that torch.cuda.get_device_name gives
PEAKS = {
    # NVIDIA's data sheets "DGX B200" (72 PFLOP/s in FP8 with sparsity of eight GPUs: a 32nd each), "H200", "H100", "GH200"
    "B200": 2250.0,
    "H200": 989.4,
    "H200 NVL": 835.5,
    "GH200": 989.4,
    "H100": 989.4,
    "H100 NVL": 835.5,
    "H100 PCIe": 756.0,
    # NVIDIA's data sheets "A100", "A30", "A10", "A40", "RTX A6000"
    "A100": 312.0,
    "A30": 165.0,
    "A10": 125.0,
    "A40": 149.7,
    "RTX A6000": 154.8,
    # NVIDIA's data sheets "L4", "L40", "L40S"
    "L4": 121.0,
    "L40": 181.0,
    "L40S": 362.0,
    # appendices of NVIDIA's white papers on GA102, Ada and RTX Blackwell, rows "with FP32 accumulate"
    "RTX 3090": 71.0,
    "RTX 4090": 165.2,
    "RTX 5090": 209.5,
}
# a slice of a GPU, or another card of nearly the same name
OTHERS = re.compile(r"\b(MIG|Laptop|Mobile|Max-Q|D|Ti|Super)\b", re.IGNORECASE)


def peak_of_device(name: str) -> float | None:
    """FLOP/s of the GPU with this name; None where it is unknown."""
    if OTHERS.search(name):
        return None
    known = [words for words in PEAKS if all(re.search(rf"\b{word}\b", name, re.IGNORECASE) for word in words.split())]
    return PEAKS[max(known, key=len)] * 1e12 if known else None
