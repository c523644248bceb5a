"""`Result`: a finished run folder as a Python object."""

from __future__ import annotations

import html
import shutil
import weakref
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlab.runs.closing.beside_random import beside_random
from kdlab.runs.closing.scores import SHOWN, about, shown
from kdlab.runs.closing.summary import table
from kdlab.runs.export import export_student
from kdlab.runs.finished import finished_result
from kdlab.runs.keeping import check_student
from kdlab.storage import tables

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class Result:
    """A finished run: `print(result)` shows its closing table.

    `folder`: the run folder. `content`: result.json. UserError for a folder that holds no finished run. A result of
    `kdlab.distill` without `out` is `temporary`: its folder is removed with the object; `save` keeps the student.
    """

    def __init__(self, folder: str | Path, temporary: bool = False) -> None:
        self.folder = Path(folder)
        self.content: dict[str, Any] = finished_result(self.folder)
        if temporary:
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    @cached_property
    def student(self) -> PreTrainedModel:
        """The trained student, an ordinary transformers model in eval mode. UserError if the run did not keep it."""
        from kdlab.models import loading
        from kdlab.models.head import head_of_result

        check_student(self.folder, self.content)
        return loading.load_with_head(self.folder / "student", head_of_result(self.content)).eval()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The student's tokenizer."""
        from kdlab.models import loading
        from kdlab.models.head import head_of_result

        check_student(self.folder, self.content)
        return loading.load_tokenizer(self.folder / "student", masks=not head_of_result(self.content).causal)

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The scores on the held-out rows of student, teachers and baselines, by name; shares in [0, 1], losses in
        nats."""
        return self.content["metrics"]

    @property
    def ledger(self) -> dict[str, Any]:
        """The cost of the training, as in result.json (docs/ledger.md): teacher queries in rows, FLOPs, seconds."""
        return self.content["ledger"]

    @cached_property
    def schedule(self) -> list[dict[str, Any]]:
        """The decisions of the selection policy: step, arm, observation, reward, ... (selector.csv), empty cells
        None."""
        file = self.folder / "selector.csv"
        return (
            [{name: _value(cell) for name, cell in row.items()} for row in tables.read(file)] if file.is_file() else []
        )

    @property
    def figures(self) -> dict[str, Path]:
        """The figures of the run (PNG) by name: schedule, learning curves, ..."""
        return {file.stem: file for file in sorted((self.folder / "figures").glob("*.png"))}

    def save(self, folder: str | Path) -> Path:
        """Write the student and its tokenizer to the new `folder`, as `kdlab export` does; returns the folder.

        UserError for a folder with content.
        """
        export_student(self.folder, Path(folder), say=lambda line: None)
        return Path(folder)

    def __str__(self) -> str:
        return table(self.content, self.folder, beside_random(self.content, self.folder)).strip("\n")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """The closing table for a notebook: the scores as a table of HTML, all lines below it."""
        scores = self.metrics
        columns = [name for name in scores["student"] if name in SHOWN]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *columns))
        rows = [
            "".join(f"<td>{html.escape(cell)}</td>" for cell in (name, *(shown(c, found.get(c)) for c in columns)))
            for name, found in scores.items()
        ]
        body = "".join(f"<tr>{cells}</tr>" for cells in rows)
        table = f"<table><tr>{head}</tr>{body}</table>"
        return f"<p>{html.escape(about(self.content))}</p>{table}<details><pre>{html.escape(str(self))}</pre></details>"


def _value(cell: str) -> int | float | str | None:
    """A cell of a table as the number that it is, else as text; None if it is empty."""
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None
