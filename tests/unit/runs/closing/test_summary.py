"""The output of a finished run: the closing table, the comparison with random, the model card."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdlab.config import quoting
from kdlab.config.composition import composition
from kdlab.runs.closing import beside_random, cost_lines, model_card, scores, summary
from tests.support import shells

RESULT: dict[str, Any] = {
    "status": "finished",
    "stage": "finetune",
    "steps": 8,
    "seed": 1,
    "knowledge": "response",
    "select": {"name": "entropy", "ratio": 0.25},
    "metrics": {
        "student": {"loss": 0.51234, "accuracy": 0.8125, "f1": 0.75, "score": 0.78125},
        "teacher": {"loss": 0.3, "accuracy": 0.9, "f1": 0.88, "score": 0.89},
        "majority class": {"accuracy": 0.6, "f1": 0.0, "score": 0.3},
        "no KD": {"loss": 0.6, "accuracy": 0.7, "f1": 0.6, "score": 0.65},
    },
    "ledger": {
        "teacher_queries": {"total": 1032, "unique": 1000, "cached": 0},
        "flops": {"total": 5.5e12, "all_data": 11e12},
        "seconds": {"training": 100.0, "all_data": 250.0},
        "rows_seen": 4128,
        "speedup": {"queries": 4.0, "flops": 2.0, "wallclock": 2.5},
    },
    "data": {"source": "TaskFolder", "task": "mrpc", "fingerprint": "0123456789abcdef0", "splits": {"dev": {"rows": 1234}}},
    "teacher": {"name": "bert", "sha256": None, "layers": 4},
    "student": {"layers": 2},
    "versions": {"kdlab": "0.1"},
    "command": ["python", "-m", "kdlab.run", "+exp=adads_finetune", "select=entropy", "select.ratio=0.25", "hydra.run.dir=x"],
}  # fmt: skip


def result(**changes: Any) -> dict[str, Any]:
    """RESULT with some values changed, by dotted names (two underscores for a dot)."""
    made = copy.deepcopy(RESULT)
    for name, value in changes.items():
        *path, last = name.split("__")
        node = made
        for part in path:
            node = node[part]
        node[last] = value
    return made


def test_the_quality_table_has_all_that_the_student_is_read_against():
    head, *lines = scores.quality(result())
    assert head.split() == ["dev", "set", "(1,234", "rows)", "loss", "accuracy", "f1", "score"]
    assert [re.split(r"\s{2,}", line.strip()) for line in lines] == [
        ["majority class", "-", "60.0%", "0.0", "30.0"],
        ["no KD", "0.600", "70.0%", "60.0", "65.0"],
        ["student", "0.512", "81.2%", "75.0", "78.1"],
        ["teacher", "0.300", "90.0%", "88.0", "89.0"],
    ]


def test_table_and_card_name_the_data_metric_and_seed_and_no_class():
    text = summary.table(result(), Path("x"))
    assert text.splitlines()[1] == "MRPC, accuracy and f1, seed 1"
    own = result(data__task=None, data__path="/rows/my rows", data__metric="f1", seed=7)
    assert summary.table(own, Path("x")).splitlines()[1] == "my rows, f1, seed 7"
    card = model_card.card(own)
    assert "# A student of bert on my rows\n" in card and "Trained on: my rows\n" in card
    text = result(
        stage="pretrain",
        data__task=None,
        data__source="WikipediaExcerpt",
        metrics={"student": {"loss": 3.0, "accuracy": 0.1}},
    )
    assert summary.table(text, Path("x")).splitlines()[1] == "Wikipedia excerpt, masked-LM loss, seed 1"
    for made in (own, text):
        assert "TaskFolder" not in model_card.card(made) and "WikipediaExcerpt" not in model_card.card(made)


def test_the_card_says_what_the_student_started_from():
    assert "layers 2 of the teacher's backbone." in model_card.card(result())
    narrow = model_card.card(result(student={"layers": 2, "hidden": 16}))
    assert "2 layers of width 16 from random weights: narrower than the teacher, and not pre-trained." in narrow
    text = {"stage": "pretrain", "metrics": {"student": {"loss": 3.0, "accuracy": 0.1}}}
    assert "on nothing but the text of this run." in model_card.card(
        result(student={"layers": 2, "hidden": 16}, **text)
    )
    own = model_card.card(result(student={"layers": None, "made_of": "0123"}))
    assert "initial weights from a model of its own, not from the teacher." in own
    for card in (narrow, own):
        assert "backbone" not in card


def test_one_metric_needs_no_score_and_both_sets_of_mnli_have_columns():
    one = {"loss": 0.5, "accuracy": 0.75, "score": 0.75}
    head = scores.quality(result(metrics={"student": one}))[0]
    assert "score" not in head
    two = {"loss": 0.5, "accuracy": 0.75, "loss_mismatched": 0.6, "accuracy_mismatched": 0.7, "score": 0.725}
    head, line = scores.quality(result(metrics={"student": two}))
    assert " ".join(head.split()[4:]) == "loss accuracy loss mm accuracy mm score"
    assert re.split(r"\s{2,}", line.strip()) == ["student", "0.500", "75.0%", "0.600", "70.0%", "72.5"]


def test_text_is_said_to_be_text():
    found = {"student": {"loss": 3.21, "accuracy": 0.4}, "teacher": {"loss": 2.0, "accuracy": 0.5}}
    made = result(stage="pretrain", metrics=found)
    head, student, teacher = scores.quality(made)
    assert head.startswith("held-out text") and "masked positions" in head
    assert student.split() == ["student", "3.210", "40.0%"] and teacher.split() == ["teacher", "2.000", "50.0%"]
    assert scores.headline(made) == "loss 3.210" and scores.headline(result()) == "score 78.1"


def test_costs_are_beside_those_of_all_data():
    text = summary.table(result(), Path("runs/x"))
    rows = {re.split(r"\s{2,}", line.strip())[0]: re.split(r"\s{2,}", line.strip())[1:] for line in text.splitlines()}
    assert rows["teacher queries"] == ["1,032", "4,128", "4.00x"]
    assert rows["model FLOPs"] == ["5.50 T", "11.00 T", "2.00x"]
    assert rows["wall-clock"] == ["100.0 s", "4.2 min", "2.50x"]
    assert "run folder: runs/x" in text and "schedule.png" not in text and "checkpoints" not in text
    text = summary.table(result() | {"checkpoints": {"written": 3, "seconds": 1.96, "share": 0.01234}}, Path("runs/x"))
    assert "\ncheckpoints: 3 written in 2.0 s, 1.2% of the run\n" in text


def test_a_run_without_a_teacher_names_no_queries_and_how_its_student_can_teach():
    made = result(
        metrics={"student": {"loss": 0.5, "accuracy": 0.7, "score": 0.7}}, select={"name": "all", "ratio": 1.0}
    )
    text = summary.table(made, Path("runs/x"))
    assert "teacher queries" not in text and "cost: no teacher, 5.50 TFLOPs, 100.0 s" in text
    assert "teachers.path=runs/x/student" in text and "schedule.png" not in text


def test_what_was_not_measured_is_a_dash():
    made = result(ledger__speedup={"queries": None, "flops": 2.0, "wallclock": None})
    made["ledger"]["seconds"]["all_data"] = None
    text = summary.table(made, Path("x"))
    (line,) = [line for line in text.splitlines() if "wall-clock" in line]
    assert line.split() == ["wall-clock", "100.0", "s", "-", "-"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (999_999, "999999"), (1e6, "1.00 M"), (1.5e9, "1.50 G"), (14.38e12, "14.38 T"), (2e15, "2.00 P"), (3e18, "3.00 E")],
)  # fmt: skip
def test_large_counts_have_a_prefix(value, shown):
    assert cost_lines.si(value) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(None, "-"), (0.04, "0.0 s"), (119.9, "119.9 s"), (120, "2.0 min")])
def test_seconds_in_words(seconds, shown):
    assert cost_lines.duration(seconds) == shown


# ---- several teachers, and what was trained first

STAGES = [
    {"what": "teacher, 12 layers, fine-tuned", "made_now": False, "queries": 0, "flops": 2e15, "seconds": 600.0, "steps": 300},
    {"what": "assistant, 9 layers, distilled", "made_now": True, "queries": 3500, "flops": 1e15, "seconds": 300.0, "steps": 300},
]  # fmt: skip


def test_teachers_stand_below_the_student_the_main_one_last():
    one = {"loss": 0.5, "accuracy": 0.75, "score": 0.75}
    found = {"student": one, "assistant": one, "teacher": one, "teacher small": one, "majority class": one}
    _, *lines = scores.quality(result(metrics=found))
    names = [re.split(r"\s{2,}", line.strip())[0] for line in lines]
    assert names == ["majority class", "student", "assistant", "teacher small", "teacher"]
    long = {"student": one, "teacher specialist-of-a-long-name": one}
    head, *lines = scores.quality(result(metrics=long))
    assert len({len(line) for line in (head, *lines)}) == 1  # columns stay columns


def test_a_run_with_specialists_alone_has_a_teacher():
    one = {"loss": 0.5, "accuracy": 0.75, "score": 0.75}
    found = {"student": one, "teacher specialist-1": one, "teacher specialist-2": one}
    assert "teacher queries" in summary.table(result(metrics=found), Path("x"))
    assert "Distilled from bert" in model_card.card(result(metrics=found))


def test_every_stage_of_the_preparation_has_a_line_and_all_of_them_a_total():
    lines = cost_lines.preparation(result(preparation=STAGES))
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[1:]]
    assert rows == [
        ["cost of preparation, paid once", "queries", "model FLOPs", "wall-clock"],
        ["teacher, 12 layers, fine-tuned (found)", "0", "2.00 P", "10.0 min"],
        ["assistant, 9 layers, distilled (now)", "3,500", "1.00 P", "5.0 min"],
        ["total", "3,500", "3.00 P", "15.0 min"],
        ["with this run", "4,532", "3.01 P", "16.7 min"],
    ]
    assert "\n".join(lines) in summary.table(result(preparation=STAGES), Path("x"))
    assert len({len(line) for line in lines[1:]}) == 1


def test_what_nobody_counted_is_a_dash_and_in_no_total():
    unknown = {
        "what": "teacher, 4 layers, fine-tuned",
        "made_now": False,
        "queries": None,
        "flops": None,
        "seconds": None,
    }
    rows = [line.split() for line in cost_lines.preparation(result(preparation=[unknown, STAGES[1]]))[2:]]
    assert rows[0][-3:] == ["-", "-", "-"] and rows[2][:2] == ["total", "3,500"]
    assert cost_lines.preparation(result()) == [] == cost_lines.preparation(result(preparation=[]))


# ---- the next command


def next_of(made: dict[str, Any], folder: Path = Path("x")) -> tuple[str, list[str]]:
    """The words before the first next command, and its overrides as a shell passes them; their configuration is valid."""
    return nexts_of(made, folder)[0]


def nexts_of(made: dict[str, Any], folder: Path = Path("x")) -> list[tuple[str, list[str]]]:
    """As `next_of` of each line with a next command."""
    return [_parsed(line) for line in summary.table(made, folder).splitlines() if line.startswith("next:")]


def _parsed(line: str) -> tuple[str, list[str]]:
    (arguments,) = shells.commands_in(line)
    shells.config_of(arguments)
    return line.partition(":  python")[0], arguments[2:]


def typed(made: dict[str, Any], *overrides: str) -> dict[str, Any]:
    """`made` as the result of a command with these overrides."""
    return {**made, "command": ["python", "-m", "kdlab.run", *overrides]}


def test_after_a_strategy_it_is_random_at_the_same_ratio_and_cost():
    says, overrides = next_of(result())
    assert says == "next: as many rows, drawn at random: 1x the queries"
    assert overrides == ["+exp=adads_finetune", "select.ratio=0.25", "select=random"]


def test_a_strategy_that_scores_rows_has_random_rows_at_the_same_cost_too():
    made = typed(result(), "+exp=adads_finetune", "select=entropy", "trainer.max_steps=50", "hydra.run.dir=x")
    (_, rows), (says, overrides) = nexts_of(made, Path("out/a b"))
    assert rows == ["+exp=adads_finetune", "trainer.max_steps=50", "select=random"]
    assert says == "next: drawn at random, as many FLOPs"
    open_end = ["trainer.max_steps=null", "trainer.max_epochs=null"]
    assert overrides == ["+exp=adads_finetune", "select=random", "budget.like=out/a b", *open_end]
    assert composition(overrides)[0].budget.like == "out/a b"
    for select in ({"name": "random", "ratio": 0.25}, {"name": "all", "ratio": 1.0}):
        assert len(nexts_of(typed(result(select=select), "+exp=adads_finetune"))) == 1  # cost no more than their rows
    limited = {**typed(result(), "+exp=adads_finetune", "budget.flops=1e9"), "budget": BUDGET}
    assert nexts_of(limited) == [
        ("next: drawn at random, with the same budget", ["+exp=adads_finetune", "budget.flops=1e9", "select=random"])
    ]


def test_random_rows_are_plain_ones():
    """Mixing and looking are the strategy's; the rows of a batch, their share and the student's start are the run's."""
    mixed = ["explore=0.5", "balance=predicted", "temperature=0.3", "warmup=0.2", "look=0.3", "scoring=stale", "votes=4",
             "observe=scored", "interval=5", "reward=trend", "policy.alpha=0.5", "scope=global"]  # fmt: skip
    given = ["+exp=adads_finetune", "select=adads", *(f"select.{one}" for one in mixed), "~select.arms.cluster"]
    kept = ["select.ratio=0.2", "student.start=teacher"]
    made = typed(result(), *given, *kept)
    assert [overrides[: len(kept) + 2] for _, overrides in nexts_of(made)] == [
        ["+exp=adads_finetune", *kept, "select=random"]
    ] * 2
    pooled = typed(result(), "+exp=adads_finetune", "select=entropy", "select.pool=640")
    assert next_of(pooled)[1] == ["+exp=adads_finetune", "select.pool=640", "select=random"]


