"""Everything that `python -m kdlab.faults` causes: some 250 kills and all other faults, the long run a tenth as long."""

from __future__ import annotations

from kdlab import faults


def test_all_faults_are_borne_as_promised(tmp_path, capfd):
    assert faults.main(["--steps", "2000"]) == 0, capfd.readouterr().out
