"""Write a report beside its runs: the page, its Markdown and LaTeX, and each figure as SVG, PDF and CSV.

A former report is replaced with one line that names it; a file that no report wrote is never replaced.
"""

from __future__ import annotations

import html as entities
import os
import re
from collections.abc import Sequence
from pathlib import Path

from kdlab.errors import UserError, one_line
from kdlab.plotting import files
from kdlab.reporting.comparison_text import to_stderr
from kdlab.reporting.page.as_html import html
from kdlab.reporting.page.as_latex import latex
from kdlab.reporting.page.as_markdown import markdown
from kdlab.reporting.page.content import MARK, Picture, as_utf8
from kdlab.reporting.report import build_report
from kdlab.storage.escaping import csv_table, markdown_text, shortened
from kdlab.storage.files import atomic_write_bytes, atomic_write_text, user_errors
from kdlab.storage.locks import sole_writer

INDEX = "captions.md"  # in the folder of the figures: its files, with their captions
KINDS = ("svg", "pdf", "csv")
NO_FIGURE = "one needs two groups, or evaluations during the training (trainer.evaluate_every)"


def write_report(
    paths: Sequence[Path],
    out: Path | None = None,
    paper: str | None = None,
    conditions: Sequence[str] = (),
    metric: str | None = None,
    baseline: str | None = None,
    across: Sequence[str] = (),
    as_latex: bool = False,
) -> int:
    """Write the report of the runs in `paths` to the page `out` and the files beside it; returns the exit code 0.

    `out`: None for report.html in the runs' folder, the innermost that all `paths` are in. `as_latex`: also the tables
    as LaTeX. Other arguments as for `build_report`. UserError for an `out` that is no new page and no former report.
    """
    out = _beside(paths) if out is None else out
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: a page ends in .html, such as {out.with_suffix('.html')}")
    texts = {out: html, out.with_suffix(".md"): markdown} | ({out.with_suffix(".tex"): latex} if as_latex else {})
    folder = out.with_name(f"{out.stem}_figures")
    for file in texts:
        _check_writable(file)
    former = _former_figures(folder)
    report = build_report(paths, paper, conditions, metric, baseline, to_stderr, across)
    names = figure_names(report.all_pictures)
    for name in names:
        for kind in KINDS:
            _check_figure(folder / f"{name}.{kind}", former)
    replaced = _title(out)
    with sole_writer(out):
        _write_figures(folder, dict(zip(names, report.all_pictures, strict=True)), former)
        for file, render in reversed(texts.items()):
            atomic_write_text(file, render(report))
    if replaced:
        to_stderr(f"{out} replaces a former report: {replaced}")
    count = f"{len(names)} figure{'s' if len(names) > 1 else ''}"
    figures = f" and {folder} ({count} as SVG, PDF and CSV)" if names else f"; no figure: {NO_FIGURE}"
    beside = ", ".join(map(str, list(texts)[1:]))
    print(f"{one_line(report.title)}; {out} ({out.stat().st_size / 1000:,.0f} kB), {beside}{figures}")
    return 0


def _beside(paths: Sequence[Path]) -> Path:
    """report.html in the innermost folder that all `paths` are in."""
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: there is no such folder; run folders, or folders with runs below, were expected")
    if len(paths) == 1:
        return paths[0] / "report.html"
    folder = Path(os.path.commonpath([path.resolve() for path in paths]))
    if folder == Path(folder.anchor):
        raise UserError("these folders have none in common: --out names the page")
    here = Path.cwd()
    return (folder.relative_to(here) if folder.is_relative_to(here) else folder) / "report.html"


def _check_writable(file: Path) -> None:
    """UserError unless `file` is new or was written by a former report."""
    if not file.parent.is_dir():
        raise UserError(f"--out {file}: there is no folder {file.parent}")
    if file.is_dir():
        raise UserError(f"--out {file} is a folder: name a file")
    if file.exists() and MARK not in file.read_text(encoding="utf-8", errors="replace")[:100_000]:
        raise UserError(f"{file} is there and no report of kdlab's: --out takes another name")


def _title(page: Path) -> str:
    """The title of a former page; "" without one."""
    if not page.exists():
        return ""
    found = re.search(r"<title>(.*?)</title>", page.read_text(encoding="utf-8", errors="replace")[:100_000], re.S)
    return one_line(shortened(entities.unescape(found[1]).strip())) if found else "without a title"


def _former_figures(folder: Path) -> set[str]:
    """Names of the files that a former report wrote into the folder of its figures."""
    index = folder / INDEX
    if not folder.exists():
        return set()
    if not folder.is_dir():
        raise UserError(f"{folder} is there and no folder of figures: --out takes another name")
    text = index.read_text(encoding="utf-8", errors="replace") if index.is_file() else ""
    if text and MARK not in text:
        raise UserError(f"{index} is there and no report of kdlab's: --out takes another name")
    stems = re.findall(r"^## `([\w.+-]+)`$", text, re.M)
    return {f"{stem}.{kind}" for stem in stems for kind in KINDS}


def _check_figure(file: Path, former: set[str]) -> None:
    if file.exists() and file.name not in former:
        raise UserError(f"{file} is there and no report of kdlab's: --out takes another name")


def figure_names(pictures: Sequence[Picture]) -> list[str]:
    """A file name for each figure, without suffix: its task and its kind, in letters that need no quoting."""
    names: list[str] = []
    for one in pictures:
        parts = [re.sub(r"[^A-Za-z0-9.+-]+", "_", part).strip("_.-") for part in (one.task, one.drawing.name)]
        name = "_".join(part[:60] for part in parts if part)
        same = sum(other.lower() == name.lower() or other.lower().startswith(f"{name.lower()}__") for other in names)
        names.append(f"{name}__{same + 1}" if same else name)
    return names


def _write_figures(folder: Path, named: dict[str, Picture], former: set[str]) -> None:
    """Write all figures and the index, remove those of a former report that are no more."""
    if not named and not folder.exists():
        return
    with user_errors("writing figures", folder):
        folder.mkdir(exist_ok=True)
    lines = [f"<!-- {MARK} -->", "# Figures", "Each as SVG and PDF, its numbers as CSV."]
    for name, one in named.items():
        lines += [f"## `{name}`", markdown_text(one.caption)]
    atomic_write_text(folder / INDEX, as_utf8("\n\n".join(lines) + "\n"))
    for name, one in named.items():
        rows = one.drawing.rows
        atomic_write_bytes(folder / f"{name}.svg", one.svg)
        atomic_write_bytes(folder / f"{name}.pdf", files.pdf(one.drawing.figure))
        atomic_write_text(
            folder / f"{name}.csv", csv_table(list(dict.fromkeys(key for row in rows for key in row)), rows)
        )
    with user_errors("removing former figures", folder):
        for name in former - {f"{name}.{kind}" for name in named for kind in KINDS}:
            (folder / name).unlink(missing_ok=True)