BUDGET = {"asked": {"flops": 1e9}, "spent": {"flops": 9e8, "steps": 9}, "planned": {"steps": 9}, "preparation": False}


def test_settings_of_a_strategy_are_not_given_to_another():
    target = "kdlab.methods.selection.strategies.entropy"
    own = [
        f"+select.arms.mine._target_={target}",
        "+select.arms.mine._partial_=true",
        "select.policy.epsilon=0.3",
        "~select.reward",
    ]
    made = typed(
        result(select={"name": "adads", "ratio": 0.25}),
        "+exp=adads_finetune",
        "select=adads",
        *own,
        "select.interval=5",
    )
    assert next_of(made)[1] == ["+exp=adads_finetune", "select=random"]


NASTY = [
    "/tmp/a b=c",
    "it's",
    'say "no"',
    "$HOME/x",
    "wow!",
    "été, ü",
    "[1,2]",
    "a*b?",
    "`date`",
    "tab\there",
    "#1",
    "~",
    "\\\\x",
]


@pytest.mark.parametrize("name", NASTY)
def test_the_next_command_can_be_pasted_whatever_its_paths(name):
    path = quoting.literal(quoting.override("data.path", name))  # as run.py passes it on
    given = ["+exp=adads_finetune", path, "student.layers=[0,2]"]
    _, overrides = next_of(typed(result(), *given))
    assert overrides == [*given, "select=random"]
    found = composition(overrides)[0]
    assert found.data.path == name and list(found.student.layers) == [0, 2]
    alone = typed(result(metrics={"student": RESULT["metrics"]["student"]}), "+exp=finetune", path, "seed=3")
    says, overrides = next_of(alone, Path(name))
    found = composition(overrides)[0]
    assert says == "next: as a teacher on the same rows"
    assert (found.data.path, found.teachers.path, found.seed) == (name, str(Path(name) / "student"), 3)
    assert found.student.layers == 1  # the teacher of this result has 2 layers


