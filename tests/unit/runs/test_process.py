"""Jobs: skipped when finished, one process at a time in a folder, also after its parent's end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

from kdlab.runs import process
from kdlab.storage import locks


def finish(folder) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"status": "finished"}))


def test_a_finished_job_is_skipped_and_a_failed_one_reported(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setenv("WORLD_SIZE", "2")

    def launch(overrides, environment, lock):
        asked.append((list(overrides), environment.get("WORLD_SIZE")))
        return 1

    monkeypatch.setattr(process, "run_and_wait", launch)
    folder = tmp_path / "it's" / "seed=1"
    assert not process.run_unless_finished("1 of 1", ["a=1"], folder)
    assert asked == [(["a=1", f'hydra.run.dir="{tmp_path}/it\'s/seed=1"'], None)]
    finish(folder)
    assert process.run_unless_finished("1 of 1", ["a=1"], folder) and len(asked) == 1
    assert "finished, skipped" in capsys.readouterr().out
    assert [p.name for p in folder.rglob("*")] == ["result.json"]  # no lock is left


def test_a_job_waits_for_the_one_that_outlived_its_suite(tmp_path, monkeypatch, capsys):
    """A child that inherits the lock keeps it until the child ends."""
    folder, children = tmp_path / "seed=1", []

    def launch(overrides, environment, lock):
        sleeper = "import sys; sys.stdin.read()"
        child = subprocess.Popen([sys.executable, "-c", sleeper], stdin=subprocess.PIPE, pass_fds=[lock])
        children.append(child)
        return -9  # as if this process were killed now

    monkeypatch.setattr(process, "run_and_wait", launch)
    lock = locks.lock_folder(folder)
    assert lock is not None
    launch([], {}, lock.descriptor)
    os.link(lock.path, tmp_path / "kept")  # a killed process does not remove the file
    lock.release()
    folder.mkdir(exist_ok=True)
    os.rename(tmp_path / "kept", lock.path)
    waiting = threading.Thread(target=process.run_unless_finished, args=("again", [], folder))
    waiting.start()
    time.sleep(0.3)
    assert waiting.is_alive() and len(children) == 1
    finish(folder)
    children[0].communicate()
    waiting.join(10)
    said = capsys.readouterr().out
    assert not waiting.is_alive() and len(children) == 1
    assert f"process {os.getpid()} on " in said and "is at work" in said and "finished, skipped" in said
