"""Every library that kdlab imports is a requirement, or an extra's whose import is lazy; optional reports are off."""

from __future__ import annotations

import ast
import os
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import kdlab
from kdlab.runs.loggers import wandb as wandb_logger

PACKAGE = Path(kdlab.__file__).resolve().parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NAMED_OTHERWISE = {
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "faiss": "faiss-cpu",
    "hydra": "hydra-core",
}  # by module
OWN = {"kdlab", "None", *sys.stdlib_module_names}


def names(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


REQUIRED = names(PROJECT["dependencies"])
OPTIONAL = {name for extra, lines in EXTRAS.items() if extra not in ("dev", "docs") for name in names(lines)}


def libraries(node: ast.AST) -> set[str]:
    """Distributions of the libraries that an import statement names."""
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
    found = {module.partition(".")[0] for module in modules}
    return {NAMED_OTHERWISE.get(name, canonicalize_name(name)) for name in found - OWN}


@pytest.fixture(scope="module")
def imports() -> set[tuple[str, str, bool]]:
    """(file, distribution, True where functions alone import it) of each library that a file of kdlab imports."""
    found = set()
    for file in sorted(PACKAGE.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        bodies = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        inside = {id(inner) for body in bodies for inner in ast.walk(body)}
        found |= {(str(file.relative_to(PACKAGE)), name, id(n) in inside) for n in nodes for name in libraries(n)}
    return found


def test_every_import_is_declared(imports):
    assert len({file for file, _, _ in imports}) > 100
    assert {"torch", "pyyaml", "tokenizers"} <= {name for _, name, _ in imports}
    undeclared = {
        (file, name) for file, name, lazy in imports if name not in REQUIRED and not (lazy and name in OPTIONAL)
    }
    assert undeclared == set()


def test_no_requirement_is_unused(imports):
    assert REQUIRED - {name for _, name, _ in imports} == set()


def test_torch_is_allowed_up_to_the_next_major_version():
    (torch,) = (Requirement(line) for line in PROJECT["dependencies"] if Requirement(line).name == "torch")
    tested = dict(
        line.split("==") for line in (PACKAGE.parent / "constraints.txt").read_text().splitlines() if "==" in line
    )
    major = Version(tested["torch"]).major
    assert torch.specifier.contains(f"{major}.999") and not torch.specifier.contains(f"{major + 1}.0")


@pytest.mark.parametrize("version", ["2.5.5", "2.6.1", "2.6.2", "2.6.3", "2.6.5"])
def test_malicious_and_vulnerable_releases_of_lightning_are_refused(version):
    (lightning,) = (Requirement(line) for line in PROJECT["dependencies"] if line.startswith("pytorch-lightning"))
    assert not lightning.specifier.contains(version) and lightning.specifier.contains("2.6.6")


def test_the_quick_start_needs_no_package_that_is_built_from_source():
    assert names(EXTRAS["demo"]) & names(EXTRAS["wordnet"]) == set()
    assert "wn" in names(EXTRAS["wordnet"])


@pytest.mark.parametrize(("given", "enabled"), [(None, False), ("true", True)])
def test_reports_to_the_maker_of_wandb_are_off_unless_asked_for(monkeypatch, given, enabled):
    from wandb import env

    for name in ("WANDB_SILENT", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "")  # restored after the test
        monkeypatch.delenv(name)
    if given:
        monkeypatch.setenv("WANDB_ERROR_REPORTING", given)
    wandb_logger.silence()
    assert bool(env.error_reporting_enabled()) is enabled and os.environ["WANDB_SILENT"] == "true"
