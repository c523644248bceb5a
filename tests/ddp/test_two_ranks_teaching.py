"""Two CPU ranks (gloo) and one process on the same global batch: equal queries, weights of terms and student."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kdlab.storage import tables
from tests.ddp.test_two_ranks import TWO, compare
from tests.ddp.test_two_ranks_tasks import ADAM
from tests.support.cadence import each_time
from tests.support.runs import call, tiny, tiny_task

SMALL = "+teachers.others.small.layers=3"
IDLE = ["select=random", "select.ratio=0.0625"]  # one row of each batch: the other rank has none
KSM = ["knowledge=ksm", "weigh=ksm", "weigh.episodes=1", "weigh.phase=3", "weigh.reward_rows=16"]
RULES = {
    "hard": ["adopt=hard", SMALL],
    "soft": ["adopt=soft", SMALL],
    "ensemble": ["adopt=ensemble", SMALL],
    "assistant": ["adopt=assistant", "knowledge=dekd"],
}
CASES = {
    **{name: ["select=entropy", *rule] for name, rule in RULES.items()},
    **{f"{name}, an idle rank": [*IDLE, *rule] for name, rule in RULES.items()},
    "uncertainty": ["select=entropy", "weigh=uncertainty", "knowledge=dynamickd_objective"],
    "uncertainty, an idle rank": [*IDLE, "weigh=uncertainty", "knowledge=dynamickd_objective"],
    "random_hard": ["select=random", "weigh=random_hard"],
    "ksm": ["select=entropy", *KSM],
    "ksm, an idle rank": [*IDLE, *KSM],
    "specialists": ["select=entropy", "teachers.split=2", "adopt=every", "knowledge=cfl"],
    "specialists, an idle rank": [*IDLE, "teachers.split=2", "adopt=every", "knowledge=cfl"],
    "muki": ["select=random", "teachers.split=2", "adopt=muki_hard", "knowledge=muki"],
    "labels on all": ["select=entropy", "knowledge.labels_on=all", *RULES["hard"]],
    "labels on all, weighed": ["select=entropy", "knowledge.labels_on=all", "weigh=uncertainty",
                               "knowledge=dynamickd_objective"],
}  # fmt: skip
COMMON = ["trainer.accelerator=cpu", "trainer.probes=0", "trainer.evaluate_every=8", "teachers.sanity=false", ADAM]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory, teacher_folder, four_classes) -> Path:
    """A store with the teachers of all cases."""
    folder = tmp_path_factory.mktemp("prepared")
    for more in (RULES["hard"], RULES["assistant"], ["teachers.split=2", "adopt=every"]):
        given = tiny_task(teacher_folder, four_classes, *COMMON, "select=random", "trainer.max_steps=1", *more)
        done = call([*given, "overwrite=true", "hydra.run.dir=first"], folder)
        assert done.code == 0, done.output
    return folder / "artifacts"


def assert_same_knowledge(folder: Path) -> None:
    """The rules' decisions of each step, as means over the global batch."""
    one, two = (tables.read(folder / name / "knowledge.csv") for name in ("one", "two"))
    assert len(one) == len(two) == 8
    for r, s in zip(one, two, strict=True):
        assert r.keys() == s.keys()
        for name, value in r.items():
            if name in ("adopt", "weigh") or not value:
                assert s[name] == value, name
            else:
                assert float(s[name]) == pytest.approx(float(value), abs=2e-4), name


def assert_two_ranks_equal(folder: Path, common: list[str]) -> None:
    """One process, then two ranks, which find all that the one has made: a module that learns to weigh, too."""
    one = call([*common, "hydra.run.dir=one"], folder)
    assert one.code == 0, one.output
    ranks = [o for o in common if not o.startswith("data.batch_size")]
    two = call([*ranks, *TWO, "hydra.run.dir=two"], folder, ranks=2)
    assert two.code == 0 and "making" not in two.output, two.output
    compare(folder)
    assert_same_knowledge(folder)
    results = [json.loads((folder / name / "result.json").read_text()) for name in ("one", "two")]
    asked = [result["ledger"]["teacher_queries"]["per_teacher"] for result in results]
    assert asked[0] == asked[1] and asked[0]


@pytest.mark.parametrize(
    "case", each_time(CASES, "ksm", "assistant")
)  # by day hard: of an assistant, and on text below
def test_two_ranks_equal_one_process(case, tmp_path, artifacts, teacher_folder, four_classes):
    shutil.copytree(artifacts, tmp_path / "artifacts")
    assert_two_ranks_equal(tmp_path, tiny_task(teacher_folder, four_classes, *COMMON, *CASES[case]))


TEXT = {
    "hard": ["select=entropy", "adopt=hard", SMALL, "teachers.prepare.max_steps=2", "teachers.prepare.max_length=32"],
    "uncertainty, an idle rank": [*IDLE, "weigh=uncertainty", "weigh.arms.uncertainty.uncertain=[cosine]"],
    "ksm": ["select=random", *KSM],
}


@pytest.mark.parametrize("case", each_time(TEXT, "hard"))
def test_two_ranks_equal_one_process_on_text(case, tmp_path, teacher_folder, text_folder):
    assert_two_ranks_equal(tmp_path, tiny(teacher_folder, text_folder, *COMMON, *TEXT[case]))
