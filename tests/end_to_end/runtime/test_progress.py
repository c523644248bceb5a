"""Progress of long steps: a line a minute where there is no terminal, a bar where there is one. The clock is a test's."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from datasets.utils import tqdm as datasets_bars

from kdlab.artifacts import main
from kdlab.data.augmentation.tinybert import AugmentationRecipe, augmented
from kdlab.data.tasks.rows import LabelledRow, TaskData
from kdlab.data.text.sources import TextFolder
from kdlab.models.encoder import Encoder
from kdlab.models.loading import load_masked_lm
from kdlab.modules import evaluation as scoring
from kdlab.modules.row_pool import row_pool
from kdlab.reporting.report import build_report
from kdlab.runs.prepare import quiet_libraries
from kdlab.runtime import progress
from kdlab.runtime.progress import ProgressBar, redirect_tqdm, track
from kdlab.storage.artifacts import ArtifactStore
from kdlab.types import Batch, TaskShape
from tests.conftest import generated_text, tiny_tokenizer
from tests.support.made_runs import made_run
from tests.support.runs import Hurried, call, tiny


class Clock:
    """A clock that advances when the test sets it, or by `each` seconds at every reading."""

    def __init__(self, each: float = 0.0) -> None:
        self.now, self.each = 1000.0, each

    def __call__(self) -> float:
        self.now += self.each
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "clock", made)
    return made


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a minute passes between any two readings of the clock."""
    monkeypatch.setattr(progress, "clock", Clock(61.0))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_a_minute_with_the_time_left(clock, capsys):
    with ProgressBar("evaluating", 400, "batches") as told:
        for done in range(1, 101):
            clock.now += 3
            told.to(done, lambda: "loss 0.5")
    assert capsys.readouterr() == (
        "",
        "".join(
            f"  evaluating: {done}/400 batches, about {left} left  loss 0.5\n"
            for done, left in ((20, "19 min"), (40, "18 min"), (60, "17 min"), (80, "16 min"), (100, "15 min"))
        ),
    )


def test_what_was_done_before_takes_no_time(clock, capsys):
    told = ProgressBar("training", 300, "steps", 200)
    clock.now += 99
    told.to(250)
    assert capsys.readouterr().err == "  training: 250/300 steps, about 99 s left\n"


def test_a_short_step_tells_nothing(clock, capsys):
    for _ in track(range(1000), "drawing", "tasks"):
        clock.now += 0.059
    assert capsys.readouterr() == ("", "")


def test_a_total_that_nobody_knows_or_that_was_a_guess(clock, capsys):
    for told, done in ((ProgressBar("reading", None, "rows"), 7), (ProgressBar("tokenising", 5, "characters"), 7_000)):
        clock.now += 90  # both have begun
        told.to(done)
    assert capsys.readouterr().err == "  reading: 7 rows, 90 s so far\n  tokenising: 7,000 characters, 3 min so far\n"


