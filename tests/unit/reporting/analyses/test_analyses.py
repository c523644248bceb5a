"""The mathematics of the analyses against numpy by hand, the trace in a real training, and tables of made-up runs."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch import nn

from kdlab import analyse
from kdlab.callbacks import selection_trace
from kdlab.errors import UserError
from kdlab.methods.knowledge.logits import label_loss, soft_loss
from kdlab.methods.selection import strategies
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.row_pool import (
    RowPool,
    centre_distances,
    join_pools,
    named_strategies,
    row_pool,
    selection_mask,
    selection_rows,
)
from kdlab.modules.student import StudentModule
from kdlab.reporting.analyses import across_runs
from kdlab.reporting.analyses.across_runs import ratio, temperature
from kdlab.reporting.analyses.gradients import cosines
from kdlab.types import Batch, Outputs

ROWS, WIDTH, CLASSES = 12, 5, 4
RNG = np.random.default_rng(0)
H, Z, T = RNG.normal(size=(ROWS, WIDTH)), RNG.normal(size=(ROWS, CLASSES)), 2 * RNG.normal(size=(ROWS, CLASSES))
Y = RNG.integers(CLASSES, size=ROWS)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Linear(nn.Module):
    """A softmax regression on the row's own number: hidden states come from a table, trained on request."""

    per_row = True

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(H))
        self.head = nn.Linear(WIDTH, CLASSES).double()

    def encode(self, batch: Batch) -> Outputs:
        return Outputs(hidden=self.table[batch.rows][:, None])

    def vectors(self, shown: Outputs, row: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        return shown.hidden[row, 0]  # pyright: ignore[reportOptionalSubscript]

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.head(vectors)


def batch_of(rows: np.ndarray) -> Batch:
    some = torch.from_numpy(rows)
    one = torch.ones(len(rows), 3, dtype=torch.long)
    return Batch(some, 0, one, one, torch.from_numpy(Y[rows]), torch.ones(len(rows), dtype=torch.bool))


def pool_of(sizes: tuple[int, ...] = (ROWS,)) -> RowPool:
    return RowPool(torch.arange(ROWS), torch.from_numpy(Y), torch.from_numpy(Z), torch.from_numpy(H), sizes)


# ---- gradients


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_the_angle_in_a_softmax_regression_is_that_of_the_logits_gradients(tau: float) -> None:
    model = Linear()
    w, b = (p.detach().numpy() for p in model.head.parameters())
    z = H @ w.T + b
    ce = softmax(z) - np.eye(CLASSES)[Y]
    kd = tau * (softmax(z / tau) - softmax(T / tau))
    soft = functools.partial(soft_loss, temperature=tau)
    found = cosines(model, batch_of(np.arange(ROWS)), torch.from_numpy(T), soft, list(model.head.parameters()))  # pyright: ignore
    expected = (ce * kd).sum(1) / np.linalg.norm(ce, axis=1) / np.linalg.norm(kd, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # terms are taken in float32
    assert 0 < (expected > 0).sum() < ROWS  # both answers occur
    # with the looked-up states as parameters as well, the gradients of all of them are one vector
    dots = (ce * kd).sum(1) * ((H**2).sum(1) + 1) + ((ce @ w) * (kd @ w)).sum(1)
    norm = [np.sqrt((g**2).sum(1) * ((H**2).sum(1) + 1) + ((g @ w) ** 2).sum(1)) for g in (ce, kd)]
    found = cosines(model, batch_of(np.arange(ROWS)), torch.from_numpy(T), soft, list(model.parameters()))  # pyright: ignore
    np.testing.assert_allclose(found, dots / norm[0] / norm[1], atol=1e-5)


def test_without_a_gradient_there_is_no_angle() -> None:
    model, told = Linear(), torch.zeros(3, CLASSES)
    found = cosines(
        model, batch_of(np.arange(3)), told, lambda s, t: 0 * s.logits.sum(-1), list(model.head.parameters())
    )  # pyright: ignore
    assert found.tolist() == [0, 0, 0]


# ---- the pool


def test_distances_to_the_class_centre_by_numpy() -> None:
    expected = [np.linalg.norm(H[i] - H[Y[i] == Y].mean(0)) for i in range(ROWS)]
    np.testing.assert_allclose(centre_distances(torch.from_numpy(H), torch.from_numpy(Y)), expected)
    # labels need be neither dense nor sorted; a class of one row is its own centre
    far = centre_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]]), torch.tensor([7, 7, 2]))
    np.testing.assert_allclose(far, [2.5, 2.5, 0])


