"""The caveats of a run: printed once, kept once, on the first rank, over a resume."""

from __future__ import annotations

import io

import pytest
from tqdm import tqdm

from kdlab.runtime.caveats import Caveats
from kdlab.types import Caveat

CUT, FEW = Caveat("cut_texts", "3 of 4 texts are cut"), Caveat("few_rewards", "2 rewards for 5 arms")
ENTRIES = [{"kind": "cut_texts", "text": CUT.text}, {"kind": "few_rewards", "text": FEW.text}]


def test_each_caveat_is_printed_and_kept_once_and_none_before_the_run_begins(capsys: pytest.CaptureFixture[str]):
    caveats, saved = Caveats(), list[int]()
    caveats.add(CUT)
    assert capsys.readouterr().err == ""
    caveats.open()
    caveats.save = lambda: saved.append(len(caveats.entries))
    for caveat in (CUT, FEW, FEW):
        caveats.add(caveat)
    captured = capsys.readouterr()
    assert captured.err == f"kdlab: caveat: {CUT.text}\nkdlab: caveat: {FEW.text}\n" and captured.out == ""
    assert caveats.entries == ENTRIES and saved == [2]


def test_a_resumed_run_keeps_the_earlier_caveats_in_their_order_and_prints_only_new_ones(
    capsys: pytest.CaptureFixture[str],
):
    caveats = Caveats()
    kept = caveats.entries
    caveats.open(ENTRIES)
    caveats.add(FEW)
    caveats.add(CUT)
    assert capsys.readouterr().err == "" and kept == ENTRIES
    caveats.add(Caveat("cut_texts", "a\nb"))
    assert capsys.readouterr().err == "kdlab: caveat: a\\nb\n" and kept[2:] == [{"kind": "cut_texts", "text": "a\\nb"}]


def test_other_ranks_keep_caveats_and_print_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("LOCAL_RANK", "1")
    caveats = Caveats()
    caveats.open()
    caveats.add(CUT)
    assert capsys.readouterr().err == "" and caveats.entries == ENTRIES[:1]


def test_a_caveat_beside_a_progress_bar_has_a_line_of_its_own(capsys: pytest.CaptureFixture[str]):
    screen = io.StringIO()
    caveats = Caveats()
    caveats.open()
    with pytest.MonkeyPatch.context() as patch, tqdm(total=2, file=screen) as bar:
        patch.setattr("sys.stderr", screen)
        bar.refresh()
        caveats.add(CUT)
    lines = screen.getvalue().replace("\r", "\n").split("\n")
    assert f"kdlab: caveat: {CUT.text}" in lines