def test_after_random_it_is_all_rows_with_their_cost():
    made = result(select={"name": "random", "ratio": 0.25})
    more = ["select=random", "select.ratio=0.25", "trainer.trace_every=5"]
    says, overrides = next_of(typed(made, "+exp=adads_finetune", *more, "hydra.run.dir=x", "overwrite=true"))
    assert says == "next: all rows: 4.00x the queries"  # 4,128 rows seen, 1,032 queries
    assert overrides == ["+exp=adads_finetune", "select=all"]
    pool = typed(made, "+exp=adads_finetune", "data.batch_size=16", "select=random", "select.pool=64")
    assert next_of(pool)[1] == ["+exp=adads_finetune", "data.batch_size=64", "select=all"]  # the rows of the pool


def test_after_all_rows_it_is_a_tenth_of_them():
    made = typed(result(select={"name": "all", "ratio": 1.0}), "+exp=ksm", "weigh=fixed")
    says, overrides = next_of(made)
    assert says == "next: 10% of the rows, drawn at random: 0.1x the queries"
    assert overrides == ["+exp=ksm", "weigh=fixed", "select=random", "select.ratio=0.1"]


def test_after_weighed_terms_on_whole_batches_it_is_their_fixed_weights():
    made = result(select={"name": "all", "ratio": 1.0}, policy={"name": "ksm", "reward_data": "heldout"})
    says, overrides = next_of(typed(made, "+exp=ksm", "weigh=ksm_hard", "weigh.phase=8", "seed=2"))
    assert says == "next: fixed term weights, as many queries" and overrides == ["+exp=ksm", "seed=2", "weigh=fixed"]


