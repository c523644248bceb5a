"""What is finished stays finished: a figure, a logger, a closed pipe, a late signal is a warning in its result.json at most."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from kdlab.errors import UserError
from kdlab.runs import failures, single
from kdlab.runs.loggers import base
from kdlab.runtime.signals import Stopped
from tests.support.runs import call, outcome

RUN = "hydra.run.dir=run"


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("boom\nand more")


def refused(*_: Any, **__: Any) -> Any:
    raise UserError("selector.csv line 3 has 1 cells")


def no_figures() -> None:
    single.run_figures.draw = refused  # pyright: ignore[reportAttributeAccessIssue]


def no_logger() -> None:
    base.complete = broken  # pyright: ignore[reportAttributeAccessIssue]


def no_table() -> None:
    single.beside_random = broken  # pyright: ignore[reportAttributeAccessIssue]


def ctrl_c_at_the_table() -> None:
    single.table = lambda *_: os.kill(os.getpid(), signal.SIGINT)  # pyright: ignore[reportAttributeAccessIssue]


def no_reader() -> None:
    """Nobody reads the output from the start: `kdlab.run ... | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    for stream in (1, 2):
        os.dup2(writer, stream)


@pytest.mark.parametrize(
    ("fault", "warnings"),
    [
        (no_figures, ["figures: selector.csv line 3 has 1 cells"]),
        (no_logger, ["logger=csv: RuntimeError: boom"]),
        (no_table, ["the closing table: RuntimeError: boom"]),
        (ctrl_c_at_the_table, []),
        (no_reader, []),
    ],
)
def test_what_fails_after_the_end_is_a_warning(
    fault: Callable[[], None], warnings, undisturbed, short_command, tmp_path
):
    artifacts, figures = f"artifacts={undisturbed / 'artifacts'}", f"figures={fault is no_figures}"
    done = call([*short_command, RUN, artifacts, figures], tmp_path, fault)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (done.code, result["status"], result["warnings"]) == (0, "finished", warnings), done.output
    assert outcome(tmp_path / "run") == outcome(undisturbed / "run") and "Traceback" not in done.output
    for warning in warnings if fault is not no_table else ():
        assert f"kdlab: warning: {warning}" in done.output


@pytest.mark.parametrize("late", [Stopped(signal.SIGTERM), KeyboardInterrupt(), RuntimeError("boom")])
def test_a_failure_after_the_results_does_not_replace_them(late, tmp_path):
    finished = {"status": "finished", "metrics": {"student": {"loss": 1.0}}}
    with failures.recorded_failure(tmp_path, {"run": "x"}, None, 1, True):
        (tmp_path / "result.json").write_text(json.dumps(finished))
        raise late
    found = json.loads((tmp_path / "result.json").read_text())
    assert len(found.pop("warnings")) == 1 and found == finished


def test_the_death_of_a_rank_that_was_dismissed_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "POLL", 0.05)
    monkeypatch.setattr(failures, "HANG_TIMEOUT", 0.1)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("the run was ended"))
    import subprocess
    import time
    from types import SimpleNamespace

    launcher = SimpleNamespace(procs=[])
    with failures.recorded_failure(tmp_path, {}, launcher, 2, True) as ranks:
        ranks.dismiss()
        launcher.procs.append(subprocess.Popen(["false"]))
        time.sleep(0.5)  # figures are drawn
    assert launcher.procs[0].wait() == 1 and not list(tmp_path.iterdir())
