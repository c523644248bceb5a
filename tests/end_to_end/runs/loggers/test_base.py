"""kdlab.runs.loggers.base: values that a run logs, read back from the dashboards' files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdlab import dashboard
from kdlab.config.composition import composition, to_plain
from kdlab.config.schema import Config, checked
from kdlab.errors import UserError
from kdlab.plotting import run_figures
from kdlab.runs.loggers import base, content, wandb
from tests.support.wandb_files import Told
from tests.unit.plotting.test_run_figures import METRICS, adads, table

CAVEATS = [
    ("cut_texts", "3 of 4 train texts are cut"),
    ("few_rewards", "2 rewards"),
    ("cut_texts", "2 of 4 dev texts are cut"),
]
KEY = "0123456789abcdef0123456789abcdef01234567"
LEDGER = {
    "teacher_queries": {"total": 900, "per_teacher": {"big": {"total": 600}, "small": {"total": 300}}},
    "flops": {"total": 3e12, "all_data": 9e12},
    "seconds": {"training": 12.5, "all_data": None},
    "speedup": {"queries": 10.7, "flops": 3.0, "wallclock": None},
}


def composed(*overrides: str) -> tuple[Config, dict[str, Any]]:
    config = composition(["+exp=adads_pretrain", *overrides])[0]
    return checked(config), to_plain(config)


def finished(folder: Path) -> dict[str, Any]:
    """A run folder at its end, and its result."""
    adads(folder)
    rows = [{"step": step, "arm": arm} for step, arm in ((0, "entropy"), (60, "margin"), (150, "margin"), (200, "entropy"), (250, "margin"), (270, "margin"))]  # fmt: skip
    table(folder / "selector.csv", ["step", "arm"], rows)
    table(folder / "metrics.csv", METRICS, [{"step": 0, "heldout_loss": 6.0, "teacher_queries": 0}])
    run_figures.draw(folder)
    result = json.loads((folder / "result.json").read_text())
    return result | {
        "metrics": {"student": {"loss": 5.25, "accuracy": 0.5}, "teacher": {"loss": 4.5}},
        "ledger": LEDGER,
        "seed": 1,
        "data": {"source": "WikipediaExcerpt"},
        "command": ["python", "-m", "kdlab.run", f"teachers.path={KEY}"],
        "caveats": [{"kind": kind, "text": text} for kind, text in CAVEATS],
    }


ROWS = [
    ("metrics", {"step": 0, "heldout_loss": 6.0, "teacher_queries": 0, "queries_big": 0, "train_loss": None}),
    ("selector", {"step": 0, "arm": "entropy", "observation": 2.0, "reward": None, "q_entropy": 0.0, "q_margin": 0.5, "teacher_queries": 3}),
    ("knowledge", {"step": 1, "weigh": "ksm", "weight_soft": 0.25}),
    ("metrics", {"step": 5, "heldout_loss": 5.5, "train_loss": 7.0, "teacher_queries": 30, "queries_big": 20}),
]  # fmt: skip


def told(folder: Path, *overrides: str) -> Config:
    """The calls that a run makes to its logger, from start to end."""
    config, resolved = composed(*overrides)
    result = finished(folder)
    logger = base.logger_of(config, folder, resolved)
    for name, row in ROWS:
        logger.log_metrics(content.loggable(name, row), step=row["step"])
    base.complete(config, logger, folder, result)
    return config


# ---- what is told


def test_rows_as_series():
    series = [content.loggable(name, row) for name, row in ROWS]
    assert series == [
        {"heldout/loss": 6.0, "queries/big": 0, "teacher_queries": 0},
        {
            "selector/observation": 2.0, "selector/q_entropy": 0.0, "selector/q_margin": 0.5,
            "selector/arm_entropy": 1.0, "selector/arm_margin": 0.0, "teacher_queries": 3,
        },
        {"knowledge/weight_soft": 0.25},  # it does not know the queries, and must not say none
        {"heldout/loss": 5.5, "train/loss": 7.0, "queries/big": 20, "teacher_queries": 30},
    ]  # fmt: skip


def test_the_schedule_by_window_by_hand(tmp_path):
    rows = [(0, "a"), (10, "b"), (15, "a"), (16, "a"), (17, "a"), (18, "a")]
    table(tmp_path / "selector.csv", ["step", "arm"], [{"step": s, "arm": arm} for s, arm in rows])
    assert content.schedule(tmp_path, 40) == [
        {"step": 20.0, "share_a": 0.75, "share_b": 0.25},
        {"step": 40.0, "share_a": 1.0, "share_b": 0.0},
    ]
    assert content.schedule(tmp_path / "none", 40) == []


def test_scores_and_ledger_in_one_flat_table(tmp_path):
    assert content.summary(finished(tmp_path)) == {
        "result/loss": 5.25, "result/accuracy": 0.5, "result/teacher/loss": 4.5,
        "ledger/teacher_queries/total": 900, "ledger/teacher_queries/per_teacher/big/total": 600,
        "ledger/teacher_queries/per_teacher/small/total": 300, "ledger/flops/total": 3e12, "ledger/flops/all_data": 9e12,
        "ledger/seconds/training": 12.5, "ledger/speedup/queries": 10.7, "ledger/speedup/flops": 3.0,
        "total/teacher_queries": 900, "total/flops": 3e12, "total/seconds": 12.5,
    }  # fmt: skip


def test_secrets_by_their_keys_and_by_their_values(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("KEY", "short")
    node = {"hf_token": "x", "a": [f"https://{KEY}@host", {"path": "hf_abcdefgh", "n": 3}], "short": "short"}
    assert base.redact(node) == {
        "hf_token": "(hidden)",
        "a": ["https://(hidden)@host", {"path": "(hidden)", "n": 3}],
        "short": "short",
    }


def test_a_job_of_a_sweep_is_called_by_what_differs(monkeypatch):
    config, _ = composed("logger=wandb", "seed=3", "select=random")
    monkeypatch.delenv(content.SWEEP, raising=False)
    monkeypatch.delenv(content.DIFFERS, raising=False)
    assert (content.group(config), content.title(config)) == (
        "adads_pretrain Wikipedia excerpt",
        "Wikipedia excerpt random-r0.1-s3",
    )
    monkeypatch.setenv(content.SWEEP, "table1")
    monkeypatch.setenv(content.DIFFERS, "select=random,seed=3")
    assert (content.group(config), content.title(config)) == ("table1", "Wikipedia excerpt select=random,seed=3")
    assert content.group(composed("logger=wandb", "logger.group=mine")[0]) == "mine"


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        (["seed=2"], True),
        (["select=entropy", "select.ratio=0.3"], True),
        (["trainer.threads=1", "logger.mode=online"], True),
        (["trainer.max_steps=60"], False),
        (["optim.lr=1e-3"], False),
        (["data.max_length=32"], False),
        (["student.layers=2"], False),
        (["knowledge=response"], False),
    ],
)
def test_wandb_groups_runs_by_the_settings_in_which_they_compare(changes, same):
    """The mean of a dashboard's curve is over runs whose settings agree; `compared` has them in its config."""
    base_of, other = (content.compared(composed("logger=wandb", "seed=1", *more)[1]) for more in ([], changes))
    assert (base_of == other) == same