@pytest.mark.parametrize("name", ["LOCAL_RANK", "RANK"])
def test_other_ranks_are_silent(name, hurried, monkeypatch, capsys):
    monkeypatch.setenv(name, "1")
    assert list(track([1, 2], "evaluating", "batches")) == [1, 2]
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert list(track([1, 2], "evaluating", "batches")) == [1, 2]
    assert terminal.getvalue() == "" and capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar_with_the_time_left(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with ProgressBar("training", 10, "steps") as told:
        told.to(1)
        assert terminal.getvalue() == ""  # it may be over at once
        clock.now += 2
        told.to(5, lambda: "loss 0.5")
    shown = terminal.getvalue()
    assert re.search(r"training: +50%\|.*5/10 \[00:02<00:0[12],.*loss 0\.5\]", shown)
    assert shown.split("\r")[-1].strip() == ""  # and nothing of it stays


@pytest.mark.parametrize("bars", [huggingface_hub.utils.tqdm, datasets_bars])
def test_downloads_of_libraries_tell_in_lines(bars, clock, monkeypatch, capsys):
    class Bars(bars):
        _kdlab = None

    if original := getattr(bars, "_kdlab", None):  # an earlier test of this process has redirected it
        Bars.__init__, Bars.display = original
    redirect_tqdm(Bars, "downloading")
    redirect_tqdm(Bars, "twice")
    with Bars(
        total=4_000_000, unit="B", unit_scale=True, desc="model.safetensors: ", disable=None, mininterval=0
    ) as bar:
        for _ in range(4):
            clock.now += 45
            bar.update(1_000_000)
    assert capsys.readouterr() == ("", "  downloading model.safetensors: 2 MB/4 MB, about 90 s left\n" "  downloading model.safetensors: 4 MB/4 MB, about 0 s left\n")  # fmt: skip
    monkeypatch.setenv("LOCAL_RANK", "1")
    with Bars(total=4, mininterval=0) as bar:
        clock.now += 100
        bar.update(1)
    assert capsys.readouterr() == ("", "")


def test_a_quiet_transformers_still_reports_downloads(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", None)
    quiet_libraries()
    assert not transformers.logging.is_progress_bar_enabled()
    assert not huggingface_hub.utils.are_progress_bars_disabled()


def rows(count: int) -> TaskData:
    texts = [" ".join(text.split()[:4]) for text in generated_text(count)]
    return TaskData(TaskShape(1, ("no", "yes"), ("accuracy",)), {"train": [LabelledRow((t,), 0) for t in texts]})


def batches() -> list[Batch]:
    ids = torch.full((2, 3), 7)
    every = torch.arange(2)
    return [Batch(every, 0, ids, torch.ones_like(ids), every, torch.ones(2, dtype=torch.bool)) for _ in range(3)]


def augmentation(folder: Path, teacher: Path) -> None:
    model = load_masked_lm(teacher)
    augmented(
        rows(4),
        model,
        tiny_tokenizer(),
        AugmentationRecipe(max_length=32),
        None,
        ArtifactStore(folder, str),
        {"model": "tiny"},
    )


def runs(folder: Path, teacher: Path) -> None:
    build_report([made_run(folder / f"runs/{seed}", 0.8, seed).parent for seed in (1, 2)], notify=str)


def artifacts(folder: Path, teacher: Path) -> None:
    ArtifactStore(folder / "store", str).get("text", {"a": 1}, lambda out: (out / "x").write_text("x"), "x")
    assert main(["verify", "--root", str(folder / "store")]) == 0


def fingerprint(folder: Path, teacher: Path) -> None:
    for name in "ab":
        (folder / f"{name}.txt").write_text("some words")
    TextFolder(str(folder)).fingerprint()


def evaluation(folder: Path, teacher: Path) -> None:
    scoring.predictions(classifier(teacher), iter(batches()))


def looking(folder: Path, teacher: Path) -> None:
    row_pool(classifier(teacher), batches())


def classifier(teacher: Path) -> Encoder:
    from kdlab.models.loading import load_with_new_classifier

    return Encoder(load_with_new_classifier(teacher, None, rows(2).shape)).eval()


STEPS = {
    augmentation: ["augmenting: 4/4 rows, about 0 s left"],
    runs: ["reading runs: 1/2 runs, about", "drawing: 1/1 tasks, about"],
    artifacts: ["checking: 1/1 artifacts, about"],
    fingerprint: ["reading the text once, for its fingerprint: 1/2 files, about"],
    evaluation: ["evaluating: 1/3 batches, about"],
    looking: ["looking at rows: 2/3 batches, about"],
}


@pytest.mark.parametrize("step", STEPS)
def test_each_step_tells(step, hurried, tmp_path, teacher_folder, capsys):
    step(tmp_path, teacher_folder)
    told = capsys.readouterr().err
    assert [line for line in STEPS[step] if line not in told] == []


def test_a_run_tells_of_all_its_steps(tmp_path, teacher_folder, text_folder):
    done = call(tiny(teacher_folder, text_folder, "trainer.max_steps=2", "figures=true"), tmp_path, Hurried())
    assert done.code == 0, done.output
    for line in (
        r"  reading the text once, for its fingerprint: \d+/\d+ files, about .* left",
        r"  tokenising the text: [\d,]+/[\d,]+ characters, about .* left",
        r"  evaluating: 1/\d+ batches, about .* left",
        r"  training: 1/2 steps, about .* left  loss [\d.]+  arm \w+  queries \d+",
        r"  drawing: 1/\d+ figures, about .* left",
    ):
        assert re.search(f"^{line}$", done.output, re.MULTILINE), line
