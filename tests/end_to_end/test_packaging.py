"""The wheel carries conf/ and works from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile

from packaging.metadata import Metadata

import kdlab
from kdlab.config.composition import CONF


def test_the_wheel_works_from_any_folder(tmp_path):
    top = CONF.parent
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path / "dist")],
        cwd=top, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (source,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(source) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    assert sources >= {
        "CHANGELOG.md",
        "CITATION.cff",
        "constraints.txt",
        "conf/run.yaml",
        "docs/README.md",
        "mkdocs.yml",
    }
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
        (about,) = [Metadata.from_email(archive.read(name)) for name in names if name.endswith(".dist-info/METADATA")]
    assert str(about.version) == kdlab.__version__ and about.license_expression == "Apache-2.0"
    assert {"demo", "wordnet", "analysis", "docs"} <= set(about.provides_extra or [])
    assert {"Homepage", "Issues", "Changelog"} <= set(about.project_urls or {}) and "Typing :: Typed" in (
        about.classifiers or []
    )
    for wanted in (
        "kdlab/run.py",
        "kdlab/py.typed",
        "kdlab/conf/run.yaml",
        "kdlab/reporting/published.csv",
        "kdlab/reporting/templates/report.html",
        "kdlab/conf/exp/adads_pretrain.yaml",
    ):
        assert wanted in names
    assert not [n for n in names if n.startswith(("tests/", "outputs/", "artifacts/"))]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", "import kdlab.run, kdlab.config.composition, sys; print(kdlab.config.composition.CONF); sys.exit(kdlab.run.main(['+exp=adads_pretrain', '--cfg', 'job']))"],
        cwd=elsewhere, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site" / "kdlab" / "conf") in done.stdout and "name: adads_pretrain" in done.stdout
    assert not list(elsewhere.iterdir())
