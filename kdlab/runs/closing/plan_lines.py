"""The forecast of a run beside the real figures, as lines of the closing table."""

from __future__ import annotations

from typing import Any

from kdlab.runs.closing.cost_lines import duration, si
from kdlab.storage.files import readable_size

NAMES = {"queries": "teacher queries", "flops": "model FLOPs", "seconds": "wall-clock", "disk": "run folder"}


def plan_lines(result: dict[str, Any]) -> list[str]:
    """The lines of a run that was started with --plan; none for another."""
    plan = result.get("plan")
    if not plan:
        return []
    shown = ["", f"{'plan':<24}{'forecast':>11}  {'real':>11}  {'off':>7}"]
    for name, real in plan["real"].items():
        expected = plan["forecast"][name]
        off = f"{expected / real - 1:+.1%}" if real else "-"
        shown.append(f"  {NAMES.get(name, name):<22}{_word(name, expected):>11}  {_word(name, real):>11}  {off:>7}")
    return shown


def _word(name: str, value: float) -> str:
    if name == "flops":
        return si(value)
    if name == "seconds":
        return duration(value)
    if name in ("memory", "disk"):
        return readable_size(int(value))
    return f"{value:,.4g}" if name == "price" else f"{value:,.0f}"
