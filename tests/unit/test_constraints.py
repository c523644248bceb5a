"""constraints.txt pins every direct dependency of kdlab, each to one version that pyproject.toml allows."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import kdlab

TOP = Path(kdlab.__file__).resolve().parent.parent


def test_every_direct_dependency_is_pinned_within_its_bounds() -> None:
    lines = (TOP / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert all(name == canonicalize_name(name) for name in pinned)
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *extras["demo"],
        *extras["cpu"],
        *(d for d in extras["dev"] if "kdlab" not in d),
    ]
    for requirement in map(Requirement, wanted):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} allows no {version}"
