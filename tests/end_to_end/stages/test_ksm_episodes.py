"""Episodes of a knowledge selection module: passes over the rows, the ledger of all of them, on text and on a task."""

from __future__ import annotations

import json

import pytest

from kdlab.storage.files import read_json
from tests.conftest import write_text
from tests.end_to_end.test_teaching import Witness
from tests.support.runs import call, tiny

ONE_PASS = ["trainer.max_steps=null", "trainer.max_epochs=1", "trainer.probes=0", "trainer.evaluate_every=1000"]
KSM = ["weigh=ksm", "knowledge=ksm", "weigh.phase=3", "weigh.reward_rows=16", "select=all"]


@pytest.mark.parametrize(("passes", "episodes"), [(1, 2), (2, 3)])
def test_episodes_on_text_start_again_and_take_the_passes_of_the_run(passes, episodes, teacher_folder, tmp_path):
    seen = tmp_path / "seen.jsonl"
    given = tiny(teacher_folder, write_text(tmp_path / "text", 40), *KSM, *ONE_PASS)
    more = [f"weigh.episodes={episodes}", f"trainer.max_epochs={passes}", f"hydra.run.dir={tmp_path / 'run'}"]
    done = call([*given, *more, f"artifacts={tmp_path / 'artifacts'}"], tmp_path, Witness(seen))
    assert done.code == 0, done.output
    trainings: list[tuple[list[int], list[int]]] = []
    for line in map(json.loads, seen.read_text().splitlines()):
        if "aside" in line:
            trainings.append((line["aside"], []))
    number, rows = -1, read_json(tmp_path / "run" / "result.json")["data"]
    train = rows["sequences"] - rows["heldout_sequences"]
    lines = [json.loads(line) for line in seen.read_text().splitlines()]
    trained = [row for line in lines if "trained" in line for row in line["trained"]]
    for aside, found in trainings:
        number += 1
        kept = [row for row in range(train) if row not in aside]
        size = passes * len(kept)
        found += trained[:size]
        trained = trained[size:]
        assert sorted(found) == sorted(passes * kept), f"episode {number + 1}"
    assert len(trainings) == episodes
    assert sorted(trained) == sorted(passes * list(range(train)))  # the training that counts
    (cost,) = (read_json(file) for file in (tmp_path / "artifacts" / "ksm").glob("*/cost.json"))
    # masks are new in each pass of each episode: no input comes twice
    assert cost["unique"] == cost["queries"] == episodes * passes * (train - 16)
