"""Two CPU ranks (gloo) and one process on the same global batch: the same arms, rows and queries, the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from kdlab import tables
from tests.runs import command, tiny

CASES = {
    "adads": ["select=adads"],
    "random": ["select=random"],
    "randmix": ["select=randmix", "trainer.accumulate=2", "trainer.max_steps=4"],
    "ensemble": ["select=ensemble"],
    "schedule": ["select=schedule", "select.observe=kd"],
    "all": ["select=all", "select.ratio=1"],
}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(case, tmp_path, teacher_folder, text_folder):
    common = tiny(teacher_folder, text_folder, "trainer.accelerator=cpu", "trainer.probes=0", *CASES[case])
    one = command([*common, "hydra.run.dir=one"], tmp_path)
    assert one.code == 0, one.output
    two = command([o for o in common if "batch_size" not in o] + ["data.batch_size=8", "trainer.devices=2", "hydra.run.dir=two"], tmp_path)
    assert two.code == 0, two.output
    a, b = (safetensors.torch.load_file(tmp_path / name / "student" / "model.safetensors") for name in ("one", "two"))
    for name in a:
        np.testing.assert_allclose(a[name].numpy(), b[name].numpy(), atol=2e-4, err_msg=name)
    chosen = [tables.read(tmp_path / name / "selector.csv") for name in ("one", "two")]
    assert [r["arm"] for r in chosen[0]] == [r["arm"] for r in chosen[1]]
    assert [r["teacher_queries"] for r in chosen[0]] == [r["teacher_queries"] for r in chosen[1]]
    for r, s in zip(*chosen, strict=True):
        for key in ("observation", "reward"):
            assert (r[key] == "") == (s[key] == "")
            if r[key]:
                assert float(r[key]) == pytest.approx(float(s[key]), abs=2e-4)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    queries = [r["ledger"]["teacher_queries"] for r in results]
    assert queries[0] == queries[1] and results[0]["ledger"]["rows_seen"] == results[1]["ledger"]["rows_seen"]
    assert results[0]["metrics"]["student"]["loss"] == pytest.approx(results[1]["metrics"]["student"]["loss"], abs=1e-3)


def test_two_ranks_killed_go_on_bit_for_bit(tmp_path, teacher_folder, text_folder):
    common = tiny(teacher_folder, text_folder, "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=8", "trainer.max_steps=12")
    whole = command([*common, "hydra.run.dir=whole"], tmp_path)
    assert whole.code == 0, whole.output
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    arguments = [sys.executable, "-m", "kdlab.run", *common, "hydra.run.dir=killed"]
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        checkpoint = tmp_path / "killed" / "checkpoints" / "step-00000003.ckpt"
        until = time.monotonic() + 90
        while not checkpoint.exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.002)
        assert checkpoint.exists()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed" / "student").exists(), "the run was over before the kill"
    again = command([*common, "hydra.run.dir=killed"], tmp_path)
    assert again.code == 0, again.output
    from tests.runs import outcome

    wanted, found = outcome(tmp_path / "whole"), outcome(tmp_path / "killed")
    for part in wanted:
        assert found[part] == wanted[part], part