def test_a_strategy_keeps_the_best_of_each_batch() -> None:
    p = softmax(Z)
    entropy = -(p * np.log(p)).sum(1)
    expected = np.zeros(ROWS, dtype=bool)
    for start, size, k in ((0, 5, 2), (5, 5, 2), (10, 2, 1)):  # 40 % of 5 and of 2, at least one
        expected[start + np.argsort(-entropy[start : start + size])[:k]] = True
    assert selection_mask(pool_of((5, 5, 2)), strategies.entropy, 0.4, 1).numpy().tolist() == expected.tolist()


def test_what_is_drawn_does_not_depend_on_which_rank_holds_a_batch() -> None:
    pool = pool_of((4, 4, 4))
    parts = [RowPool(*(getattr(pool, n)[s : s + 4] for n in ("rows", "labels", "logits", "features")), (4,)) for s in (0, 4, 8)]  # pyright: ignore  # fmt: skip
    dealt = join_pools([parts[1], parts[0], parts[2]])
    for arm in (strategies.random, strategies.cluster):
        whole, again = (set(p.rows[selection_mask(p, arm, 0.5, 3)].tolist()) for p in (pool, dealt))
        assert whole == again and len(whole) == 6
    assert set(pool.rows[selection_mask(pool, strategies.random, 0.5, 4)].tolist()) != whole


def test_looking_leaves_out_rows_that_only_keep_a_rank_in_step() -> None:
    model, second = Linear(), batch_of(np.array([7, 2]))
    second.real[0] = False
    pool = row_pool(model, [batch_of(np.array([4, 1, 0])), second])  # pyright: ignore[reportArgumentType]
    assert pool.rows.tolist() == [4, 1, 0, 2] and pool.sizes == (3, 1)
    np.testing.assert_allclose(pool.features, H[[4, 1, 0, 2]], rtol=1e-6)
    assert not pool.logits.requires_grad
    with pytest.raises(UserError, match="no labelled row"):
        row_pool(model, [])  # pyright: ignore[reportArgumentType]


def test_strategies_by_name() -> None:
    own = {"mine": strategies.density, "entropy": strategies.entropy}
    assert list(named_strategies(None, own, False))[-2:] == ["density", "mine"]
    assert set(named_strategies(None, {}, True)) == {"random", "cluster", "density"}
    assert list(named_strategies(["mine", "scaled_entropy"], own, False)) == ["mine", "scaled_entropy"]
    assert list(named_strategies(None, own, False, ["margin"])) == ["margin"]
    with pytest.raises(UserError, match="no strategy is called entropi: did you mean entropy"):
        named_strategies(["entropi"], {}, False)
    with pytest.raises(UserError, match="margin reads .* regression"):
        named_strategies(["margin"], {}, True)
    own = {"committee": strategies.committee, "forgetting": strategies.Forgetting()}  # a pool has nothing for them
    assert list(named_strategies(None, own, False))[-1] == "density"
    for name, lacks in (("committee", "votes"), ("forgetting", "rows")):
        with pytest.raises(UserError, match=f"{name} reads {lacks}, which only a training has"):
            named_strategies([name], own, False)


