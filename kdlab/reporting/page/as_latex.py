"""Render the tables of a report as LaTeX for a paper: booktabs, all names escaped, bold where the page marks the best."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from kdlab.reporting.caveats import footnotes
from kdlab.reporting.page.cells import cells, columns, references, spread
from kdlab.reporting.page.common import common, different
from kdlab.reporting.page.content import MARK, ReportPage
from kdlab.reporting.page.sizes import size_table
from kdlab.reporting.tables import BEST, TableRow, TaskTable

# Columns of the page that a paper's table has, by their names there
KEPT = {
    "seeds": "seeds",
    "difference": "difference",
    "Holm p": "Holm $p$",
    "queries": "queries",
    "total FLOPs": "FLOPs, in all",
}
BOX = ("data", "rows", "teacher", "student", "knowledge", "steps", "batch", "learning rate", "seeds")
_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "≥": r"$\geq$", "×": r"$\times$", "…": r"\ldots{}",
    "·": r"\textperiodcentered{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Text as LaTeX prints it, on one line; characters that pdfLaTeX may lack stand as their code points."""
    flat = re.sub(r"\s+", " ", text)
    plain = "".join(_ESCAPES.get(one) or _printable(one) for one in flat)
    return re.sub(r"-(?=-)", "-{}", plain)  # no dash is made of hyphens


def _printable(one: str) -> str:
    if one.isascii():
        return one if one.isprintable() else ""
    base = unicodedata.decomposition(one)
    latin = "\u00c0" <= one <= "\u00ff" and one not in "×÷" or ("\u0100" <= one <= "\u017e" and bool(base))
    return one if latin else f"[U+{ord(one):04X}]"


def latex(report: ReportPage) -> str:
    """A `table` environment for each task, and one for the size and speed of its models; the preamble needs `booktabs`, named in a comment."""
    parts = [
        f"% {MARK}",
        r"% in the preamble: \usepackage{booktabs}; an older LaTeX also needs \usepackage[utf8]{inputenc},"
        "\n"
        r"% and \usepackage[T1]{fontenc}, \usepackage{textcomp} for quotation marks in names",
    ]
    for number, table in enumerate(report.tables, 1):
        parts += [_table(table, number), *_sizes(table, number)]
    return "\n\n".join(parts) + "\n"


def _table(table: TaskTable, number: int) -> str:
    labels, settings = different(table)
    kept = [name for name in columns(table) if name in KEPT]
    marked = footnotes([row.group for row in table.rows])
    head = [*map(latex_text, labels), latex_text(table.comparison.unit), *(KEPT[name] for name in kept)]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_caption(table)}}}",
        rf"  \label{{tab:kdlab{number}}}",
        rf"  \begin{{tabular}}{{{'l' * len(labels)}{'r' * (1 + len(kept))}}}",
        r"    \toprule",
        f"    {_line(head)}",
        r"    \midrule",
    ]
    for name, value in references(table):
        lines.append(
            f"    {_line([latex_text(name), *[''] * (len(labels) - 1), latex_text(value), *[''] * len(kept)])}"
        )
    lines += [r"    \midrule"] if table.references else []
    for row, own in zip(table.rows, settings, strict=True):
        names = [*map(latex_text, own)]
        names[0] += latex_text(f" [{row.group.collapsed}]") if row.group.collapsed else ""
        names[0] += _superscript(marked.of(row.group))
        lines.append(f"    {_line([*names, _score(table, row), *_costs(table, row, kept)])}")
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    for note in marked.lines:
        mark, _, text = note.partition(" ")
        lines += ["", rf"  {{\footnotesize {_superscript(mark)} {latex_text(text)}}}"]
    apart = dict.fromkeys(cells(table, row).get("difference", "") for row in table.rows)
    if why := [text[3:-1] for text in apart if text.startswith("- (")]:
        said = latex_text(f"no difference, for the group and its baseline differ in: {' / '.join(why)}")
        lines += ["", rf"  {{\footnotesize --: {said}}}"]
    return "\n".join([*lines, r"\end{table}"])


def _sizes(table: TaskTable, number: int) -> list[str]:
    """The models of a task, without the numbers of the page's rows, which this file lacks; nothing without a size."""
    found = size_table(table)
    if found is None:
        return []
    speed = [note for note in found.notes if note.startswith("milliseconds: ")]
    caption = latex_text(". ".join([f"{table.comparison.task}: size and speed of the models", *speed]) + ".")
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{caption}}}",
        rf"  \label{{tab:kdlab{number}size}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(found.head) - 2)}}}",
        r"    \toprule",
        f"    {_line([latex_text(cell) for cell in _unnumbered(found.head)])}",
        r"    \midrule",
        *(f"    {_line([latex_text(cell) for cell in _unnumbered(row)])}" for row in found.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]
    return ["\n".join([*lines, r"\end{table}"])]


def _unnumbered(cells_: Sequence[str]) -> list[str]:
    """Cells without the second, the numbers of rows."""
    return [cells_[0], *cells_[2:]]


def _line(cells_: Sequence[str]) -> str:
    return " & ".join(cells_) + r" \\"


def _superscript(marks: str) -> str:
    letters = ",".join(re.findall(r"\[(\w+)\]", marks))
    return rf"\textsuperscript{{{letters}}}" if letters else ""


def _score(table: TaskTable, row: TableRow) -> str:
    text = latex_text(spread(table, row.mean, row.std))
    return rf"\textbf{{{text}}}" if BEST in row.marks else text


def _costs(table: TaskTable, row: TableRow, kept: Sequence[str]) -> list[str]:
    """Cells of a row without the remarks in brackets, which the page explains and a paper does not."""
    own = cells(table, row)
    found = [latex_text(re.sub(r" ?\(.*\)", "", own[name])) for name in kept]
    return ["--" if text == "-" else re.sub(r"^-(?=\d)", "$-$", text) for text in found]


def _caption(table: TaskTable) -> str:
    box = "; ".join(f"{name} {text}" for name, text in common(table) if name in BOX and name != "data")
    std = " Mean and sample standard deviation over seeds." if any(row.std is not None for row in table.rows) else ""
    best = (
        " Bold: the best of those that compare, by more than chance."
        if any(BEST in row.marks for row in table.rows)
        else ""
    )
    return latex_text(f"{table.comparison.task}: {table.comparison.described}.{std}{best} {box[:1].upper()}{box[1:]}.")
