"""Size and speed of a finished run's student and teachers, for its closing table and its model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdlab.runs.closing.cost_lines import si
from kdlab.storage.escaping import markdown_text


def size_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """A header and a row for student and each teacher: parameters, without embeddings, file, milliseconds per text by batch
    size. Milliseconds stand where any model has them, a dash where it has none. No row: an older kdlab measured nothing."""
    found = result.get("size") or {}
    if not found:
        return []
    batches = sorted({size for one in found.values() for size in one.get("milliseconds") or ()}, key=float)
    header = ["size and speed", "parameters", "w/o embeddings", "file", *(f"ms/text at {size}" for size in batches)]
    rows = [
        [
            name,
            _count(one["parameters"]),
            _count(one["without_embeddings"]),
            _megabytes(one.get("megabytes")),
            *(_milliseconds((one.get("milliseconds") or {}).get(size)) for size in batches),
        ]
        for name, one in found.items()
    ]
    return [header, *rows]


def conditions(result: Mapping[str, Any]) -> str:
    """The conditions of the measurement: texts, precision, device, threads; "" without milliseconds."""
    if not any(one.get("milliseconds") for one in (result.get("size") or {}).values()):
        return ""
    devices = result.get("devices") or {}
    count = devices.get("threads")
    threads = f"{count} thread{'s' * (count != 1)} of " if count else ""
    return f"batches of held-out rows in {devices.get('precision', '')} on {threads}{devices.get('name') or devices.get('kind', '')}"


def size_lines(result: Mapping[str, Any]) -> list[str]:
    """Lines of `size_rows` and `conditions` for the closing table."""
    rows = size_rows(result)
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]))]
    lines = [""]
    for number, (name, *cells) in enumerate(rows):
        shown = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        lines.append(f"{'  ' * (number > 0) + name:<{max(24, widths[0] + 2)}}{shown}")
    return [*lines, *([f"  ({said})"] if (said := conditions(result)) else [])]


def size_markdown(result: Mapping[str, Any]) -> str:
    """`size_rows` and `conditions` as Markdown, "" without a row."""
    rows = size_rows(result)
    if not rows:
        return ""
    header, *body = (f"| {' | '.join(map(markdown_text, row))} |" for row in rows)
    said = conditions(result)
    return (
        "\n".join(
            [
                header,
                f"|---|{'---:|' * (len(rows[0]) - 1)}",
                *body,
                *(["", f"Milliseconds: {markdown_text(said)}."] if said else []),
            ]
        )
        + "\n"
    )


def _count(value: float) -> str:
    return si(value).rstrip() if value >= 1e6 else f"{value:,.0f}"


def _megabytes(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} MB"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"
