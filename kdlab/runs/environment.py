"""The environment of a run, as result.json records it: versions, git revision, device. Its bits depend on it."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from kdlab import __version__

PACKAGES = (
    "torch", "pytorch-lightning", "transformers", "tokenizers", "datasets", "pyarrow", "safetensors", "huggingface-hub",
    "torchmetrics", "numpy", "hydra-core", "omegaconf", "faiss-cpu", "faiss-gpu",
)  # fmt: skip
# keys of result.json that a run's bits depend on, and their names in a line about differences
RECORDED = {
    "versions": "",
    "git": "git revision",
    "devices": "device",
    "data": "data",
    "teacher": "teacher",
    "teachers": "teachers",
    "student": "student",
}


def versions() -> dict[str, str]:
    """Versions of Python, kdlab, and the installed packages that compute."""
    versions = {"python": platform.python_version(), "kdlab": __version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def revision() -> str | None:
    """The git revision of the checkout that kdlab runs from, with "-dirty" for modified files; None outside a checkout."""
    top = Path(__file__).resolve().parents[2]
    if not (top / ".git").exists():
        return None
    command = ["git", "-C", str(top), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return done.stdout.strip() or None


def machine(device: torch.device) -> dict[str, Any]:
    """The processor or GPU by name, its instruction set, and the threads that share a sum."""
    if device.type == "cuda":
        return {"name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "threads": None}
    return {
        "name": f"{processor()} ({torch.backends.cpu.get_cpu_capability()})",
        "cuda": None,
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The processor's model name from /proc/cpuinfo (Linux), else its architecture, such as x86_64."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.machine()


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The differences between the environments in two result.json, one line each: "torch 2.12.0 -> 2.13.0"."""
    return [line for key, word in RECORDED.items() for line in _between(_named(before, key), _named(after, key), word)]


def _named(result: Mapping[str, Any], key: str) -> Any:
    """A value of a result.json; data with a fingerprint without their path, which may be written in several ways."""
    value = result.get(key)
    if key == "data" and isinstance(value, dict) and value.get("fingerprint"):
        return {name: one for name, one in value.items() if name != "path"}
    return value


def _between(before: Any, after: Any, where: str) -> Iterator[str]:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from _between(before.get(key), after.get(key), f"{where} {key}".strip())
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True), 1):
            yield from _between(one, other, f"{where} {number}")
    else:
        yield f"{where} {_short(before)} -> {_short(after)}"


def _short(value: Any) -> str:
    text = "not recorded" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
