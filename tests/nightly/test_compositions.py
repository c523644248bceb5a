"""All pairs of choices of different groups, and all triples of choices that differ in kind: trained, killed, gone on with.

Some 900 combinations, about an hour on one core: `pytest -m nightly -n 2 tests/nightly/test_compositions.py`. Which of them
are contradictions, and the requirements of the others, are in tests/end_to_end/test_teaching.py.
"""

from __future__ import annotations

import itertools

import pytest

from tests.ddp.test_two_ranks import TWO, compare
from tests.ddp.test_two_ranks_tasks import ADAM
from tests.ddp.test_two_ranks_teaching import assert_same_knowledge
from tests.end_to_end.test_finetune import Lab
from tests.end_to_end.test_teaching import (
    FEW,
    GROUPS,
    assert_goes_on,
    assert_trains,
    command,
    contradiction,
    covering,
    needs,
    title,
)
from tests.support.runs import call, tiny_task

COMBINATIONS = {title(one): one for one in (*covering(2), *covering(3, alike=True))}
OTHERS = {title(one): one for one in covering(1, seed=1)}
KILLS = [(2, "start"), (4, "end"), (5, "start"), (7, "end")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory, teacher_folder, four_classes) -> Lab:
    return Lab(tmp_path_factory.mktemp("compositions"), teacher_folder, four_classes)


@pytest.mark.parametrize("number", range(len(COMBINATIONS)), ids=COMBINATIONS)
def test_every_combination_trains_and_goes_on_after_it_was_killed(number, lab):
    one = list(COMBINATIONS.values())[number]
    assert_trains(lab, one)
    assert_goes_on(lab, one, *KILLS[number % len(KILLS)])


@pytest.mark.parametrize("which", OTHERS)
def test_two_ranks_equal_one_process(which, lab):
    """Each choice once more, beside other partners than in the default suite."""
    folder = lab.folder / "ranks" / which
    more = [*command(OTHERS[which]), *FEW, ADAM, "trainer.accelerator=cpu", f"artifacts={lab.folder / 'artifacts'}"]
    common = tiny_task(lab.teacher, lab.rows, *more)
    one = call([*common, "hydra.run.dir=one"], folder)
    assert one.code == 0, one.output
    ranks = [o for o in common if not o.startswith("data.batch_size")]
    two = call([*ranks, *TWO, "hydra.run.dir=two"], folder, ranks=2)
    assert two.code == 0, two.output
    compare(folder)
    if (folder / "one" / "knowledge.csv").exists():
        assert_same_knowledge(folder)


def test_the_combinations_are_what_they_are_called():
    """Every pair of choices is in some combination, or no combination of the two is free of contradictions."""
    groups = list(GROUPS)
    whole = [dict(zip(groups, row, strict=True)) for row in itertools.product(*GROUPS.values())]
    possible = [one for one in whole if contradiction(one) is None]

    def met(rows: list[dict[str, str]], size: int, alike: bool) -> set[tuple[tuple[str, object], ...]]:
        return {
            tuple((group, needs(group, row[group]) if alike else row[group]) for group in some)
            for row in rows
            for some in itertools.combinations(groups, size)
        }

    rows = list(COMBINATIONS.values())
    assert met(rows, 2, False) == met(possible, 2, False)
    assert met(rows, 3, True) >= met(possible, 3, True)