def test_a_row_of_the_trace_by_hand() -> None:
    arms = {"entropy": strategies.entropy, "random": strategies.random}
    rows = selection_rows(pool_of(), arms, 0.25, step=7, progress=0.5, seed=1)
    assert [(row["step"], row["strategy"]) for row in rows] == [(7, "entropy"), (7, "random"), (7, "all")]
    p = softmax(Z)
    three = np.argsort((p * np.log(p)).sum(1))[:3]
    distance = np.array([np.linalg.norm(H[i] - H[Y[i] == Y].mean(0)) for i in range(ROWS)])
    assert rows[0]["rows"] == " ".join(map(str, sorted(three)))
    assert rows[0]["distance"] == pytest.approx(distance[three].mean())
    assert rows[2]["rows"] == " ".join(map(str, range(ROWS)))
    assert rows[2]["distance"] == pytest.approx(distance.mean())


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")
def test_a_trace_comes_every_so_many_steps_and_leaves_the_training_as_it_is() -> None:
    import transformers

    from kdlab.models.encoder import Encoder
    from tests.conftest import tiny_config

    config = tiny_config("bert", layers=1)
    config.num_labels, config.hidden_dropout_prob = 3, 0.2  # random numbers are drawn in training
    rng = np.random.default_rng(1)
    ids = torch.from_numpy(rng.integers(6, 100, (24, 8)))

    def some(rows: range) -> Batch:
        x = ids[rows.start : rows.stop]
        return Batch(
            torch.arange(rows.start, rows.stop), 0, x, torch.ones_like(x), x[:, 0] % 3, torch.ones(len(x)).bool()
        )

    def trained(*callbacks: pl.Callback) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        module = StudentModule(
            Encoder(model.train()), {"label": WeightedTerm(label_loss, 1.0)}, OptimizerSettings(lr=1e-2), 5
        )
        quiet = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        trainer = pl.Trainer(
            max_steps=5, accelerator="cpu", callbacks=list(callbacks), use_distributed_sampler=False, **quiet
        )
        trainer.fit(
            module, torch.utils.data.DataLoader([some(range(i, i + 4)) for i in range(0, 20, 4)], batch_size=None)
        )  # pyright: ignore
        return model.state_dict()

    rows: list[dict] = []
    every = {"random": strategies.random, "entropy": strategies.entropy}
    looked = selection_trace.SelectionTrace(
        2, lambda: [some(range(16)), some(range(16, 24))], every, 0.25, 5, 1, rows.append
    )
    before, after = trained(), trained(looked)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [row["step"] for row in rows] == [step for step in (0, 2, 4, 5) for _ in range(3)]
    assert all(set(row) == set(selection_trace.COLUMNS) for row in rows)
    assert {len(row["rows"].split()) for row in rows if row["strategy"] != "all"} == {6}  # 4 of 16 and 2 of 8
    distances = [row["distance"] for row in rows if row["strategy"] == "all"]
    assert len(set(distances)) == 4  # the student has learnt in between


# ---- many runs


