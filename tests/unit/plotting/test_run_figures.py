"""kdlab.plotting.run_figures and kdlab.plotting.style: what the pictures of a run show, against shares counted by hand and step by step."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from kdlab.errors import UserError
from kdlab.plotting import files, style
from kdlab.plotting.colours import COLOURS, colour, colours
from kdlab.plotting.run_figures import draw
from kdlab.plotting.run_tables import window_shares
from kdlab.plotting.teaching_figures import smoothed
from tests.support.selections import SELECTIONS, SINGLE

ARMS = ["entropy", "margin", "least_confidence", "certainty", "cluster", "density"]
SELECTOR = ["step", "arm", "observation", "speed", "reward", *(f"q_{arm}" for arm in ARMS), "teacher_queries"]
METRICS = ["step", "epoch", "train_loss", "heldout_loss", "heldout_accuracy", "teacher_queries", "seconds"]


def rows_of(*taken: tuple[int, str]) -> list[dict[str, str]]:
    return [{"step": str(step), "arm": arm} for step, arm in taken]


def table(path: Path, columns: list[str], rows: list[dict]) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def adads(run: Path, steps: int = 300, interval: int = 5) -> Path:
    """A made-up but likely run: 10 % of 32 rows a step, a bandit that comes to prefer one arm after another."""
    run.mkdir(exist_ok=True)
    rng, q, arm, selector = np.random.default_rng(0), dict.fromkeys(ARMS, 0.0), None, []
    for step in range(0, steps, interval):
        row = {"step": step, "observation": 6 - step / steps + rng.normal(0, 0.02), "teacher_queries": 3 * step}
        if step >= 5 * interval:
            row["reward"] = rng.normal(0.01 if arm in ("margin", "cluster") else -0.01, 0.02)
            q[arm] = 0.1 * row["reward"] + 0.9 * q[arm]
        arm = str(rng.choice(ARMS)) if rng.random() < 0.2 else max(q, key=q.__getitem__)
        selector.append(row | {"arm": arm} | {f"q_{name}": value for name, value in q.items()})
    table(run / "selector.csv", SELECTOR, selector)
    metrics = [
        {"step": s, "heldout_loss": 5 + np.exp(-s / 60), "heldout_accuracy": 0.3 - 0.1 * np.exp(-s / 60), "teacher_queries": 3 * s}
        for s in range(0, steps + 1, 50)
    ]  # fmt: skip
    table(run / "metrics.csv", METRICS, metrics)
    result = {"name": "adads_$pretrain_", "select": {"name": "adads", "ratio": 0.1}, "scale": "demo", "steps": steps}
    result["metrics"] = {"teacher": {"loss": 4.95, "accuracy": 0.301}}
    (run / "result.json").write_text(json.dumps(result))
    return run


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict:
    """The figures as they are saved, by title."""
    seen, save = {}, files.png
    monkeypatch.setattr(files, "png", lambda figure: seen.update({figure.texts[0].get_text(): figure}) or save(figure))
    return seen


# ---- shares


def test_shares_by_hand() -> None:
    shares = window_shares(rows_of((0, "a"), (10, "b"), (15, "a")), total_steps=40, windows=4)
    assert shares.edges.tolist() == [0, 10, 20, 30, 40]
    assert shares.of["a"].tolist() == [1, 0.5, 1, 1]
    assert shares.of["b"].tolist() == [0, 0.5, 0, 0]


def test_an_arm_counts_for_as_long_as_it_served_not_for_how_often_it_was_chosen() -> None:
    shares = window_shares(rows_of((0, "b"), (1, "a"), (2, "b"), (3, "a")), total_steps=20, windows=2)
    np.testing.assert_allclose(shares.of["b"], [0.2, 0])
    np.testing.assert_allclose(shares.of["a"], [0.8, 1])


def test_a_decision_in_the_middle_of_a_window_is_split_at_its_edge() -> None:
    shares = window_shares(rows_of((0, "a"), (10, "b"), (15, "a")), total_steps=30, windows=5)  # 6 steps a window
    np.testing.assert_allclose(shares.of["b"], [0, 2 / 6, 3 / 6, 0, 0])


def test_windows_begin_at_the_first_row_and_the_last_of_one_step_holds() -> None:
    shares = window_shares(rows_of((4, "a"), (8, "b"), (8, "c"), (99, "d")), total_steps=12, windows=2)
    assert shares.edges.tolist() == [4, 8, 12]
    assert {arm: share.tolist() for arm, share in shares.of.items()} == {
        "a": [1, 0],
        "b": [0, 0],
        "c": [0, 1],
        "d": [0, 0],
    }


def test_arms_that_were_never_taken_are_there_and_the_order_is_that_of_the_package() -> None:
    rows = [{"step": "0", "arm": "density", "q_mine": "0", "q_density": "0", "q_entropy": "0"}]
    shares = window_shares(rows, 10, 1)
    assert list(shares.of) == ["entropy", "density", "mine"]
    assert shares.of["entropy"].tolist() == [0]


def test_shares_are_those_of_counting_every_step() -> None:
    rng = np.random.default_rng(1)
    steps = np.sort(rng.choice(np.arange(1, 240), 50, replace=False))
    taken = [(0, "a"), *((int(step), str(rng.choice(["a", "b", "c"]))) for step in steps)]
    shares = window_shares(rows_of(*taken), 240, 12)
    of_step = [[arm for start, arm in taken if start <= step][-1] for step in range(240)]
    for arm in "abc":
        counted = (np.array(of_step) == arm).reshape(12, 20).mean(1)
        np.testing.assert_allclose(shares.of[arm], counted, atol=1e-12)


@pytest.mark.parametrize("windows", [1, 7, 24, 100])
def test_shares_sum_to_one_in_each_window(windows: int) -> None:
    rows = rows_of((0, "a"), (3, "b"), (50, "a"), (77, "c"), (78, "a"))
    np.testing.assert_allclose(sum(window_shares(rows, 101, windows).of.values()), np.ones(windows), atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "windows"), [([], 1), (rows_of((10, "a")), 1), (rows_of((0, "a")), 0), (rows_of((5, "a"), (1, "b")), 1)]
)
def test_shares_of_nothing_or_of_a_disorder_are_refused(rows: list, windows: int) -> None:
    with pytest.raises(ValueError):
        window_shares(rows, 10, windows)


# ---- colours and names


def test_a_strategy_has_one_colour_in_every_run() -> None:
    everyone = colours([*COLOURS, "mine", "yours"])
    assert len(set(everyone.values())) == len(COLOURS) + 2
    for arms in (["density"], ["random", "entropy"], ["mine"], ["zzz", *ARMS]):
        assert all(colours(arms)[arm] == everyone[arm] for arm in arms if arm in everyone)
    nine = colours(f"arm{i}" for i in range(9))
    assert len(set(nine.values())) == 9


def test_every_choice_of_select_has_a_colour_of_its_own() -> None:
    """Also a strategy that the palette does not name."""
    assert set(COLOURS) <= set(SINGLE)
    hues = colours(SELECTIONS)
    assert len(set(hues.values())) == len(SELECTIONS)
    for name in SINGLE:
        assert to_rgb(hues[name]) and colours([name])[name] == colours([name, *COLOURS])[name]
    for name in SELECTIONS:  # alone and beside all others, and its variants
        assert colours([name])[name] == hues[name] == colour(f"{name} (interval=5)")


def test_names_move_apart_as_little_as_needed() -> None:
    np.testing.assert_allclose(style.apart([0.5, 0.5], 0.2), [0.4, 0.6])
    np.testing.assert_allclose(style.apart([0.0, 0.0, 0.9], 0.1), [0.0, 0.1, 0.9])
    np.testing.assert_allclose(style.apart([0.2, 0.9], 0.1), [0.2, 0.9])


# ---- whole run folders


def test_a_run_that_learns_gets_all_figures_at_1200_pixels(tmp_path: Path) -> None:
    files = draw(adads(tmp_path))
    assert [file.name for file in files] == ["schedule.png", "q_values.png", "heldout.png", "schedule.csv"]
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {file.name for file in files}
    assert [imread(file).shape[:2] for file in files[:3]] == [(660, 1200), (780, 1200), (810, 1200)]


def test_the_csv_holds_what_the_picture_shows(tmp_path: Path) -> None:
    draw(adads(tmp_path, steps=600))  # 120 decisions
    with open(tmp_path / "figures" / "schedule.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["from_step", "to_step", *(f"share_{arm}" for arm in ARMS)]
    assert len(rows) == 24
    assert [float(row["from_step"]) for row in rows] == [25 * i for i in range(24)]
    with open(tmp_path / "selector.csv", newline="") as file:
        taken = [row["arm"] for row in csv.DictReader(file)]
    for window, row in enumerate(rows):
        for arm in ARMS:
            assert float(row[f"share_{arm}"]) == pytest.approx(taken[5 * window : 5 * window + 5].count(arm) / 5)


def test_the_same_tables_give_the_same_bytes_without_pyplot_or_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would raise
    settings = dict(matplotlib.rcParams.copy())  # the copy does not look for a backend
    first = {file.name: file.read_bytes() for file in draw(adads(tmp_path))}
    assert dict(matplotlib.rcParams.copy()) == settings
    assert {file.name: file.read_bytes() for file in draw(tmp_path)} == first
    assert b"matplotlib" not in first["schedule.png"].lower()


def test_a_torn_last_line_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    whole = {file.name: file.read_bytes() for file in draw(adads(tmp_path))}
    for name, torn in (("selector.csv", "299,cert"), ("metrics.csv", "299,,1.5,99")):
        with open(tmp_path / name, "a") as file:
            file.write(torn)
    assert {file.name: file.read_bytes() for file in draw(tmp_path)} == whole


def test_one_arm_fills_the_whole_area_in_its_colour(tmp_path: Path) -> None:
    rows = [{"step": step, "arm": "margin", "teacher_queries": 3 * step} for step in range(0, 100, 10)]
    table(tmp_path / "selector.csv", ["step", "arm", "observation", "speed", "reward", "teacher_queries"], rows)
    files = draw(tmp_path)
    assert [file.name for file in files] == ["schedule.png", "schedule.csv"]
    pixels = imread(files[0])[:, :, :3]
    for x, y in ((150, 200), (500, 350), (900, 500), (500, 562)):  # three in the area, one in the strip
        np.testing.assert_allclose(pixels[y, x], to_rgb(COLOURS["margin"]), atol=1 / 255)


def test_bands_lie_where_the_arms_served(tmp_path: Path) -> None:
    taken = [(0, "certainty"), (25, "density"), (50, "density"), (75, "density"), (90, "density"), (95, "density")]
    table(tmp_path / "selector.csv", ["step", "arm"], [{"step": s, "arm": a} for s, a in taken])
    (tmp_path / "result.json").write_text('{"steps": 100}')
    pixels = imread(draw(tmp_path)[0])[:, :, :3]  # two windows; certainty served half of the first
    blue, pink = to_rgb(COLOURS["certainty"]), to_rgb(COLOURS["density"])
    low, high, strip = 480, 220, 562
    start, early, middle_left, middle_right, late = 130, 300, 512, 526, 900  # step 25 is at 318, step 50 at 519
    expected = {(x, low): blue for x in (start, early, middle_left)} | {(x, low): pink for x in (middle_right, late)}
    expected |= {(x, high): pink for x in (start, early, middle_left, middle_right, late)}
    expected |= {(start, strip): blue, (early, strip): blue, (middle_left, strip): pink, (late, strip): pink}
    for (x, y), hue in expected.items():
        np.testing.assert_allclose(pixels[y, x], hue, atol=1 / 255)


def test_queries_stand_above_the_step_at_which_they_were_reached(tmp_path: Path, drawn: dict) -> None:
    rows = [{"step": s, "arm": "margin", "teacher_queries": n} for s, n in ((0, 0), (20, 100), (60, 200), (70, 300))]
    table(tmp_path / "selector.csv", ["step", "arm", "teacher_queries"], rows)
    table(tmp_path / "metrics.csv", ["step", "teacher_queries"], [{"step": 100, "teacher_queries": 400}])
    draw(tmp_path)
    (above,) = [axes for axes in drawn.popitem()[1].axes if axes.get_xlabel().startswith("teacher queries")]
    ticks = dict(zip([t.get_text() for t in above.get_xticklabels()], above.get_xticks(), strict=True))
    assert {label: ticks[label] for label in ("0", "100", "200", "300", "400")} == {
        "0": 0, "100": 20, "200": 60, "300": 70, "400": 100,
    }  # fmt: skip


@pytest.mark.parametrize("asked", [True, False])
def test_heldout_is_drawn_against_queries_or_where_there_are_none_against_steps(
    tmp_path: Path, drawn: dict, asked: bool
) -> None:
    rows = [
        {"step": s, "heldout_loss": loss, "heldout_accuracy": share, "teacher_queries": 4 * s * asked}
        for s, loss, share in ((0, 6.0, 0.1), (50, 5.0, 0.25), (100, "", ""), (150, 4.5, 0.3))
    ]
    table(tmp_path / "metrics.csv", METRICS, rows)
    assert [file.name for file in draw(tmp_path)] == ["heldout.png"]  # no selector.csv
    accuracy, loss = drawn.popitem()[1].axes
    scale = 4 if asked else 1
    assert loss.lines[0].get_xydata().tolist() == [[0, 6], [50 * scale, 5], [150 * scale, 4.5]]
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [10, 25, 30])
    assert accuracy.get_xlabel() == ("teacher queries so far" if asked else "training step")


def test_a_reward_has_the_colour_of_the_arm_that_earned_it(tmp_path: Path, drawn: dict) -> None:
    columns = ["step", "arm", "reward", "q_entropy", "q_margin"]
    rows = [(0, "entropy", "", 0, 0), (10, "margin", 0.5, 0.05, 0), (20, "margin", -1, 0.05, -0.1)]
    table(tmp_path / "selector.csv", columns, [dict(zip(columns, row, strict=True)) for row in rows])
    draw(tmp_path)
    values, rewards = next(figure for title, figure in drawn.items() if "Q" in title).axes
    (bars,) = rewards.collections
    assert [bar.tolist() for bar in bars.get_segments()] == [[[10, 0], [10, 0.5]], [[20, 0], [20, -1]]]
    assert [tuple(colour[:3]) for colour in bars.get_color()] == [to_rgb(COLOURS["entropy"]), to_rgb(COLOURS["margin"])]
    assert values.lines[1].get_ydata().tolist() == [0, 0, -0.1, -0.1]  # margin, held until the end


def test_a_run_that_has_hardly_begun(tmp_path: Path) -> None:
    assert draw(tmp_path) == []
    table(tmp_path / "selector.csv", SELECTOR, [])
    (tmp_path / "metrics.csv").touch()
    (tmp_path / "result.json").write_text('{"status": "runn')
    assert draw(tmp_path) == []
    assert not (tmp_path / "figures").exists()
    table(tmp_path / "selector.csv", SELECTOR, [{"step": 0, "arm": "density", "q_density": 0.0, "teacher_queries": 0}])
    table(tmp_path / "metrics.csv", METRICS, [{"step": 0, "heldout_loss": 7.0, "teacher_queries": 0}])
    (tmp_path / "result.json").write_text('{"name": 3, "select": "adads", "metrics": null, "steps": "many"}')
    assert len(draw(tmp_path)) == 4


def test_figures_that_are_not_drawn_are_named_with_the_reason(tmp_path: Path) -> None:
    def said(folder: Path, **result) -> list[str]:
        lines: list[str] = []
        draw(folder, result, lines.append)
        return lines

    evaluation = "scores along the training (metrics.csv has no evaluation)"
    assert said(tmp_path, select={"name": "entropy", "ratio": 1.0}) == [
        f"figures not drawn: schedule and Q values (select.ratio=1 selects every row); {evaluation}"
    ]
    assert said(tmp_path) == [f"figures not drawn: schedule and Q values (no strategy chose rows); {evaluation}"]
    fixed = table(tmp_path / "selector.csv", ["step", "arm"], [{"step": 0, "arm": "margin"}]).parent
    table(fixed / "metrics.csv", METRICS, [{"step": 0, "heldout_loss": 7.0}, {"step": 5, "heldout_loss": 6.0}])
    assert said(fixed, steps=10) == ["figures not drawn: Q values (the selection learns none)"]
    assert said(adads(tmp_path / "whole"), steps=300) == []


def test_a_panel_without_a_number_is_not_there(tmp_path: Path, drawn: dict) -> None:
    table(tmp_path / "metrics.csv", METRICS, [{"step": 0, "heldout_loss": 7.0}, {"step": 5, "heldout_loss": 6.0}])
    draw(tmp_path, {})
    (figure,) = drawn.values()
    (only,) = figure.axes
    assert only.get_title(loc="left").startswith("masked-LM loss") and only.get_xlabel() == "training step"


@pytest.mark.parametrize(
    ("given", "metric"),
    [
        ({"data": {"name": "reviews", "shape": {"metrics": ["accuracy", "f1"]}}}, "accuracy and F1"),
        ({"data": {"name": "reviews", "metric": "macro_f1", "shape": {"metrics": ["accuracy"]}}}, "macro F1"),
        ({"data": {"name": "reviews"}, "metrics": {"student": {"loss": 3.0}}}, "masked-LM loss"),
    ],
)
def test_subtitles_have_data_set_metric_and_seed(given: dict, metric: str, tmp_path: Path, drawn: dict) -> None:
    table(tmp_path / "metrics.csv", METRICS, [{"step": 0, "heldout_loss": 7.0}, {"step": 5, "heldout_loss": 6.0}])
    every_step(tmp_path, 6, weight_soft=[1] * 6)
    draw(tmp_path, {"name": "mine", "seed": 7, **given})
    assert len(drawn) == 2  # of selection and scores, of teachers and knowledge: each has a subtitle of its own
    for figure in drawn.values():
        words = re.split(r"\s+·\s+", figure.texts[1].get_text())
        at = words.index("reviews")
        assert words[at : at + 3] == ["reviews", metric, "seed 7"]


def test_damaged_tables_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        draw(tmp_path / "none")
    (tmp_path / "selector.csv").write_text("step,arm\nten,margin\n")
    with pytest.raises(UserError, match="line 2: step must be a number, found 'ten'"):
        draw(tmp_path)
    (tmp_path / "selector.csv").write_text("time,arm\n1,margin\n")
    with pytest.raises(UserError, match="no column step; found time, arm"):
        draw(tmp_path)
    assert not (tmp_path / "figures").exists()


# ---- teachers and knowledge


def every_step(run: Path, steps: int, **columns: list) -> Path:
    """A knowledge.csv with these columns."""
    run.mkdir(exist_ok=True)
    rows = [{"step": step, **{name: values[step] for name, values in columns.items()}} for step in range(steps)]
    table(run / "knowledge.csv", ["step", *columns], rows)
    return run


def captions(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def test_a_moving_mean_is_that_of_the_values_there_are() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=20)
    for width in (1, 3, 7):
        half = width // 2
        by_hand = [values[max(0, i - half) : i + half + 1].mean() for i in range(20)]
        np.testing.assert_allclose(smoothed(values, width), by_hand)
    np.testing.assert_allclose(smoothed([1.0, 5.0], 5), [3, 3])


def test_weights_and_teachers_are_drawn_over_the_steps(tmp_path: Path, drawn: dict) -> None:
    soft = [0.1, 0.3, 0.2, 0.4]
    every_step(tmp_path, 4, weight_soft=soft, weight_cosine=[1.0] * 4, asked_small=[0.5] * 4, asked_big=[0.5] * 4)
    (tmp_path / "result.json").write_text('{"steps": 4, "policy": {"name": "mine", "reward_data": "dev"}}')
    assert [file.name for file in draw(tmp_path)] == ["knowledge.png"]
    (figure,) = drawn.values()
    assert figure.texts[1].get_text() == "rewarded on dev · weigh=mine"
    weights, teachers = figure.axes
    np.testing.assert_allclose(weights.lines[0].get_xydata(), [*enumerate(soft), (4, 0.4)])  # the last one holds
    assert [text.get_text() for text in weights.texts] == ["soft 0.40", "cosine 1.00"]
    small, big = teachers.lines[:2]
    assert set(small.get_ydata()) == set(big.get_ydata()) == {50}
    assert small.get_linewidth() > big.get_linewidth()  # it lies below, and is seen on both sides


def test_the_names_of_the_lines_lie_within_the_picture(tmp_path: Path, drawn: dict) -> None:
    every_step(tmp_path, 2, **{"weight_" + "long_" * 9: [1, 1], "asked_" + "wide" * 9: [1, 1], "asked_b": [0, 1]})
    draw(tmp_path)
    (figure,) = drawn.values()
    boxes = [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    assert len(boxes) == 3
    assert all(box.x1 <= 1200 for box in boxes)


def test_a_heat_map_for_each_teacher_whose_layers_are_chosen_among(tmp_path: Path, drawn: dict) -> None:
    of = {"layer_aligned_small_1": [1, 1, 0, 0], "layer_aligned_small_2": [0, 0.5, 1, ""], "asked_small": [1] * 4}
    of |= {"layer_aligned_far_away_1": [0.25] * 4, "asked_far_away": [0] * 4, "layer_soft_small_1": [""] * 4}
    draw(every_step(tmp_path, 4, **of))
    (figure,) = drawn.values()
    assert captions(figure)[1:] == [
        "teacher layers learnt from (% of rows): aligned · small",
        "teacher layers learnt from (% of rows): aligned · far_away",
    ]
    (mesh,) = figure.axes[1].collections
    cells = np.ma.filled(mesh.get_array(), np.nan)
    np.testing.assert_array_equal(cells, [[100, 100, 0, 0], [0, 50, 100, np.nan]])  # layer 1 is the lowest row


def test_layers_are_means_over_windows_of_equal_length(tmp_path: Path, drawn: dict) -> None:
    shares = np.random.default_rng(3).random(240)
    draw(every_step(tmp_path, 240, layer_aligned_teacher_1=shares.tolist()))
    (mesh,) = next(iter(drawn.values())).axes[0].collections
    np.testing.assert_allclose(mesh.get_array()[0], 100 * shares.reshape(60, 4).mean(1))


def test_arms_in_force_are_drawn_where_there_are_several(tmp_path: Path, drawn: dict) -> None:
    arms = ["hard", "soft", "hard", "hard", "hard", "hard"]
    draw(every_step(tmp_path, 6, adopt=arms, weigh=["ksm"] * 6, weight_soft=[1] * 6))
    (figure,) = drawn.values()
    assert captions(figure)[1:] == ["arm of adoption in force (% of the steps)"]
    assert [t.get_text() for t in figure.axes[1].get_legend().get_texts()] == ["soft  17 %", "hard  83 %"]


def test_nothing_is_drawn_of_a_knowledge_table_without_decisions(tmp_path: Path) -> None:
    assert draw(every_step(tmp_path, 5, layer_soft_teacher_1=[""] * 5, weight_soft=[""] * 5)) == []


def module(run: Path, episodes: int, phases: int, **more: float) -> Path:
    """A ksm.csv whose every phase earned its number over all episodes."""
    columns = ["episode", "step", "measured", "reward", "weight_soft", "phase_error", "exploration_error", "objective"]
    rows = [
        {"episode": e + 1, "step": 8 * (p + 1), "measured": 1.0, "reward": e * phases + p + 1.0, "weight_soft": 0.25}
        | {"phase_error": 0.5, "exploration_error": 0.1 if p else "", "objective": 0.0, **more}
        for e in range(episodes)
        for p in range(phases)
    ]
    table(run / "ksm.csv", columns, rows)
    return run


def test_rewards_actions_and_errors_of_a_module_follow_its_episodes(tmp_path: Path, drawn: dict) -> None:
    assert [file.name for file in draw(module(tmp_path, 2, 3))] == ["ksm.png"]
    (figure,) = drawn.values()
    rewards, actions, errors = figure.axes
    bars = rewards.collections[0].get_segments()
    assert [(bar[0][0], bar[1][1]) for bar in bars] == [(i, i) for i in range(1, 7)]  # episodes side by side
    assert rewards.texts[-1].get_text() == "sums\nepisode 1  +6.000\nepisode 2  +15.000"
    assert [line.get_xdata().tolist() for line in actions.lines[:2]] == [[1, 2, 3], [4, 5, 6]]
    assert [line.get_xdata().tolist() for line in errors.lines[2:4]] == [[2, 3], [5, 6]]  # exploration: not the first
    assert errors.get_xlabel() == "phase of the module's training (8 steps each)"
    assert "loss" in captions(figure)[0]


def test_a_reward_by_score_is_called_so(tmp_path: Path, drawn: dict) -> None:
    draw(module(tmp_path, 1, 2, measured=-0.8, phase_error=0.0, exploration_error=0.0))
    (figure,) = drawn.values()
    assert captions(figure) == ["reward of each phase: rise of the student's score", "weights the module took (mean over the phase)"]  # fmt: skip


def test_a_damaged_table_of_a_module_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "ksm.csv").write_text("step,reward\n1,0.5\n")
    with pytest.raises(UserError, match="no column episode"):
        draw(tmp_path)
