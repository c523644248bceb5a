"""Groups of runs go by the rows that were read and the settings that were used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdlab.reporting.comparison import compare
from kdlab.reporting.seed_groups import Run, grouped, read
from tests.support.made_runs import made_run

SOURCE = {"_target_": "kdlab.data.tasks.wordnet.WordNetGlosses"}


def on_rows(folder: Path, seed: int, rows: str, config: dict[str, Any], **more: Any) -> None:
    """A run on rows with a fingerprint; `config`: its `data` group."""
    data = {"stage": "finetune", "task": None, "batch_size": 64, **config}
    facts = {"task": None, "path": data.get("path"), "source": "TaskFolder", "fingerprint": rows * 64}
    made_run(folder, 0.6 + seed / 100, seed, changes={"data": data}, results={"data": facts}, **more)


def groups_of(home: Path) -> dict[str, list[list[int]]]:
    """The seeds of each group, by task."""
    return {one.task: [sorted(line.values) for line in one.lines] for one in compare(read([home])[0])}


def names_of(runs: list[Run]) -> list[str]:
    return [group.name for group in grouped(runs)]


def test_one_data_set_is_one_group_beside_an_unused_source(tmp_path):
    """`data.path=X` leaves the experiment's source in config.yaml, `data=glue data.path=X` has none."""
    on_rows(tmp_path / "1", 1, "a", {"path": "/x/mine", "source": SOURCE})
    on_rows(tmp_path / "2", 2, "a", {"path": "/x/mine", "source": None})
    on_rows(tmp_path / "3", 3, "a", {"path": "/x/mine"})
    assert groups_of(tmp_path) == {"mine": [[1, 2, 3]]}


def test_one_data_set_by_two_paths_is_one_task_and_one_group(tmp_path):
    on_rows(tmp_path / "1", 1, "a", {"path": "/x/mine"})
    on_rows(tmp_path / "2", 2, "a", {"path": "/y/copy"})
    assert groups_of(tmp_path) == {"mine": [[1, 2]]}


def test_two_data_sets_of_one_name_are_two_tasks(tmp_path):
    on_rows(tmp_path / "1", 1, "a", {"path": "/x/mine"})
    on_rows(tmp_path / "2", 2, "b", {"path": "/y/mine"})
    assert groups_of(tmp_path) == {"mine (rows aaaaaaaa)": [[1]], "mine (rows bbbbbbbb)": [[2]]}


def test_other_rows_of_an_official_task_are_another_group_with_a_name(tmp_path):
    for number, (rows, path) in enumerate((("a", "/x/rte"), ("b", "/y/rte")), 1):
        facts = {"task": "rte", "path": path, "source": "TaskFolder", "fingerprint": rows * 64}
        made_run(tmp_path / path[1], 0.5, number, task="rte", changes={"data.path": path}, results={"data": facts})
    assert groups_of(tmp_path) == {"rte": [[1], [2]]}
    assert names_of(read([tmp_path])[0]) == ["data.path=/x/rte", "data.path=/y/rte"]


def test_rows_that_changed_under_one_path_are_told_apart_by_their_hash(tmp_path):
    for number, rows in enumerate("ab", 1):
        facts = {"task": "rte", "path": "/x", "source": "TaskFolder", "fingerprint": rows * 64}
        made_run(tmp_path / rows, 0.5, number, task="rte", changes={"data.path": "/x"}, results={"data": facts})
    assert names_of(read([tmp_path])[0]) == ["fingerprint=aaaaaaaa", "fingerprint=bbbbbbbb"]


def test_names_do_not_tell_of_paths_that_made_no_difference(tmp_path):
    for number, (path, layers) in enumerate((("/x/mine", 2), ("/y/copy", 3)), 1):
        on_rows(tmp_path / str(number), 1, "a", {"path": path})
        file = tmp_path / str(number) / "config.yaml"
        file.write_text(file.read_text().replace("layers:\n  - 0\n  - 2\n  - 4", f"layers: {layers}"))
    assert names_of(read([tmp_path])[0]) == ["layers=2", "layers=3"]


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), ([1, 2], [1.0, 2.0])])
def test_a_number_is_the_same_however_it_is_written(tmp_path, one, other):
    key = "knowledge.terms.soft.term.temperature"
    made_run(tmp_path / "1", 0.6, 1, changes={key: one})
    made_run(tmp_path / "2", 0.6, 2, changes={key: other})
    (group,) = grouped(read([tmp_path])[0])
    assert sorted(group.runs) == [1, 2]


def test_a_setting_that_newer_versions_write_is_at_its_default_in_older_runs(tmp_path):
    made_run(tmp_path / "1", 0.6, 1)
    made_run(tmp_path / "2", 0.6, 2, changes={"student.hidden": None, "trainer.accumulate": 1, "data.order": "random"})
    made_run(tmp_path / "3", 0.6, 3, changes={"trainer.accumulate": 2})
    assert [sorted(group.runs) for group in grouped(read([tmp_path])[0])] == [[1, 2], [3]]


def test_teachers_settings_are_not_named_for_groups_without_one(tmp_path):
    made_run(tmp_path / "1", 0.6, select="all", ratio=1.0, changes={"teachers.finetune": {"lr": 0.1}})
    made_run(
        tmp_path / "2", 0.6, select="all", ratio=1.0, knowledge="labels", changes={"teachers.finetune": {"lr": 0.1}}
    )
    assert names_of(read([tmp_path])[0]) == ["knowledge=response", "knowledge=labels"]
