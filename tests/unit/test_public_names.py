"""Public names of the package: importable from `kdlab`, and none of them loads torch before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kdlab


@pytest.mark.parametrize("name", kdlab.__all__)
def test_a_public_name_is_there(name):
    assert getattr(kdlab, name) is not None
    assert name in dir(kdlab)


def test_type_checkers_see_every_public_name():
    tree = ast.parse(Path(kdlab.__file__).read_text(encoding="utf-8"))
    seen = {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {name for name in kdlab.__all__ if name != "__version__"} <= seen


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = kdlab.nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_the_package_loads_no_torch():
    code = "import sys, kdlab; assert 'torch' not in sys.modules; kdlab.strategies; assert 'transformers' not in sys.modules"
    top = Path(kdlab.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=top)
    assert done.returncode == 0, done.stderr
