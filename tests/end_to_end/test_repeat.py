"""`python -m kdlab.run --repeat RUN`: the same bits, or what differs and why; exit code 0 or 1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import yaml

from kdlab.config.composition import composition, to_plain
from kdlab.config.schema import checked
from kdlab.runs import repeat
from kdlab.runs.environment import differing
from kdlab.runs.repeat import compared, verdict
from kdlab.testing.tiny import write_decoder
from tests.conftest import write_task
from tests.support.runs import ChildResult, call, tiny, tiny_causal, tiny_task

# a bandit on text; decoders. Labelled rows: test_old_runs.py. All others: tests/nightly/test_same_bits.py
SAMPLE = ["adads_pretrain", "causal_pretrain"]


def assert_repeats(exp: str, folder: Path, teacher: Path, text: Path, rows: Path, *more: str) -> ChildResult:
    """Do an experiment at tiny size and repeat it."""
    config = checked(composition([f"+exp={exp}"])[0])
    if config.teachers.split:
        rows = write_task(folder / "rows", classes=4)
    if config.data.stage == "causal":
        given = tiny_causal(write_decoder(folder / "decoder"), text)
    else:
        given = tiny(teacher, text) if config.data.stage == "pretrain" else tiny_task(teacher, rows)
    given = [f"+exp={exp}", *(a for a in given if not a.startswith("+exp=")), "hydra.run.dir=first", *more]
    first = call(given, folder, timeout=600)
    assert first.code == 0, first.output
    again = call(["--repeat", "first"], folder, timeout=600)
    assert again.code == 0, again.output
    assert "the same bits as first" in again.output.splitlines()[-1]
    assert "the recorded environment is the same" in again.output.splitlines()[-1]
    (made,) = (folder / "outputs" / "repeats" / config.name).iterdir()
    before, after = (
        safetensors.torch.load_file(run / "student" / "model.safetensors") for run in (folder / "first", made)
    )
    assert {n: t.numpy().tobytes() for n, t in before.items()} == {n: t.numpy().tobytes() for n, t in after.items()}
    return again


@pytest.mark.parametrize("exp", SAMPLE)
def test_the_same_bits_twice(exp, tmp_path, teacher_folder, text_folder, task_folder):
    assert_repeats(exp, tmp_path, teacher_folder, text_folder, task_folder)
    result = json.loads((tmp_path / "first" / "result.json").read_text())
    assert result["artifacts"]
    for name in result["artifacts"]:
        assert (tmp_path / "artifacts" / name / "manifest.json").is_file()
    assert {"python", "torch", "kdlab", "safetensors"} <= result["versions"].keys()
    assert {"name", "threads", "kind"} <= result["devices"].keys()
    if exp == "adads_pretrain":
        assert_other_text_is_told(tmp_path, text_folder)


def assert_other_text_is_told(tmp_path: Path, text_folder: Path) -> None:
    """The data of a run have changed since: what differs is named, and why."""
    text = shutil.copytree(text_folder, tmp_path / "other")
    for number in range(10):
        (text / f"{number:03}.txt").write_text("ba ke lo mi nu ra se ti vo zu " * 9)
    config = tmp_path / "first" / "config.yaml"
    config.write_text(config.read_text().replace(str(text_folder), str(text)))
    other = call(["--repeat", "first", "hydra.run.dir=second"], tmp_path)
    assert other.code == 1, other.output
    line = other.output.splitlines()[-1]
    for said in ("differs from first: weights (", "metrics.csv from line", "scores of student", "data fingerprint "):
        assert said in line
    assert call(["--repeat", "first", "hydra.run.dir=second"], tmp_path).code == 2  # a finished run is kept


def test_what_is_no_run_is_refused_in_one_line(tmp_path):
    for arguments in (["nowhere"], [], ["a", "b"], ["a", "seed=2"]):
        done = call(["--repeat", *arguments], tmp_path)
        assert done.code == 2
        assert done.output.startswith("kdlab: ")
        assert len(done.output.splitlines()) == 1


def ledger_of(queries: int, seconds: float, speedup: float) -> dict[str, object]:
    return {
        "teacher_queries": {"total": queries},
        "flops": {"total": 5},
        "seconds": {"training": seconds},
        "speedup": {"wallclock": speedup},
    }


def made_up(folder: Path, **changes: object) -> Path:
    """A finished run folder of two tensors and one table."""
    import torch

    (folder / "student").mkdir(parents=True)
    weights = {"a": torch.zeros(3), "b": torch.ones(2, 2)}
    result = {
        "status": "finished",
        "metrics": {"student": {"loss": 1.5}},
        "ledger": ledger_of(7, 1.0, 2.0),
        "seed": 1,
        "select": {"name": "random", "ratio": 0.1},
        "data": {"source": "TaskFolder"},
        "versions": {"torch": "2.6.0"},
        "git": "abc",
    }
    rows = "step,loss,seconds\n0,2.0,0.1\n1,1.0,0.2\n"
    safetensors.torch.save_file(changes.pop("weights", weights), folder / "student" / "model.safetensors")  # type: ignore
    (folder / "student" / "config.json").write_text("{}")
    (folder / "metrics.csv").write_text(str(changes.pop("rows", rows)))
    (folder / "result.json").write_text(json.dumps({**result, **changes}))
    return folder


def test_every_kind_of_difference_is_named(tmp_path):
    import torch

    one = made_up(tmp_path / "one")
    same = made_up(tmp_path / "same", ledger=ledger_of(7, 9.0, 1.0), rows="step,loss,seconds\n0,2.0,5\n1,1.0,6\n")
    assert list(compared(one, same)) == []
    assert "the same bits as one:" in verdict(Path("one"), [], [])
    cases = {
        "weights (1 of 2 tensors, by 5.0e-01 at most)": {
            "weights": {"a": torch.zeros(3), "b": torch.tensor([[1.0, 1.5], [1.0, 1.0]])}
        },
        "weights (1 of 2 tensors, by 0.0e+00 at most)": {"weights": {"a": -torch.zeros(3), "b": torch.ones(2, 2)}},
        "weights (1 of 2 tensors, by nan at most)": {"weights": {"a": torch.zeros(4), "b": torch.ones(2, 2)}},
        "names of the weights (only in one: b, c)": {"weights": {"a": torch.zeros(3), "c": torch.ones(2, 2)}},
        "teacher_queries of the ledger": {"ledger": ledger_of(8, 1.0, 2.0)},
        "scores of teacher": {"metrics": {"student": {"loss": 1.5}, "teacher": {"loss": 1.0}}},
        "metrics.csv from line 3 on (loss)": {"rows": "step,loss,seconds\n0,2.0,0.1\n1,1.5,0.2\n"},
        "metrics.csv (2 and 1 rows)": {"rows": "step,loss,seconds\n0,2.0,0.1\n"},
    }
    for number, (said, changes) in enumerate(cases.items()):
        assert list(compared(one, made_up(tmp_path / str(number), **changes))) == [said]
    (one / "selector.csv").write_text("step\n")
    assert list(compared(one, same)) == ["selector.csv (in one of them alone)"]


def test_differences_of_the_environment():
    before = {"versions": {"torch": "2.6.0", "numpy": "2.0"}, "git": "abc", "devices": {"threads": 2}}
    after = {"versions": {"torch": "2.7.0", "numpy": "2.0"}, "git": "abc-dirty"}
    assert differing(before, before) == []
    assert differing(before, after) == [
        "torch 2.6.0 -> 2.7.0",
        "git revision abc -> abc-dirty",
        "device {'threads': 2} -> not recorded",
    ]
    teachers = [{"name": "a", "made_of": "1" * 64}, {"name": "b", "made_of": "2" * 64}]
    other = [teachers[0], {"name": "b", "made_of": "3" * 64}]
    assert differing({"teachers": teachers}, {"teachers": other}) == [
        f"teachers 2 made_of {'2' * 57}... -> {'3' * 57}..."
    ]
    assert differing({"teachers": [1]}, {"teachers": [1, 2]}) == ["teachers [1] -> [1, 2]"]


def test_a_repetition_under_a_budget_of_time_says_that_bits_may_differ(tmp_path, monkeypatch, capsys):
    """The run itself is left out: another finished run stands for it."""
    one, other = made_up(tmp_path / "one"), made_up(tmp_path / "other", rows="step,loss,seconds\n0,2.0,0.1\n")

    def start(*_: object) -> int:
        monkeypatch.setenv(repeat.FOLDER, str(other))
        return 0

    monkeypatch.setattr(repeat.single, "start", start)
    for budget, timed in (("budget.seconds=60", True), ("budget.queries=60", False)):
        composed = composition(["+exp=adads_finetune", budget])[0]
        (one / "config.yaml").write_text(yaml.safe_dump(to_plain(composed)))
        assert repeat.main([str(one)]) == 1
        said = capsys.readouterr().out.splitlines()
        assert ["its steps follow from the clock" in line for line in said] == ([True, True] if timed else [False])
        assert said[-1].startswith(f"differs from {one}: metrics.csv (2 and 1 rows)")
