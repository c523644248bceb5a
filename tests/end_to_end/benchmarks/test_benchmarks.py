"""The benchmarks run from end to end at tiny sizes on made text, and what they compute of times is right."""

from __future__ import annotations

import importlib
import statistics

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from benchmarks import measuring, scaling, strategies, trainer, vanilla_kd
from benchmarks.selection import Phases
from benchmarks.steps import Ours, Sizes
from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.types import Batch, Outputs
from tests.support.evidence import STRATEGIES

TINY = ["--hidden", "32", "--layers", "1,1", "--vocab", "60", "--turns", "1", "--max-length", "16"]
SIZES = Sizes(32, 1, 1, 60)


def test_quartiles_and_quotients_of_turns():
    assert measuring.quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2.0, 3.0, 4.0)
    found = [0.3, 0.1, 0.45, 0.2]
    assert measuring.quartiles(found) == pytest.approx(np.percentile(found, [25, 50, 75]))
    assert measuring.quartiles([7.0]) == (7.0, 7.0, 7.0)
    # turn by turn 2, 2, 8: not the quotient of the medians, 4 / 1
    assert measuring.times([2.0, 4.0, 8.0], [1.0, 2.0, 1.0]) == 2.0
    assert measuring.milliseconds([0.002, 0.003, 0.004], 1) == ("3.0", "2.5 to 3.5")


def test_ways_take_turns_and_the_first_turn_is_left_out():
    now, calls = [0.0], []

    def way(name: str, seconds: float):
        def work(turn: int) -> None:
            calls.append((turn, name))
            now[0] += seconds * (turn + 1)

        return work

    found = measuring.in_turns({"a": way("a", 1.0), "b": way("b", 3.0)}, 0, 2, clock=lambda: now[0])
    assert calls == [(turn, name) for turn in range(3) for name in "ab"]
    assert found == {"a": [2.0, 3.0], "b": [6.0, 9.0]}


def test_without_a_number_of_turns_there_are_some_however_short_the_time():
    assert len(measuring.in_turns({"a": lambda turn: None}, 0, least=3)["a"]) == 3


def test_the_clock_of_this_process_is_the_ledgers_too(monkeypatch):
    from kdlab.runtime import ledger

    monkeypatch.setattr(ledger, "perf_counter", ledger.perf_counter)
    monkeypatch.setitem(measuring.CLOCKS, "cpu", iter([1.0, 4.0, 4.0, 4.0, 4.0]).__next__)
    measuring.clock_of("cpu")
    counted = ledger.Ledger(1)
    with counted.time("loop"):
        pass
    assert counted.totals()["seconds"]["loop"] == 3.0


def test_the_phase_model_is_the_published_one():
    # METHODS section 8 with Bs = Fs: 45.1 G of all data against 28.2 G at one half, and Fs + r (Fs + Bs + Ft)
    bert = Phases(forward=11.3, backward=11.3, teacher=22.5, scoring=5.0)
    assert bert.forecast(0.1) == pytest.approx(45.1 / (11.3 + 4.51))
    assert bert.forecast(0.5, look=5.0) == pytest.approx(45.1 / (5.0 + 22.55))


def test_phases_are_medians_a_row():
    turns = [
        {"student_forward": f, "student_backward": b, "optimizer": 1.0, "teacher_forward": 8.0, "scoring": s}
        for f, b, s in ((2.0, 5.0, 1.0), (4.0, 3.0, 9.0), (6.0, 40.0, 3.0))
    ]
    assert Phases.of(turns, 2) == Phases(forward=2.0, backward=3.0, teacher=4.0, scoring=1.5)


def test_shares_of_a_step_are_taken_turn_by_turn():
    assert strategies.shares([1.0, 2.0, 1.0], [100.0, 50.0, 50.0]) == pytest.approx((0.015, 0.02, 0.03))


def test_every_strategy_is_measured():
    from kdlab.methods.selection import strategies as all_of_them

    histories = {"forgetting"}  # a class, which needs rows that come again
    assert set(strategies.every()) == {*STRATEGIES, "ensemble"} - histories
    assert strategies.every()["density"] is all_of_them.density