def test_rewards_of_the_dev_set_are_marked_in_the_table_and_in_the_card():
    said = "rewarded on these rows"
    for data in ("dev", "heldout", None):
        made = result(policy={"name": "ksm", "reward_data": data})
        assert (said in summary.table(made, Path("x"))) == (said in model_card.card(made)) == (data == "dev")


# ---- beside random


def written(folder: Path, made: dict[str, Any], **config: Any) -> Path:
    """A run folder as far as the comparison reads it."""
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(made))
    base = {"seed": made["seed"], "select": made["select"], "optim": {"lr": 1e-3}, "artifacts": "a", "resume": True}
    (folder / "config.yaml").write_text(yaml.safe_dump({**base, **config}))
    return folder


def random(seed: int = 1, ratio: float = 0.25, score: float = 0.7, queries: int = 900) -> dict[str, Any]:
    made = result(seed=seed, select={"name": "random", "ratio": ratio})
    made["metrics"]["student"]["score"], made["ledger"]["teacher_queries"]["total"] = score, queries
    return made


def test_random_of_the_same_seed_goes_before_others_and_the_newest_before_older(tmp_path):
    mine = written(tmp_path / "mine", result())
    assert beside_random.beside_random(result(), mine) == ""
    written(tmp_path / "9", random(seed=2, score=0.1))
    assert "(9, seed 2)" in beside_random.beside_random(result(), mine)
    written(tmp_path / "1", random(score=0.2))
    written(tmp_path / "2", random(score=0.65, queries=1234))
    head, own, theirs = beside_random.beside_random(result(), mine).strip("\n").splitlines()
    assert head == "beside random at the same ratio (2, seed 1)"
    assert own.split()[:6] == ["this", "run", "score", "78.1", "1,032", "queries"]
    assert theirs.split()[:5] == ["random", "score", "65.0", "1,234", "queries"]
    assert "5.50 TFLOPs" in own and own.endswith("100.0 s")


