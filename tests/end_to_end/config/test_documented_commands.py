"""Commands of the README and of its next page compose valid configurations; tests/nightly/test_documented_commands.py has all."""

from __future__ import annotations

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from tests.support import documents


def test_every_command_of_a_newcomer_composes_a_valid_configuration():
    pages = [documents.ROOT / "README.md", documents.ROOT / "docs" / "get_started.md"]
    found = [command for page in pages for command in documents.commands(page) if command.module == "run"]
    jobs = {tuple(documents.jobs(command)[-1]) for command in found if documents.jobs(command)}
    jobs = {job for job in jobs if len(job) > 1}  # an experiment alone: every one is run by test_finetune and others
    assert len(jobs) >= 6
    for job in sorted(jobs):
        assert checked(composition(list(job))[0]).name
