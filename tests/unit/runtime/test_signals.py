"""Signals: obeyed where they arrive, or kept while the run is patient; the second one ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from kdlab.runtime import signals
from kdlab.runtime.signals import Stopped


@pytest.mark.parametrize(("signum", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_a_signal_is_obeyed_where_it_arrives(signum, code, name):
    before = signal.getsignal(signum)
    with pytest.raises(Stopped) as caught, signals.handling():
        os.kill(os.getpid(), signum)
        time.sleep(1)
    assert caught.value.code == code and str(caught.value).startswith(f"stopped by {name}; the same command resumes")
    assert signal.getsignal(signum) is before


def test_patience_keeps_a_signal_until_the_block_ends(capfd):
    with signals.handling(), pytest.raises(Stopped), signals.defer_signals():
        assert signals.pending() == 0 and signals.deferring()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.pending() == signal.SIGTERM
    assert not signals.deferring()
    assert "SIGTERM: the step is ended and saved" in capfd.readouterr().err
    with signals.handling():
        assert signals.pending() == 0  # another run in this process starts anew


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell has it for background jobs
    try:
        with signals.handling():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_signal_ends_the_process_at_once():
    code = (
        "import os, signal, time\nfrom kdlab.runtime import signals\n"
        "with signals.handling(), signals.defer_signals():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 143 and time.monotonic() - started < 50
    assert "Traceback" not in done.stderr


def test_the_line_says_what_is_saved():
    assert str(Stopped(signal.SIGTERM, 12)) == (
        "stopped by SIGTERM after step 12, which is saved; the same command resumes from the last checkpoint"
    )
