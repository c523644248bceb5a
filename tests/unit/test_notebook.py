"""docs/notebook.ipynb: a whole notebook without stored outputs; tests/nightly/test_notebook.py runs it."""

from __future__ import annotations

import ast

from tests.support.documents import ROOT, notebook_cells


def test_the_notebook_is_whole_and_stores_no_output():
    cells = notebook_cells(ROOT / "docs" / "notebook.ipynb")
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 5 and len({cell["id"] for cell in cells}) == len(cells)
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []
    for cell in code:
        ast.parse("".join(cell["source"]))
    assert "kdlab.distill(" in "".join(line for cell in code for line in cell["source"])