def made_run(folder: Path, score: float, seed: int = 1, select: str = "entropy", share: float = 0.1, **more) -> Path:
    """The files of a finished run, as far as they are read."""
    folder.mkdir(parents=True)
    given = {"tau": 1.0, "task": "sst2", "interval": 10, "layers": 6, "metric": "score", **more}
    soft = {
        "weight": 0.5,
        "term": {"_target_": "kdlab.methods.knowledge.logits.soft_loss", "temperature": given["tau"]},
    }
    terms = {"label": {"weight": 0.5, "term": {"_target_": "kdlab.methods.knowledge.logits.label_loss"}}, "soft": soft}
    config = {
        "seed": seed, "name": folder.name, "data": {"task": given["task"]}, "student": {"layers": given["layers"]},
        "select": {"name": select, "ratio": share, "interval": given["interval"]},
        "knowledge": {"name": "response", "terms": terms}, "trainer": {"threads": seed},
    }  # fmt: skip
    result = {
        "status": "finished", "stage": "finetune", "seed": seed, "select": {"name": select, "ratio": share},
        "data": {"task": given["task"], "path": None, "source": "TaskHub"},
        "metrics": {"student": {given["metric"]: score}},
        "ledger": {"teacher_queries": {"total": 100 * seed}, "flops": {"total": 7.0}, "seconds": {"training": 2.0 * seed}},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def silent(line: str) -> None:
    pass


def test_scores_against_the_ratio_are_means_over_seeds(tmp_path: Path) -> None:
    for seed, score in ((1, 0.8), (2, 0.9), (3, 0.85)):
        made_run(tmp_path / "x" / f"e{seed}", score, seed)
    made_run(tmp_path / "x" / "e4", 0.9, 1, share=0.5)
    made_run(tmp_path / "r", 0.7, 1, "random")
    made_run(tmp_path / "full", 0.95, 1, "random", share=1.0)
    found = ratio([tmp_path], silent)
    cells = {(row["select"], row["ratio"]): row for row in found.rows}
    assert list(cells) == [("all", 1.0), ("entropy", 0.1), ("entropy", 0.5), ("random", 0.1)]
    row = cells["entropy", 0.1]
    assert row["mean"] == pytest.approx(np.mean([0.8, 0.9, 0.85]))
    assert row["std"] == pytest.approx(np.std([0.8, 0.9, 0.85], ddof=1))
    assert (row["seeds"], row["queries"], row["seconds"], row["setting"]) == (3, 200, 4, "")
    assert cells["random", 0.1]["std"] is None
    (axes,) = found.figure.axes
    curves = {tuple(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 2}
    assert any(np.allclose(y, [85, 90]) for y in curves)  # entropy's line
    assert any(np.allclose(y, [95, 95]) for y in curves)  # full data, level
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["10 %", "50 %"]


def test_runs_that_differ_otherwise_stand_in_panels_and_lines_of_their_own(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 0.8)
    made_run(tmp_path / "b", 0.7, layers=3)
    made_run(tmp_path / "c", 0.6, interval=20)
    made_run(tmp_path / "d", 0.5, task="rte")
    made_run(tmp_path / "e", 2.5, task="wiki", metric="loss")
    found = ratio([tmp_path], silent)
    assert {(r["task"], r["setting"], r["select"]): r["mean"] for r in found.rows} == {
        ("sst2", "student.layers=6", "entropy (select.interval=10)"): 0.8,
        ("sst2", "student.layers=6", "entropy (select.interval=20)"): 0.6,
        ("sst2", "student.layers=3", "entropy"): 0.7,
        ("rte", "", "entropy"): 0.5,
        ("wiki", "", "entropy"): 2.5,
    }
    assert len(found.figure.axes) == 4
    assert "masked-LM loss" in found.figure.axes[-1].get_title(loc="left")  # the last task by name


def test_scores_against_the_temperature(tmp_path: Path) -> None:
    for tau in (1.0, 2.0, 8.0):
        made_run(tmp_path / f"t{tau}", tau / 10, share=1.0, tau=tau)
    made_run(tmp_path / "other", 0.5, tau=2.0)
    found = temperature([tmp_path], silent)
    assert [(r["select"], r["temperature"], r["mean"]) for r in found.rows] == [
        ("all 100 %", 1, 0.1), ("all 100 %", 2, 0.2), ("all 100 %", 8, 0.8), ("entropy 10 %", 2, 0.5),
    ]  # fmt: skip
    assert len(found.figure.axes) == 1 and found.figure.axes[0].get_xscale() == "log"


def test_scores_against_any_setting(tmp_path: Path) -> None:
    for layers, seed, score in ((2, 1, 0.5), (2, 2, 0.7), (4, 1, 0.8), (6, 1, 0.9)):
        made_run(tmp_path / f"{layers}-{seed}", score, seed, share=1.0, layers=layers)
    made_run(tmp_path / "other", 0.3, share=1.0, layers=4, tau=2.0)
    made_run(tmp_path / "list", 0.1, share=1.0, layers=[0, 2])
    said: list[str] = []
    found = across_runs.against([tmp_path], "student.layers", said.append)
    assert [(r["select"], r["student.layers"], r["seeds"], r["mean"]) for r in found.rows] == [
        ("temperature=1", 2, 2, pytest.approx(0.6)), ("temperature=1", 4, 1, 0.8), ("temperature=1", 6, 1, 0.9),
        ("temperature=2", 4, 1, 0.3),
    ]  # fmt: skip
    assert said == ["1 runs without a number in student.layers are left out"]
    (axes,) = found.figure.axes
    assert axes.get_xscale() == "linear" and [t.get_text() for t in axes.get_xticklabels()] == ["2", "4", "6"]
    assert any(np.allclose(line.get_ydata(), [60, 80, 90]) for line in axes.lines if len(line.get_xdata()) == 3)


def test_settings_in_another_order_are_the_same_settings(tmp_path: Path) -> None:
    made_run(tmp_path / "1", 0.5, 1, layers=2)
    other = made_run(tmp_path / "2", 0.7, 2, layers=2) / "config.yaml"
    config = yaml.safe_load(other.read_text())
    other.write_text(yaml.safe_dump(dict(reversed(config.items())), sort_keys=False))
    (row,) = across_runs.against([tmp_path], "student.layers", silent).rows
    assert (row["seeds"], row["mean"]) == (2, pytest.approx(0.6))


def test_a_setting_that_is_no_number_is_one_line(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 0.8)
    with pytest.raises(UserError, match=r"--key student.layer: .*; did you mean student.layers\b"):
        across_runs.against([tmp_path], "student.layer", silent)
    with pytest.raises(UserError, match=r"--key select.name: none of these runs has a number there"):
        across_runs.against([tmp_path], "select.name", silent)


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    made_run(tmp_path / "1", 0.1)
    made_run(tmp_path / "2", 0.2)  # the same run again
    (made_run(tmp_path / "3", 0.3) / "result.json").write_text('{"status": "running"}')
    (tmp_path / "result.json").write_text('{"status": "finished", "table": []}')  # of a suite of runs
    said: list[str] = []
    (row,) = across_runs.ratio([tmp_path], said.append).rows
    assert row["mean"] == 0.2 and row["seeds"] == 1
    assert said == [f"left out, running: {tmp_path / '3'}", f"left out, made again later: {tmp_path / '1'}"]


def test_one_place_on_the_axis_shows_nothing_and_writes_nothing(tmp_path: Path, capsys) -> None:
    """One ratio, full data alone, one temperature, one size: exit code 2 with one line, and no file."""
    made_run(tmp_path / "a" / "1", 0.8)
    made_run(tmp_path / "a" / "2", 0.7, layers=3, share=0.1)
    made_run(tmp_path / "full" / "1", 0.9, share=1.0)
    out = ["--out", str(tmp_path / "out")]
    for given, found in (
        (["ratio", "a"], "selection ratio needs runs at two or more of it that differ in nothing else; found 0.1"),
        (["ratio", "full"], "selection ratio needs runs at two or more of it; found 1"),
        (["temperature", "full"], "temperature needs runs at two or more of it; found "),
        (["against", "full", "--key", "student.layers"], "student.layers needs runs at two or more of it; found 6"),
    ):
        name, runs, *more = given
        assert analyse.main([name, str(tmp_path / runs), *more, *out]) == 2
        said = capsys.readouterr().err
        assert said.startswith("kdlab: ") and found in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    # a task at one ratio has no panel beside one at two, and the command says so
    made_run(tmp_path / "two" / "1", 0.8)
    made_run(tmp_path / "two" / "2", 0.7, share=0.5)
    made_run(tmp_path / "two" / "3", 0.6, task="rte")
    assert analyse.main(["ratio", str(tmp_path / "two"), *out]) == 0
    assert "not drawn, at one selection ratio (0.1): rte" in capsys.readouterr().out
    assert len(ratio([tmp_path / "two"], silent).figure.axes) == 1


def test_nothing_to_compare_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run in"):
        ratio([tmp_path], silent)
    with pytest.raises(UserError, match="no such folder"):
        ratio([tmp_path / "none"], silent)
    run = made_run(tmp_path / "x", 0.5)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["knowledge"]["terms"]["soft"]["weight"] = 0.0  # its temperature is nobody's
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="none of these runs has a temperature"):
        temperature([tmp_path], silent)
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"config.yaml cannot be read"):
        ratio([tmp_path], silent)
