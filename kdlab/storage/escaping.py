"""Names that strangers may have written, as text of other formats: Markdown, and tables that spreadsheets open."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdlab.errors import one_line

LONGEST = 120  # characters of a name in a table
_FORMULA = re.compile(
    r"[\s\x00-\x1f]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]"
)  # the last four: their full-width forms
_MARKS = re.compile(r"([\\`*_\[\]#|~$])")


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text, or its beginning with a hash of the whole: two long names that differ stay different."""
    if len(text) <= longest:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text[: longest - 10]}… {digest}"


def markdown_text(text: str) -> str:
    """Text with everything escaped that Markdown or HTML would read as more, on one line."""
    text = one_line(re.sub(r"\s+", " ", text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(r"\\\1", text)


def markdown_code(text: str) -> str:
    """Text as code, in which Markdown reads nothing; a table's cell needs its bars escaped all the same."""
    return "`" + one_line(re.sub(r"\s+", " ", text)).replace("`", "'").replace("|", "\\|") + "`"


def spreadsheet_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: text that begins as one gets a ' in front. Numbers stay."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def csv_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV of the rows' values in these columns (others are left out, missing ones empty), safe for spreadsheets."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([spreadsheet_cell(name) for name in columns])
    writer.writerows([spreadsheet_cell(row.get(name, "")) for name in columns] for row in rows)
    return stream.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")