def test_runs_that_cannot_be_compared_are_passed_over(tmp_path):
    mine = written(tmp_path / "mine", result())
    written(tmp_path / "ratio", random(ratio=0.5))
    written(tmp_path / "setting", random(), optim={"lr": 1e-2})
    written(tmp_path / "unfinished", {**random(), "status": "running"})
    written(tmp_path / "other", result(select={"name": "margin", "ratio": 0.25}))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "result.json").write_text("{")
    (tmp_path / "no config").mkdir()
    (tmp_path / "no config" / "result.json").write_text(json.dumps(random()))
    (tmp_path / "a file").write_text("")
    assert beside_random.beside_random(result(), mine) == ""


def test_what_does_not_change_the_numbers_may_differ(tmp_path):
    mine = written(tmp_path / "mine", result())
    written(tmp_path / "other", random(), artifacts="elsewhere", resume=False, logger={"name": "wandb"}, name="else")
    assert "(other, seed 1)" in beside_random.beside_random(result(), mine)


@pytest.mark.parametrize("select", [{"name": "random", "ratio": 0.25}, {"name": "entropy", "ratio": 1.0}])
def test_random_itself_and_all_data_have_nothing_beside(tmp_path, select):
    made = result(select=select)
    mine = written(tmp_path / "mine", made)
    written(tmp_path / "other", random(ratio=select["ratio"]))
    assert beside_random.beside_random(made, mine) == ""


