"""Every command of the README composes a valid configuration; tests/nightly/test_documented_commands.py has the other pages."""

from __future__ import annotations

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from tests.support import documents


def test_every_command_of_the_readme_composes_a_valid_configuration():
    found = [command for command in documents.commands(documents.ROOT / "README.md") if command.module == "run"]
    jobs = {tuple(documents.jobs(command)[-1]) for command in found if documents.jobs(command)}
    jobs = {job for job in jobs if len(job) > 1}  # an experiment alone: every one is run by test_finetune and others
    assert len(jobs) >= 6
    for job in sorted(jobs):
        assert checked(composition(list(job))[0]).name
