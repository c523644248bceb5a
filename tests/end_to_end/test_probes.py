"""Paired probes: what they say of the arm in force is what the run then does, and they leave no trace in it."""

from __future__ import annotations

from kdlab.storage import tables
from tests.support.runs import KillAt, call, run_folder, tiny

PROBES = ("select.probe_every=2", "select.probe_steps=2", "select.interval=2", "select=adads", "select.reward=trend")


def test_probes_are_right_leave_no_trace_and_resume(tmp_path, teacher_folder, text_folder):
    done = call(tiny(teacher_folder, text_folder, *PROBES), tmp_path)
    assert done.code == 0, done.output
    folder = run_folder(tmp_path)
    observed, probes = tables.read(folder / "selector.csv"), tables.read(folder / "probe.csv")
    after = {(int(row["step"]), row["arm"]): row["after"] for row in probes}
    for now, following in zip(observed, observed[1:], strict=False):
        assert after[int(now["step"]), now["arm"]] == following["observation"]
    student, table = (folder / "student" / "model.safetensors").read_bytes(), (folder / "probe.csv").read_bytes()
    plain = call(tiny(teacher_folder, text_folder, *PROBES, "select.probe_every=null", "overwrite=true", f"hydra.run.dir={tmp_path / 'plain'}"), tmp_path)  # fmt: skip
    assert plain.code == 0, plain.output
    assert (tmp_path / "plain" / "student" / "model.safetensors").read_bytes() == student
    killed = tiny(teacher_folder, text_folder, *PROBES, f"hydra.run.dir={tmp_path / 'killed'}")
    assert call(killed, tmp_path, KillAt(5, "end")).code == -9
    assert call(killed, tmp_path).code == 0
    assert (tmp_path / "killed" / "student" / "model.safetensors").read_bytes() == student
    assert (tmp_path / "killed" / "probe.csv").read_bytes() == table