# ---- the model card


def test_the_card_of_a_classifier():
    text = model_card.card(result())
    header = yaml.safe_load(text.split("---")[1])
    assert header["pipeline_tag"] == "text-classification" and header["library_name"] == "transformers"
    assert "Distilled from bert" in text and "AutoModelForSequenceClassification" in text
    assert "Teacher queries 1,032 of 4,128 rows seen" in text and "Trained on: MRPC" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0] == "| dev set | loss | accuracy | f1 |" and table[1].count("---") == 4
    assert "| student | 0.512 | 0.812 | 0.750 |" in table and "| majority class | - | 0.600 | 0.000 |" in table


def test_the_card_of_plain_fine_tuning_names_no_teacher():
    text = model_card.card(result(metrics={"student": {"loss": 0.5, "accuracy": 0.7, "score": 0.7}}))
    assert "Trained on labels alone" in text and "Distilled" not in text and "Teacher queries" not in text


def test_the_card_of_a_pre_trained_student():
    text = model_card.card(result(stage="pretrain", metrics={"student": {"loss": 3.0}, "teacher": {"loss": 2.0}}))
    assert "fill-mask" in text and "AutoModelForMaskedLM" in text and "| held-out text | loss |" in text


def test_caveats_stand_below_the_scores_and_in_the_card(tmp_path: Path):
    caveats = [{"kind": "cut_texts", "text": "3 of 4 texts are cut"}, {"kind": "few_rewards", "text": "2 | 5"}]
    lines = summary.table(result(caveats=caveats), tmp_path).splitlines()
    at = lines.index("caveats")
    assert lines[at : at + 4] == ["caveats", "  - 3 of 4 texts are cut", "  - 2 | 5", ""]
    assert lines.index("cost                        this run     all data    saved") > at
    assert "\nCaveats:\n\n- 3 of 4 texts are cut\n- 2 \\| 5\n\n" in model_card.card(result(caveats=caveats))
    for text in (summary.table(result(), tmp_path), model_card.card(result())):
        assert "\ncaveats\n" not in text and "Caveats:" not in text
