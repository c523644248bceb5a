"""Every command of the docs, experiments and benchmarks composes a valid configuration (a newcomer's also: tests/end_to_end)."""

from __future__ import annotations

import pytest

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from tests.support import documents


@pytest.mark.parametrize("page", documents.PAGES, ids=lambda page: str(page.relative_to(documents.ROOT)))
def test_every_command_of_a_page_composes_a_valid_configuration(page):
    for command in documents.commands(page):
        for job in documents.jobs(command) if command.module == "run" else ():
            assert checked(composition(job)[0]).name, command
