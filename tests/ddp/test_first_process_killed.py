"""The first process of two ranks is killed from another session: nothing of the job is left, whenever that happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdlab.testing.child_process import tiny
from kdlab.testing.fault_lab import FaultLab
from kdlab.testing.fault_suite import override
from kdlab.testing.rank_faults import first_killed

PROMISED = 60.0  # seconds: docs/trust.md, "the job ends within a minute"


@pytest.mark.parametrize(
    ("victim", "moment"),
    [
        ("devices, rank 0", "training"),
        pytest.param("torchrun, torchrun itself", "training", marks=pytest.mark.nightly),
        pytest.param("devices, rank 0", "importing", marks=pytest.mark.nightly),
        pytest.param("devices, rank 0", "preparing", marks=pytest.mark.nightly),
        pytest.param("devices, rank 0", "finishing", marks=pytest.mark.nightly),
        pytest.param("torchrun, torchrun itself", "importing", marks=pytest.mark.nightly),
        pytest.param("torchrun, torchrun itself", "preparing", marks=pytest.mark.nightly),
        pytest.param("torchrun, rank 0", "training", marks=pytest.mark.nightly),
    ],
)
def test_nothing_of_a_job_is_left(victim: str, moment: str, tmp_path: Path, teacher_folder, text_folder):
    (tmp_path / "none").mkdir()
    command = tuple(override(tiny(teacher_folder, text_folder), "data.batch_size=8"))
    lab = FaultLab(tmp_path / "lab", command, {}, tmp_path / "none", ranks=2)
    found = first_killed(lab, [victim], [moment])
    assert (found.injected, found.wrong) == (1, 0), found.notes
    assert float(found.notes[0].rpartition(" ended ")[2].split()[0]) < PROMISED