def test_the_loops_line_is_what_others_are_compared_with():
    lines = trainer.lines({"kdlab run": [9.0, 0.066, 0.070], "loop": [9.0, 0.060, 0.070]})
    assert lines[0] == ["kdlab run", "68.0", "67.0 to 69.0", "+5.0%", "+2.5% to +7.5%", "+3.00"]
    assert lines[1][3:] == ["+0.0%", "+0.0% to +0.0%", "+0.00"]


def test_several_processes_are_compared_with_one_at_their_own_ratio():
    found = {"ratio 1, one process": [4.0], "ratio 1, 2 processes": [2.0], "ratio 0.1, one process": [1.0], "b": [0.8]}
    assert [line[-1] for line in scaling.lines(found)] == ["1.00x", "2.00x", "1.00x", "1.25x"]


def test_a_turn_of_several_processes_is_as_long_as_the_longest():
    assert scaling.slowest([{"a": [1.0, 5.0]}, {"a": [2.0, 4.0]}]) == {"a": [2.0, 5.0]}


def test_the_hidden_share_of_an_exchange_is_what_overlapping_saves_of_it():
    # medians 5, 4 and 8: of the 4 seconds that an exchange after the backward adds, 3 are saved
    assert scaling.hidden_share([9.0, 5.0, 5.0], [4.0, 1.0, 4.0], [8.0, 8.0, 0.0]) == 0.75
    assert scaling.hidden_share([4.0], [4.0], [4.0]) is None


def test_made_lengths_are_those_of_the_task():
    sst, mnli = (measuring.lengths_of(None, 128, task) for task in ("SST-2", "MNLI"))
    # means of the log-normal numbers: exp(2.3 + 0.75^2 / 2) + 3 and exp(3.5 + 0.5^2 / 2) + 3
    assert sst.mean() == pytest.approx(16.2, abs=0.3) and mnli.mean() == pytest.approx(40.5, abs=0.6)
    assert measuring.lengths_of(None, 128, "RTE").tolist() == sst.tolist() and mnli.max() == 128


def test_lengths_are_read_from_a_task_and_cut(tmp_path):
    folder = tmp_path / "TASK"
    folder.mkdir()
    (folder / "train.tsv").write_text("sentence1\tsentence2\tlabel\na b c\td\t0\n" + "e " * 40 + "\tf\t1\n")
    # [CLS] and [SEP], and of each text a token a word, an eighth more for long words, and a sign
    assert measuring.lengths_of(tmp_path, 32, "TASK").tolist() == [2 + 4 + 2, 32]
    assert measuring.lengths_of(folder, 32).tolist() == [8, 32]


def test_made_rows_have_the_lengths_asked_for():
    (batch,) = measuring.batches(np.array([3, 5]), 6, 1, 60)
    assert set(batch.attention_mask.sum(1).tolist()) <= {3, 5}
    assert bool((batch.input_ids[batch.attention_mask == 0] == 0).all()) and int(batch.input_ids.max()) < 60


def test_a_step_moves_the_student_and_phases_sum_up():
    ours = Ours(SIZES)
    before = [p.detach().clone() for p in ours.student.parameters()]
    (batch,) = measuring.batches(measuring.lengths_of(None, 16), 10, 1, 60)
    assert len(ours.best(batch, 0.2)) == 2 and ours.student.training
    seconds = ours.phases(batch)
    parts = ("scoring", "student_forward", "teacher_forward", "student_backward", "optimizer")
    assert sum(seconds[part] for part in parts) == pytest.approx(seconds["total"]) and min(seconds.values()) > 0
    assert any(not torch.equal(old, new) for old, new in zip(before, ours.student.parameters(), strict=True))


def test_frozen_parts_stay_in_all_ways():
    sizes = Sizes(32, 1, 1, 60, ("word_embeddings", "position_embeddings"))
    names = {name for name, p in sizes.built()[0].named_parameters() if not p.requires_grad}
    assert {name.split(".")[-2] for name in names} == {"word_embeddings", "position_embeddings"}


