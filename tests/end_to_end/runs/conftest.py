"""A short run that the tests of run folders disturb, and the store that it fills."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runs import call, tiny


@pytest.fixture(scope="session")
def short_command(teacher_folder, text_folder) -> list[str]:
    """A run of four steps with scored selection."""
    return tiny(teacher_folder, text_folder, "trainer.max_steps=4", "select=entropy")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, short_command) -> Path:
    """A folder with the finished run `run` of `short_command`, and the store `artifacts`, so that others begin at once."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = call([*short_command, "hydra.run.dir=run"], folder)
    assert done.code == 0, done.output
    return folder