# ---- Weights & Biases


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv(content.SWEEP, "table1")
    monkeypatch.setenv(content.DIFFERS, "select=adads,seed=1")


@pytest.mark.usefixtures("offline")
def test_an_offline_wandb_run_holds_all_of_it(tmp_path):
    told(tmp_path, "logger=wandb")
    found = Told(tmp_path)
    assert (found.run.run_group, found.run.display_name, found.run.project) == (
        "table1",
        "Wikipedia excerpt select=adads,seed=1",
        "kdlab",
    )
    assert found.run.run_id == (tmp_path / "wandb" / "id").read_text()  # a resumed run continues in that W&B run
    assert found.config["select"]["name"] == "adads" and found.config["seed"] == 1
    assert found.config["compared"].count(", ") >= 2
    assert found.series("heldout/loss") == [6.0, 5.5] and found.series("queries/big") == [0, 20]
    assert found.series("teacher_queries") == [0, 3, 30]
    assert {found.axes[one] for one in wandb.BY_QUERIES} == {"teacher_queries"}
    assert found.axes["schedule/share_*"] == "schedule/step"
    assert found.series("schedule/step") == [150, 300]  # six decisions, two windows
    np.testing.assert_allclose(found.series("schedule/share_entropy"), [60 / 150, 50 / 150])
    np.testing.assert_allclose(found.series("schedule/share_margin"), [90 / 150, 100 / 150])
    last = found.history[-1]
    assert {name.rsplit("/", 1)[0] for name in last} >= {"figures/schedule", "figures/heldout"}
    (file,) = tmp_path.glob("wandb/offline-run-*/files/media/table/result/*.table.json")
    shown = json.loads(file.read_text())
    row = dict(zip(shown["columns"], shown["data"][0], strict=True))
    assert (row["select"], row["teacher queries"], row["saved, queries"]) == ("adads", 900, 10.7)
    assert found.summary["caveat/cut_texts"] == "3 of 4 train texts are cut; 2 of 4 dev texts are cut"
    assert found.summary["caveat/few_rewards"] == "2 rewards"
    assert found.summary["ledger/flops/total"] == 3e12 and found.summary["result/loss"] == 5.25


