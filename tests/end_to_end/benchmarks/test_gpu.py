"""`benchmarks.gpu` at tiny sizes on a CPU: its tables, its ways' losses and FLOPs, its budget, and what fails in it."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from dataclasses import replace

import pytest
import torch

from benchmarks import scaling
from benchmarks.gpu import command as program
from benchmarks.gpu import figures, small_batches, two_gpus, ways
from benchmarks.gpu.figures import LOOK, OURS, PLAIN, SOME
from benchmarks.gpu.subjects import Copies, Subject, rows_of, subjects
from benchmarks.steps import Ours, looped
from kdlab.models import flops
from kdlab.runtime.ledger import Ledger
from kdlab.types import IGNORE
from tests.support.runs import command

SUBJECTS = {subject.labels: subject for subject in subjects("cpu", True, 0.0, 0.0, 1.0)}


def exact(labels: str) -> Subject:
    """A tiny subject in float32, without dropout."""
    subject = SUBJECTS[labels]
    return replace(subject, models=replace(subject.models, precision="32-true"))


def tables(output: str) -> dict[str, list[list[str]]]:
    """Cells of the tables by the heading above them, header and rows."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in output.splitlines():
        title = line.removeprefix("### ") if line.startswith("### ") else title
        if line.startswith("| ") and not line.startswith("| ---"):
            found.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The whole command, its output and its figures."""
    folder = tmp_path_factory.mktemp("gpu")
    given = ["--device", "cpu", "--tiny", "--json", "gpu.json"]
    ended = command(given, folder, "benchmarks.gpu", timeout=600)
    assert ended.code == 0, ended.output
    return ended.output, json.loads((folder / "gpu.json").read_text())


def test_every_part_prints_a_table(done):
    output, _ = done
    found = tables(output)
    names = [f"{s.name}, rows of {profile}" for s in SUBJECTS.values() for profile in ("SST-2", "MNLI", "512")]
    assert set(names) < set(found) and "failed" not in output and "has not run" not in output
    for name in names:
        assert found[name][0] == figures.HEADER
        assert [line[0] for line in found[name][1:]] == [PLAIN, OURS, SOME, LOOK]
        assert found[name][1][3] == "1.00x" and {line[-1] for line in found[name][1:]} == {"unknown"}
        assert all(float(line[1]) > 0 and float(line[5]) > 0 for line in found[name][1:])
    for subject in (SUBJECTS["class"], SUBJECTS["next"]):
        lines = found[f"{subject.name}, few kept rows"]
        assert lines[0] == small_batches.HEADER
        assert [line[0] for line in lines[1:]] == [small_batches.EAGER, small_batches.PADDED, small_batches.COMPILED]
        assert {line[-1] for line in lines[2:]} <= {"pays", "does not pay", "no clear difference"}
    assert f"torch {torch.__version__}" in output.splitlines()[0] and "peak of the device: unknown" in output


def test_the_bars_printed_are_those_of_the_seconds_in_the_file(done):
    output, saved = done
    bars = tables(output)["Bars"]
    assert bars[0] == ["measure", "bar", "reached", "verdict"] and len(bars) == 1 + 9 * 3 + 3
    assert [bar["verdict"] for bar in saved["bars"]] == [line[-1] for line in bars[1:]]
    for line in bars[1:]:
        part, way = line[0].split(": ")
        if way.endswith("share of peak"):
            assert line[1:] == ["40%", "-", "not measured"]
            continue
        seconds = {name: found["seconds"] for name, found in saved[part]["ways"].items()}
        by_hand = statistics.median(b / w for b, w in zip(seconds[PLAIN], seconds[way], strict=True))
        bar = 3 if way == OURS else 8
        assert line[1:] == [f"{bar:.2f}x", f"{by_hand:.2f}x", "met" if by_hand >= bar else "not met"]


@pytest.mark.parametrize("labels", ["class", "next", "masked"])
def test_a_plain_loop_and_kdlab_learn_the_same_loss(labels):
    subject = exact(labels)
    batch = rows_of(subject, "SST-2", 6, True, None)[0]
    loop = looped(Copies(subject.models), subject.loss, fused=True)
    ours = Ours(Copies(subject.models), "packed")
    assert ours.learn(batch) == pytest.approx(loop(batch), rel=1e-4)


@pytest.mark.parametrize("labels", ["class", "next", "masked"])
def test_flops_of_a_selecting_step_are_those_of_its_parts(labels):
    subject = exact(labels)
    batch = rows_of(subject, "512", 10, True, None)[0]
    ours = Ours(Copies(subject.models), "packed")
    ours.module.ledger = ledger = Ledger(10, fixed_inputs=True)
    kept = ours.best(batch, 0.2)
    with subject.models.autocast():
        ours.module.loss(kept)
    learnt = ledger.totals()["flops"]["total"]
    shape, length = ours.module.shape, batch.input_ids.shape[1]
    counted = ways.selecting_flops(ours, batch, 0.2, 1.0) - learnt
    if labels == "class":  # the last layer runs for the first tokens alone: less than the whole model
        assert 0 < counted < flops.forward(shape, 10, length)
    elif labels == "next":  # all positions but the last, which predicts nothing, have logits
        assert counted == flops.forward(shape, 10, length, positions=10 * (length - 1))
    else:
        assert 0 < counted < flops.forward(shape, 10, length, positions=10 * length)
    whole = ways.our_way(subject).flops(batch)
    assert learnt < whole < ways.plain_flops(subject, batch)


@pytest.mark.parametrize("labels", ["class", "next", "masked"])
def test_flops_of_a_plain_step_are_three_students_and_a_teacher_with_padding(labels):
    subject = exact(labels)
    batch = rows_of(subject, "SST-2", 10, True, None)[0]
    student, teacher = (
        flops.shape_of(model.config, 2 if labels == "class" else None) for model in Copies(subject.models).built()
    )
    rows, length = batch.input_ids.shape
    positions = 0 if labels == "class" else rows * length
    wanted = 3 * flops.forward(student, rows, length, positions) + flops.forward(teacher, rows, length, positions)
    assert ways.plain_flops(subject, batch) == wanted
    lengths = batch.attention_mask.sum(1)
    spared = rows * length**2 - int(
        lengths.square().sum()
    )  # pairs with padding, of which flash attention computes none
    hidden = student.hidden
    saved = 4 * spared * hidden * (3 * student.layers + teacher.layers)
    assert spared > 0 and ways.plain_flops(subject, batch, padded_attention=False) == wanted - saved


def test_rows_are_labelled_as_their_models_predict():
    masked = rows_of(SUBJECTS["masked"], "MNLI", 10, True, None)[0]
    shown = masked.labels != IGNORE
    assert bool(shown.any(1).all()) and torch.equal(masked.labels[shown], masked.input_ids[shown])
    assert not bool((shown & ~masked.attention_mask.bool()).any())
    following = rows_of(SUBJECTS["next"], "MNLI", 10, True, None)[0]
    assert torch.equal((following.labels != IGNORE).sum(1), following.attention_mask.sum(1) - 1)
    assert rows_of(SUBJECTS["class"], "MNLI", 10, True, None)[0].labels.shape == (10,)


def test_drawn_rows_are_a_share_of_the_batch_and_the_best_are_among_them():
    subject = exact("class")
    batch = rows_of(subject, "SST-2", 20, True, None)[0]
    ours = Ours(Copies(subject.models), "packed")
    assert len(ours.drawn(batch, 0.1, 0.3)) == 6 and ours.drawn(batch, 0.1, 1.0) is batch
    torch.manual_seed(3)
    drawn = ours.drawn(batch, 0.1, 0.3).rows
    torch.manual_seed(3)
    best = ours.best(batch, 0.1, 0.3).rows
    assert len(best) == 2 and set(best.tolist()) <= set(drawn.tolist())


def test_buckets_are_powers_of_two_and_padding_changes_nothing():
    assert [small_batches.bucket(n) for n in (1, 16, 17, 32, 33, 128, 129)] == [16, 16, 32, 32, 64, 128, 256]
    for labels in ("class", "next"):
        subject = exact(labels)
        batch = rows_of(subject, "SST-2", 3, True, None)[0]
        padded = small_batches.in_bucket(batch)
        assert padded.input_ids.shape[1] == small_batches.bucket(batch.input_ids.shape[1])
        bare, eager, compiled = (
            small_batches.OurRows(subject),
            small_batches.PaddedRows(subject),
            small_batches.CompiledRows(subject, "eager"),
        )
        bare(batch)
        for rows in (eager, compiled):
            rows(padded.input_ids, padded.attention_mask, padded.labels)
            for ours, theirs in zip(bare.student.parameters(), rows.student.parameters(), strict=True):
                assert (ours.grad is None) == (theirs.grad is None)
                if ours.grad is not None and theirs.grad is not None:
                    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def session_of(**given) -> program.Session:
    chosen = {"device": "cpu", "tiny": False, "turns": None, "json": None, "data": None}
    return program.Session(argparse.Namespace(**{**chosen, **given}), None, {}, [])


def test_a_part_that_fails_is_a_line_and_the_rest_goes_on(capsys):
    def fails(until: float) -> str:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore lines")

    session = session_of(turns=1)
    program.run([("first", 1, fails), ("second", 1, lambda until: "a table")], session, time.monotonic() + 60)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [
        "### first",
        "failed: out of memory: CUDA out of memory. Tried to allocate 20 GiB",
        "### second",
        "a table",
    ]
    assert list(session.figures) == ["first"]


def test_a_way_that_fails_leaves_the_others():
    def fails() -> ways.Way:
        raise RuntimeError("no kernel")

    subject = exact("class")
    batch = rows_of(subject, "SST-2", 10, True, None)
    made = {PLAIN: fails, OURS: lambda: ways.our_way(subject)}
    found, lost = ways.measured(made, batch, "cpu", 0.0, 1)
    assert list(found) == [OURS] and lost == {PLAIN: "RuntimeError: no kernel"}
    assert figures.lines(found, None)[0][3] == "-" and len(found[OURS].flops) == len(found[OURS].seconds) == 1


def test_parts_share_the_time_that_is_left_by_weight(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(program.time, "monotonic", lambda: now[0])
    until: list[float] = []

    def taking(seconds: float):
        def part(limit: float) -> str:
            until.append(limit)
            now[0] += seconds
            return "done"

        return part

    # 60 s: a quarter is 15; after 30 s there are 30, of which a third is 10; after 30 more none is left
    parts = [("a", 1, taking(30)), ("b", 1, taking(30)), ("c", 2, taking(1))]
    program.run(parts, session_of(), 160.0)
    assert until == [115.0, 140.0]
    assert "left out: no time is left" in capsys.readouterr().out


def test_the_memory_of_a_way_is_what_it_holds_and_the_rise_of_a_step(monkeypatch):
    allocated = iter(n * 2**30 for n in (1, 3, 3))  # before, after the first step, before the second
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: next(allocated))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7 * 2**30)
    for name in ("reset_peak_memory_stats", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    steps: list[int] = []
    # holds 3 - 1, and a step rises by 7 - 3
    assert ways.prepared(lambda: ways.Way(steps.append, len), [5, 4], "cuda")[1] == 6.0  # pyright: ignore
    assert steps == [5, 5]


def test_shapes_that_are_not_ready_in_time_are_a_line():
    subject = exact("class")
    batch = rows_of(subject, "SST-2", 3, True, None)
    made = small_batches.makers(subject, batch, "eager", until=-math.inf)
    found, lost = ways.measured(made, batch, "cpu", 0.0, 1)
    assert list(found) == [small_batches.EAGER]
    assert lost[small_batches.COMPILED].startswith("TimeoutError: no time was left to prepare it for rows of ")


def test_without_a_gpu_it_ends_with_a_line_and_code_2(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert program.main([]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and "finds no GPU; --device cpu --tiny" in told.err and told.out == ""


def test_two_processes_have_the_models_and_rows_of_their_subject(monkeypatch):
    monkeypatch.setattr(scaling, "measured", lambda arguments, size: seen.append((arguments, size)) or seconds)
    seen, names = [], scaling.names_of(2)
    seconds = dict(zip(names, ([4.0], [2.5], [2.0], [4.0]), strict=True))
    text, saved = two_gpus.compared(SUBJECTS["class"], "MNLI", 3, None)
    arguments, size = seen[0]
    models = scaling.Sizes.of(arguments, arguments.device)
    assert models == SUBJECTS["class"].models and (size, arguments.turns, arguments.task) == (20, 3, "MNLI")
    assert saved["hidden share of the exchange"] == "75%" and "to 75%" in text and "1.60x" in text


@pytest.mark.nightly
def test_two_processes_are_a_part_of_their_own(tmp_path):
    done = command(["--device", "cpu", "--tiny", "--parts", "ranks"], tmp_path, "benchmarks.gpu", timeout=600)
    assert done.code == 0, done.output
    assert sum(line.startswith("| ratio") for line in done.output.splitlines()) == 6
