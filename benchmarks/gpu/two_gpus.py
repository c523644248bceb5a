"""Two GPUs against one: `benchmarks.scaling` over NCCL on the BERT-base classifier."""

from __future__ import annotations

from typing import Any

from benchmarks import scaling
from benchmarks.gpu.figures import percent
from benchmarks.gpu.subjects import PROFILES, Subject


def arguments_of(subject: Subject, profile: str, turns: int, data: Any) -> Any:
    """Arguments of `benchmarks.scaling` for a subject of class `Sizes`."""
    sizes: Any = subject.models
    given = {
        "max-length": PROFILES[profile], "task": profile, "turns": turns, "hidden": sizes.hidden, "vocab": sizes.vocab,
        "head-width": sizes.head_width, "layers": f"{sizes.student},{sizes.teacher}", "dropout": sizes.dropout,
        "attention-dropout": sizes.attention_dropout, "device": sizes.device, **({"data": data} if data else {}),
    }  # fmt: skip
    return scaling.parser().parse_args([f"--{name}={value}" for name, value in given.items()])


def compared(subject: Subject, profile: str, turns: int, data: Any) -> tuple[str, dict[str, Any]]:
    """The table of two processes against one on a batch of the subject's rows, and its seconds."""
    arguments, rows = arguments_of(subject, profile, turns, data), subject.rows[profile]
    found = scaling.measured(arguments, rows)
    single, *several = scaling.names_of(arguments.world)
    hidden = scaling.hidden_share(*(found[name] for name in several))
    return scaling.report(found, rows, arguments.world).strip(), {
        "rows": rows, "seconds": found, "hidden share of the exchange": percent(hidden),
    }  # fmt: skip