@pytest.mark.usefixtures("offline")
def test_no_file_holds_the_key(tmp_path):
    told(tmp_path, "logger=wandb")  # with the key in the environment and in the command that the result names
    Told(tmp_path)  # it has ended
    files = [file for file in (tmp_path / "wandb").rglob("*") if file.is_file()]
    assert len(files) > 5
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


def test_online_without_an_account_is_refused_at_once(tmp_path, monkeypatch):
    config, _ = composed("logger=wandb", "logger.mode=online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="no account was found; set WANDB_API_KEY"):
        base.check(config)
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    base.check(config)
    assert wandb.account()
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.test")
    assert not wandb.account()


# ---- TensorBoard


def test_tensorboard_holds_all_of_it(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told(tmp_path, "logger=tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()

    def series(name: str) -> list[tuple[int, float]]:
        return [(one.step, one.value) for one in events.Scalars(name)]

    assert series("heldout/loss") == [(0, 6.0), (5, 5.5)]
    assert series("by_queries/heldout/loss") == [(0, 6.0), (30, 5.5)]
    assert series("selector/q_margin") == [(0, 0.5)]
    assert series("schedule/share_margin") == [(150, pytest.approx(90 / 150)), (300, pytest.approx(100 / 150))]
    assert series("ledger/teacher_queries/per_teacher/small/total") == [(300, 300.0)]
    assert set(events.Tags()["images"]) >= {"figures/schedule", "figures/heldout"}
    assert (events.Images("figures/schedule")[0].width, events.Images("figures/schedule")[0].height) == (1200, 660)
    (text,) = events.Tensors("result/text_summary")
    assert b"| Wikipedia excerpt | masked-LM loss | adads | 0.1 |" in text.tensor_proto.string_val[0]
    assert [file.name.split(".")[0] for file in (tmp_path / "tensorboard").iterdir()] == ["events"]


def test_tensorboard_that_is_not_installed_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("kdlab.runs.loggers.tensorboard.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tensorboard is not installed; pip install"):
        base.check(composed("logger=tensorboard")[0])


# ---- the workspace


def panels(file: Path) -> dict[str, list[dict[str, Any]]]:
    spec = json.loads(file.read_text())["spec"]["section"]["panelBankConfig"]
    return {section["name"]: [panel["config"] for panel in section["panels"]] for section in spec["sections"]}


def test_the_workspace_without_an_account(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "w.json"
    assert dashboard.main(["--project", "p", "--entity", "e", "--out", str(file)]) == 0
    assert "not sent: no W&B account was found" in capsys.readouterr().out
    found = panels(file)
    assert {panel["xAxis"] for panel in found["Score against teacher queries"]} == {"teacher_queries"}
    assert [panel["metrics"] for panel in found["Score against teacher queries"]][0] == ["heldout/score"]
    shares = found["Schedules by ratio"][0]
    assert (shares["metricRegex"], shares["xAxis"]) == ("^schedule/share_.*", "schedule/step")
    assert not any(panel.get("groupBy") for section in found.values() for panel in section)  # the runs' own groups hold
    grouped = json.dumps(json.loads(file.read_text())["spec"]["section"]["runSets"][0]["grouping"])
    assert all(name in grouped for name in ("compared", "select", "ratio", "adopt", "weigh"))
    costs = {(panel.get("xAxis"), panel.get("yAxis")) for panel in found["Cost against score"]}
    assert {(f"summary:{cost}", "summary:result/score") for cost in ("ledger/flops/total", "total/flops")} <= costs
    first = file.read_text()
    assert dashboard.main(["--project", "p", "--entity", "e", "--out", str(file)]) == 0 and file.read_text() == first


@pytest.mark.usefixtures("offline")
def test_every_series_of_the_workspace_is_one_that_runs_write(tmp_path):
    pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")
    assert dashboard.main(["--out", str(tmp_path / "w.json")]) == 0
    told(tmp_path / "run", "logger=wandb")
    run = Told(tmp_path / "run")
    known = {*run.summary, *(name for row in run.history for name in row)}
    axes = [panel["xAxis"] for section in panels(tmp_path / "w.json").values() for panel in section if "xAxis" in panel]
    assert len(axes) > 10
    assert {axis.removeprefix("summary:") for axis in axes} <= known


@pytest.mark.usefixtures("offline")
def test_the_workspace_is_sent_where_an_account_is(tmp_path, monkeypatch, capsys):
    workspaces = pytest.importorskip("wandb_workspaces.workspaces", reason="wandb-workspaces is not installed")
    sent = []
    monkeypatch.setattr(workspaces.Workspace, "save", lambda self: sent.append((self.entity, self.project)))
    monkeypatch.setattr(workspaces.Workspace, "url", "https://host/e/p", raising=False)
    given = ["--project", "p", "--entity", "e", "--out", str(tmp_path / "w.json")]
    assert dashboard.main(given) == 0
    assert sent == [("e", "p")] and "sent: https://host/e/p" in capsys.readouterr().out
    assert KEY not in (tmp_path / "w.json").read_text()

    def fails(self: Any) -> None:
        raise ValueError("permission denied\nmore")

    monkeypatch.setattr(workspaces.Workspace, "save", fails)
    assert dashboard.main(given) == 2
    assert capsys.readouterr().err == "kdlab: the workspace was not sent: permission denied\n"


def test_a_missing_package_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert dashboard.main(["--out", str(tmp_path / "w.json")]) == 2
    assert capsys.readouterr().err.startswith("kdlab: the dashboard needs wandb-workspaces: pip install")
    assert not (tmp_path / "w.json").exists()


def test_a_run_that_fails_closes_its_logger_and_keeps_its_error():
    closed = []

    class Broken:
        @property
        def experiment(self):
            closed.append(True)
            raise OSError("no space left")

    with pytest.raises(ZeroDivisionError), base.closing(Broken()):
        _ = 1 / 0
    assert closed == [True]
    with base.closing(Broken()):  # a run that ends well is completed
        pass
    assert closed == [True]
