"""constraints.txt pins all requirements of kdlab and its extras demo, cpu, dev and docs to allowed versions."""

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
    dev = [Requirement(line) for line in extras["dev"]]
    (own,) = (requirement for requirement in dev if requirement.name == "kdlab")
    assert own.extras >= {"demo", "wordnet", "analysis", "submitit"}
    taken = [line for extra in sorted({"cpu", "docs", *own.extras}) for line in extras[extra]]
    others = [requirement for requirement in dev if requirement is not own]
    for requirement in [*others, *map(Requirement, [*project["dependencies"], *taken])]:
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} allows no {version}"