def test_ranks_share_the_rows_of_a_batch():
    (batch,) = measuring.batches(measuring.lengths_of(None, 16), 5, 1, 60)
    parts = [scaling.share_of(batch, rank, 2) for rank in range(2)]
    assert [part.rows.tolist() for part in parts] == [[0, 1, 2], [3, 4]]
    assert all(isinstance(part, Batch) for part in parts)


@pytest.mark.parametrize(
    ("name", "more", "ways"),
    [
        ("kd_step", ["--batch", "4"], 7),
        ("selection", ["--batch", "2", "--in-batch", "10", "--ratio", "0.2"], 8),
        ("look", ["--batch", "2", "--ratio", "0.1"], 9),
        ("look", ["--accumulate", "2", "--sizes", "2,3"], 2),
        ("strategies", ["--batch", "20"], 9),
        ("trainer", ["--batch", "4", "--steps", "4", "--set", "trainer.checkpoint_every=2"], 4),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*dataloader is not res"
)
def test_a_benchmark_prints_its_machine_and_a_line_for_each_way(name, more, ways, capsys, monkeypatch):
    from kdlab.runtime import ledger

    monkeypatch.setattr(ledger, "perf_counter", ledger.perf_counter)
    importlib.import_module(f"benchmarks.{name}").main([*TINY, *more])
    printed = capsys.readouterr().out.splitlines()
    assert any(f"torch {torch.__version__}" in line for line in printed)
    first = next(i for i, line in enumerate(printed) if line.startswith("| ---"))
    cells = [line.split("|")[1:-1] for line in printed[first + 1 : first + 1 + ways]]
    assert len({row[0] for row in cells}) == ways and len({len(row) for row in cells}) == 1
    assert all(float(row[1]) >= 0 for row in cells)


@pytest.mark.nightly
def test_the_benchmark_of_two_processes_prints_a_line_for_each_way(tmp_path):
    from tests.support.runs import command

    done = command([*TINY, "--batch", "8"], tmp_path, "benchmarks.scaling")
    assert done.code == 0, done.output
    assert sum(line.startswith("| ratio") for line in done.output.splitlines()) == 6
    assert "the exchange of gradients " in done.output


def test_hf_trainer_without_accelerate_is_refused_in_a_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(UserError, match="^--hf: transformers.Trainer needs accelerate, which is not installed$"):
        trainer.hf_trainer([], None, statistics.fmean)  # pyright: ignore


def test_vanilla_kd_by_hand_needs_accelerate_too(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(UserError, match="^transformers.Trainer needs accelerate, which is not installed$"):
        vanilla_kd.hf_trainer(None, None, statistics.fmean)  # pyright: ignore


def test_vanilla_kd_by_hand_learns_the_loss_of_its_kdlab_command(tmp_path):
    """The terms that the command composes, on logits: 0.5 CE + 0.5 KL in both, and the same layers, steps and schedule."""
    given = measuring.parser_of("", 1).parse_args([*TINY, "--layers", "2,6"])
    vars(given).update(batch=4, steps=7, precision="32-true", set=[])
    config = checked(composition(vanilla_kd.overrides_of(tmp_path, given, 0))[0])
    s, t = torch.randn(2, 5, 3).unbind()
    student, teacher = Outputs(logits=s, labels=torch.tensor([0, 2, 1, 1, 0])), Outputs(logits=t)
    terms = [(term.weight, instantiate(term.term)) for term in config.knowledge.terms.values()]
    whole = sum(weight * term(student, teacher).mean() for weight, term in terms)
    torch.testing.assert_close(vanilla_kd.vanilla_loss(s, t, student.labels), whole)
    assert len(terms) == 2 and config.select.ratio == 1 and config.knowledge.labels_on == "selected"
    assert (config.student.layers, config.trainer.max_steps, config.data.batch_size) == (2, 7, 4)
    assert (config.optim.lr, config.optim.warmup, config.optim.clip) == (vanilla_kd.LR, vanilla_kd.WARMUP, 1.0)
