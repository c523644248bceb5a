"""Two CPU ranks (gloo) and one process on the same global batch: the same arms, rows and queries, the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from kdlab.storage import tables
from tests.support.cadence import each_time
from tests.support.runs import KillAt, call, command, outcome, tiny
from tests.support.selections import ON_TEXT, SINGLE, settings

MORE = {  # settings beside `select=` of some cases
    "randmix": ["trainer.accumulate=2", "trainer.max_steps=4"],
    "all": ["select.ratio=1"],
    # each strategy decides at each step: half of the steps show what a case of its own would
    **dict.fromkeys(SINGLE, ["trainer.max_steps=4"]),
    "cluster": ["trainer.max_steps=4", "trainer.accumulate=2"],  # micro-batches are scored together
}
CASES = {name: [f"select={name}", *MORE.get(name, []), *settings(name)] for name in ON_TEXT}
CASES["kd"] = ["select=adads", "select.observe=kd"]
TWO = ["data.batch_size=8", "trainer.devices=2"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, teacher_folder, text_folder) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    assert call(tiny(teacher_folder, text_folder, "trainer.max_steps=1", "select=random"), folder).code == 0
    return folder / "artifacts"


def compare(folder: Path) -> None:
    """one/ and two/ below `folder` are the same run but for the last bits of floating point."""
    a, b = (safetensors.torch.load_file(folder / name / "student" / "model.safetensors") for name in ("one", "two"))
    for name in a:
        np.testing.assert_allclose(a[name].numpy(), b[name].numpy(), atol=2e-4, err_msg=name)
    chosen = [tables.read(folder / name / "selector.csv") for name in ("one", "two")]
    assert [r["arm"] for r in chosen[0]] == [r["arm"] for r in chosen[1]]
    assert [r["teacher_queries"] for r in chosen[0]] == [r["teacher_queries"] for r in chosen[1]]
    for r, s in zip(*chosen, strict=True):
        for key in ("observation", "reward"):
            assert (r.get(key, "") == "") == (s.get(key, "") == "")
            if r.get(key):
                assert float(r[key]) == pytest.approx(float(s[key]), abs=2e-4)
    results = [json.loads((folder / name / "result.json").read_text()) for name in ("one", "two")]
    queries = [r["ledger"]["teacher_queries"] for r in results]
    assert queries[0] == queries[1] and results[0]["ledger"]["rows_seen"] == results[1]["ledger"]["rows_seen"]
    scores = [r["metrics"]["student"]["loss"] for r in results]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


# one of each kind; test_devices_2_starts_the_second_rank_itself compares AdaDS by day
@pytest.mark.parametrize("case", each_time(CASES, "kd", "cluster", "committee", "disagreement"))
def test_two_ranks_equal_one_process(case, tmp_path, prepared, teacher_folder, text_folder):
    shutil.copytree(prepared, tmp_path / "artifacts")
    common = tiny(teacher_folder, text_folder, "trainer.accelerator=cpu", "trainer.probes=1", *CASES[case])
    one = call([*common, "hydra.run.dir=one"], tmp_path)
    assert one.code == 0, one.output
    if any(
        "cache" in more for more in CASES[case]
    ):  # cached answers of the first run would leave the second no queries
        shutil.rmtree(tmp_path / "artifacts")
        shutil.copytree(prepared, tmp_path / "artifacts")
    ranks = [o for o in common if "batch_size" not in o]
    two = call([*ranks, *TWO, "hydra.run.dir=two"], tmp_path, ranks=2, trapped=0)
    assert two.code == 0, two.output
    compare(tmp_path)


def test_local_scope_selects_on_each_rank(tmp_path, prepared, teacher_folder, text_folder):
    shutil.copytree(prepared, tmp_path / "artifacts")
    common = tiny(
        teacher_folder, text_folder, "trainer.accelerator=cpu", "select.scope=local", "trainer.max_steps=4", *TWO
    )
    done = call([*common, "select=entropy", "hydra.run.dir=local"], tmp_path, ranks=2)
    assert done.code == 0, done.output
    ledger = json.loads((tmp_path / "local" / "result.json").read_text())["ledger"]
    assert ledger["teacher_queries"]["total"] >= 4 and ledger["teacher_queries"]["total"] < ledger["rows_seen"]


def test_devices_2_starts_the_second_rank_itself(tmp_path, prepared, teacher_folder, text_folder):
    shutil.copytree(prepared, tmp_path / "artifacts")
    common = tiny(teacher_folder, text_folder, "trainer.accelerator=cpu")
    assert call([*common, "hydra.run.dir=one"], tmp_path).code == 0
    ranks = [o for o in common if "batch_size" not in o and "measure_speed" not in o]
    two = command([*ranks, *TWO, "trainer.measure_speed=true", "hydra.run.dir=two"], tmp_path)
    assert two.code == 0, two.output
    sizes = json.loads((tmp_path / "two" / "result.json").read_text())["size"]
    assert all(one["milliseconds"]["1"] > 0 for one in sizes.values()) and sizes.keys() == {
        "student",
        teacher_folder.name,
    }
    assert two.output.count("held-out text") == 1  # rank 0 speaks for both
    compare(tmp_path)


def test_two_ranks_killed_go_on_bit_for_bit(tmp_path, prepared, teacher_folder, text_folder):
    shutil.copytree(prepared, tmp_path / "artifacts")
    common = tiny(teacher_folder, text_folder, "trainer.accelerator=cpu", *TWO)
    assert call([*common, "hydra.run.dir=whole"], tmp_path, ranks=2).code == 0
    for step, when in ((2, "end"), (7, "end")):
        assert call([*common, "hydra.run.dir=killed"], tmp_path, KillAt(step, when), ranks=2).code == -9
    again = call([*common, "hydra.run.dir=killed"], tmp_path, ranks=2)
    assert again.code == 0, again.output
    wanted, found = outcome(tmp_path / "whole"), outcome(tmp_path / "killed")
    for part in wanted:
        assert found[part] == wanted[part], part


def test_ranks_started_from_outside_need_a_common_folder(tmp_path, teacher_folder, text_folder):
    done = call(tiny(teacher_folder, text_folder, *TWO), tmp_path, ranks=2)
    assert done.code in (2, -9) and "hydra.run.dir" in done.output
