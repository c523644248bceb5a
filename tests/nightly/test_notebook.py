"""docs/notebook.ipynb runs from top to bottom, as a kernel would run its cells: in order, in one namespace."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.documents import ROOT, notebook_cells

# the last expression of a cell is shown, as in a notebook
RUN = """
import ast, json, sys
names = {"__name__": "__main__"}
for source in json.loads(sys.stdin.read()):
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is not None:
        shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        print(shown._repr_html_() if hasattr(shown, "_repr_html_") else repr(shown))
"""


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    cells = notebook_cells(ROOT / "docs" / "notebook.ipynb")
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(sources),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "<td>student</td>" in done.stdout and "rows queried the teacher" in done.stdout
    assert "adads: accuracy" in done.stdout and "random: accuracy" in done.stdout
