"""A command whose output nobody can take goes on to its end, with its own exit code and nothing on the other stream."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from kdlab.runtime.streams import outlive_readers
outlive_readers()
outlive_readers()
for number in range(20_000):
    print(number)
    print(number, file=sys.stderr, flush=True)
open("end", "w").write(f"{sys.stdout.encoding} {sys.stdout.isatty()}")
sys.exit(3)
"""


@pytest.mark.parametrize("flags", [[], ["-u"]], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("output", ["closed", "full"])
def test_a_process_outlives_its_readers(output: str, flags: list[str], tmp_path: Path):
    if output == "full" and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    command = [sys.executable, *flags, "-c", CODE]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3]), "PYTHONIOENCODING": "utf-8"}
    if output == "full":
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=full, stderr=full, check=False)
        assert done.returncode == 3
    else:
        given = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, **given) as process:
            assert process.stdout is not None and process.stdout.readline() == b"0\n"
            process.stdout.close()  # | head -1
            assert process.wait(60) == 3
    assert (tmp_path / "end").read_text() == "utf-8 False"


def test_what_can_be_printed_is_printed(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == done.stderr == "".join(f"{number}\n" for number in range(20_000))


def test_a_stream_that_a_caller_has_put_in_place_stays(monkeypatch, capsys):
    from kdlab.runtime import streams

    before = sys.stdout, sys.stderr
    streams.outlive_readers()
    assert (sys.stdout, sys.stderr) == before
