"""`python -m kdlab.compare` on run folders as runs write them, its numbers against SciPy."""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from kdlab import compare
from kdlab.config.saved import read_config
from kdlab.reporting.seed_groups import read
from tests.support.made_runs import made_run
from tests.support.runs import call, command, tiny_task

RANDOM, ADADS, FULL = [0.70, 0.72, 0.74], [0.75, 0.74, 0.80], [0.80, 0.83, 0.81]


def many(home: Path, name: str, scores: list[float], **given: Any) -> None:
    for seed, score in enumerate(scores, 1):
        made_run(home / f"seed={seed},{name}", score, seed, **given)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Nine runs: random and adads at a tenth, vanilla KD, three seeds each."""
    many(tmp_path, "random", RANDOM)
    many(tmp_path, "adads", ADADS, select="adads")
    many(tmp_path, "all", FULL, select="all", ratio=1.0, queries=12000)
    return tmp_path


def numbers(home: Path, *given: str) -> dict[str, dict[str, str]]:
    """The rows of the CSV file, by task and group."""
    file = home / "numbers.csv"
    assert compare.main([str(home), *given, "--csv", str(file)]) == 0
    with open(file, newline="") as stream:
        return {f"{row['task']} {row['group']}": row for row in csv.DictReader(stream)}


def test_the_command_that_a_user_types(home):
    done = command([str(home)], home / "elsewhere", "kdlab.compare")
    assert done.code == 0, done.output
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    test = stats.ttest_rel(ADADS, RANDOM)
    assert lines[0] == "sst2: score (%), higher is better"
    assert (
        f"select=adads ratio=0.1 76.33 {100 * np.std(ADADS, ddof=1):.2f} 3 (1-3) 80.00 (seed 3) 74.00 (seed 2) 1,200 3.00 T 1,200 3.00 T"
        in lines
    )
    (tested,) = [line for line in lines if line.startswith("select=adads ratio=0.1 select=random ratio=0.1 3 +4.33 ")]
    assert tested.split()[-2] == f"{test.pvalue:.3f}"
    assert any(line.startswith("select=random ratio=0.1 select=all 3 -9.33 ") for line in lines)
    assert not any(line.startswith("select=all select=") for line in lines)  # all is what random stands against
    assert any("little power" in line and "(3 seeds)" in line for line in lines)
    assert any("by default random selection at the same ratio" in line for line in lines)
    assert any("95 % t interval" in line for line in lines) and any("the 2 tests" in line for line in lines)
    assert "nan" not in done.output and "Warning" not in done.output


def test_it_needs_no_hydra_and_no_torch():
    code = (
        "import sys, kdlab.compare\n"
        "bad = {'torch', 'hydra', 'matplotlib', 'transformers', 'pytorch_lightning'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    top = Path(compare.__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=top)
    assert done.returncode == 0, done.stderr


def test_every_number_of_the_csv(home):
    rows = numbers(home)
    row = rows["sst2 select=adads ratio=0.1"]
    assert float(row["mean"]) == pytest.approx(np.mean(ADADS)) and float(row["std"]) == pytest.approx(
        np.std(ADADS, ddof=1)
    )
    assert (row["seeds"], row["best"], row["best_seed"], row["worst"], row["worst_seed"]) == (
        "1 2 3",
        "0.8",
        "3",
        "0.74",
        "2",
    )
    assert (float(row["queries"]), float(row["flops"])) == (1200, 3e12 + 2)
    assert (row["baseline"], row["common_seeds"], row["metric"], row["better"]) == (
        "select=random ratio=0.1",
        "3",
        "score",
        "higher",
    )
    test = stats.ttest_rel(ADADS, RANDOM)
    assert (float(row["t"]), float(row["p"])) == pytest.approx((test.statistic, test.pvalue))
    assert float(row["difference"]) == pytest.approx(np.mean(ADADS) - np.mean(RANDOM))
    assert (float(row["low"]), float(row["high"])) == pytest.approx(tuple(test.confidence_interval(0.95)))
    ps = [test.pvalue, stats.ttest_rel(RANDOM, FULL).pvalue]
    adjusted = stats.false_discovery_control(ps, method="by")  # another adjustment, for what it is not
    assert float(row["holm_p"]) == pytest.approx(max(max(ps), 2 * min(ps))) and float(row["holm_p"]) != adjusted[0]
    assert rows["sst2 select=all"]["baseline"] == rows["sst2 select=all"]["p"] == ""


def test_every_run_of_the_other_csv(home, capsys):
    file = home / "runs.csv"
    assert compare.main([str(home), "--runs-csv", str(file)]) == 0
    with open(file, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["select"], row["seed"], float(row["score"])) for row in rows] == [
        (name, str(seed), score)
        for name, scores in (("adads", ADADS), ("all", FULL), ("random", RANDOM))
        for seed, score in enumerate(scores, 1)
    ]
    costs = ("sst2", "response", "0.1", "1200", "0.9", str(3e12 + 2))
    names = ("task", "knowledge", "ratio", "teacher_queries", "teacher_score", "flops")
    assert tuple(rows[1][name] for name in names) == costs


def test_a_chosen_baseline(home, capsys):
    rows = numbers(home, "--baseline", "select=all")
    assert {row["baseline"] for row in rows.values()} == {"", "select=all"}
    assert float(rows["sst2 select=adads ratio=0.1"]["p"]) == pytest.approx(stats.ttest_rel(ADADS, FULL).pvalue)
    assert "baseline: --baseline 'select=all'" in capsys.readouterr().out


def test_the_default_baseline(tmp_path):
    """Random at the same ratio; where there is none vanilla KD; else the first."""
    many(tmp_path / "a", "half", [0.6, 0.7], select="adads", ratio=0.5)
    many(tmp_path / "a", "tenth", [0.6, 0.8], select="adads")
    many(tmp_path / "a", "random", [0.5, 0.7])
    many(tmp_path / "a", "vanilla", [0.8, 0.7], select="all", ratio=1.0)
    many(tmp_path / "a", "pkd", [0.9, 0.7], select="all", ratio=1.0, knowledge="pkd")
    many(tmp_path / "a", "pkd tenth", [0.5, 0.4], select="adads", knowledge="pkd")
    many(tmp_path / "a", "labels", [0.9, 0.6], select="all", ratio=1.0, knowledge="labels", queries=0)
    against = {row["group"]: row["baseline"] for row in numbers(tmp_path / "a").values()}
    response, pkd = "knowledge=response", "knowledge=pkd"
    assert against == {
        f"select=adads ratio=0.5 {response}": f"select=all {response}",
        f"select=adads ratio=0.1 {response}": f"select=random ratio=0.1 {response}",
        f"select=random ratio=0.1 {response}": f"select=all {response}",
        f"select=all {response}": "",
        f"select=all {pkd}": "",
        f"select=adads ratio=0.1 {pkd}": f"select=all {pkd}",
        "select=all knowledge=labels": f"select=all {response}",
    }
    many(tmp_path / "b", "first", [0.6, 0.7], select="adads")
    many(tmp_path / "b", "second", [0.6, 0.8], select="entropy")
    against = {row["group"]: row["baseline"] for row in numbers(tmp_path / "b").values()}
    assert against == {"select=adads": "", "select=entropy": "select=adads"}


def test_the_default_baseline_of_rules_for_teachers_and_weights_is_vanilla_kd(tmp_path):
    whole = {"select": "all", "ratio": 1.0}
    for adopt in ("ensemble", "hard", "single"):
        changes, results = {"adopt": {"name": adopt}, "weigh": {"name": "fixed"}}, {"adopt": adopt}
        many(tmp_path, adopt, [0.6, 0.7], changes=changes, results=results, **whole)
    changes, results = {"adopt": {"name": "single"}, "weigh": {"name": "ksm"}}, {"policy": {"name": "ksm"}}
    many(tmp_path, "ksm", [0.6, 0.7], changes=changes, results=results, **whole)
    vanilla = "adopt=single weigh=fixed"
    assert {row["group"]: row["baseline"] for row in numbers(tmp_path).values()} == {
        "adopt=ensemble weigh=fixed": vanilla,
        "adopt=hard weigh=fixed": vanilla,
        "adopt=single weigh=ksm": vanilla,
        vanilla: "",
    }


def test_groups_differ_in_more_than_the_seed_and_are_named_by_it(tmp_path):
    made_run(tmp_path / "1", 0.6, 1)
    made_run(tmp_path / "2", 0.7, 2, changes={"name": "other", "logger": {"name": "wandb"}})  # of no effect
    made_run(tmp_path / "3", 0.5, 1, changes={"student.layers": [0, 5]})
    made_run(tmp_path / "4", 0.5, 1, changes={"knowledge.terms.soft.term.temperature": 4.0})
    made_run(tmp_path / "5", 0.8, 1, select="all", ratio=1.0)
    made_run(tmp_path / "6", 0.9, 2, select="random", ratio=1.0)  # at ratio 1 nothing is selected
    rows = numbers(tmp_path)
    assert {row["group"]: row["seeds"] for row in rows.values()} == {
        "select=random ratio=0.1 layers=[0,2,4] term.temperature=1": "1 2",
        "select=random ratio=0.1 layers=[0,5] term.temperature=1": "1",
        "select=random ratio=0.1 layers=[0,2,4] term.temperature=4": "1",
        "select=all layers=[0,2,4] term.temperature=1": "1 2",
    }


def test_names_say_what_is_needed_and_no_more(tmp_path):
    made_run(tmp_path / "1", 0.6, changes={"student.path": "/x/seed=1/student", "teachers.path": "/a/big"})
    made_run(tmp_path / "2", 0.7, 2, changes={"student.path": "/x/seed=2/student", "teachers.path": "/a/big"})
    made_run(tmp_path / "3", 0.7, changes={"student.path": "/x/seed=1/student", "teachers.path": "/a/small"})
    assert {row["group"]: row["seeds"] for row in numbers(tmp_path).values()} == {
        "teachers.path=big": "1 2",
        "teachers.path=small": "1",
    }
    target = "select.arms.random._target_"
    made_run(tmp_path / "t" / "1", 0.6, task="rte", results={"policy": {"name": "ksm", "reward_data": "dev"}})
    made_run(tmp_path / "t" / "2", 0.6, task="rte", changes={"select.interval": None})
    made_run(tmp_path / "t" / "3", 0.6, task="rte", changes={target: "kdlab.methods.selection.strategies.margin"})
    assert [row["group"] for row in numbers(tmp_path / "t").values()] == [
        "interval=10 arms.random=random [rewarded on dev]",  # it learns from what it is scored on
        "interval=null arms.random=random",
        "interval=10 arms.random=margin",
    ]


def test_lists_of_settings_are_told_apart_by_what_differs_within(tmp_path):
    for name, layers in (("1", 6), ("2", 12)):
        listed = [{"name": "bert", "layers": 24}, {"name": "bert", "layers": layers}]
        made_run(tmp_path / name, 0.6, changes={"teachers.all": listed})
    assert [row["group"] for row in numbers(tmp_path).values()] == ["1.layers=6", "1.layers=12"]


def test_a_group_of_its_own_is_compared_with_nothing(tmp_path, capsys):
    made_run(tmp_path / "1", 0.6)
    assert compare.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "select=random ratio=0.1" in out and "nothing to compare it with" in out and "power" not in out


def test_seeds_in_common(tmp_path, capsys):
    many(tmp_path, "random", [0.5, 0.6])
    made_run(tmp_path / "one", 0.7, 2, "adads")
    made_run(tmp_path / "other", 0.7, 9, "entropy")
    many(tmp_path, "same", [0.51, 0.61], select="margin")
    many(tmp_path, "equal", [0.5, 0.6], select="certainty")
    rows = numbers(tmp_path)
    assert {row["p"] for row in rows.values()} == {""}
    assert float(rows["sst2 select=adads"]["difference"]) == pytest.approx(0.1)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "select=adads select=random 1 +10.00 - no test: 1 common seed -" in lines
    assert "select=entropy select=random 0 - - no test: no common seed -" in lines
    assert "select=margin select=random 2 +1.00 - no test: all differences are equal -" in lines
    assert "select=certainty select=random 2 +0.00 - no test: all differences are equal -" in lines


def test_losses_are_better_when_lower(tmp_path, capsys):
    many(tmp_path, "random", [2.5, 2.6, 2.8], stage="pretrain", task="wiki")
    many(tmp_path, "adads", [2.4, 2.3, 2.6], stage="pretrain", task="wiki", select="adads")
    row = numbers(tmp_path)["wiki select=adads"]
    assert (row["best"], row["best_seed"], row["worst"], row["better"]) == ("2.3", "2", "2.6", "lower")
    out = capsys.readouterr().out
    assert "wiki: loss, lower is better" in out and "2.3000 (seed 2)" in out and "-0.2000" in out


def test_another_metric_and_another_task(home, capsys):
    for seed in (1, 2):
        for select, f1 in (("random", 0.4), ("entropy", 0.5 + seed / 100)):
            made_run(home / f"mrpc {seed} {select}", 0.1, seed, select, task="mrpc", metrics={"f1": f1})
    made_run(home / "broken", 0.1, 3, "entropy", task="mrpc", metrics={"f1": float("nan")})
    rows = numbers(home, "--metric", "f1")
    assert list(rows) == ["mrpc select=entropy", "mrpc select=random"]
    assert float(rows["mrpc select=entropy"]["mean"]) == pytest.approx(statistics.mean([0.51, 0.52]))
    err = capsys.readouterr().err
    assert f"left out, f1 is nan: {home / 'broken'}" in err and err.count("left out, no f1: ") == 9
    both = numbers(home)
    assert {name.split()[0] for name in both} == {"sst2", "mrpc"}  # and each has its own table
    assert "mrpc: score (%)" in capsys.readouterr().out


def test_markdown(home, capsys):
    assert compare.main([str(home), "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "### sst2: score (%), higher is better"
    head, rule, *rows = [line for line in lines if line.startswith("|")][:5]
    assert head == "| group | mean | std | seeds | best | worst | queries | FLOPs | total queries | total FLOPs |"
    assert {line.count("|") for line in (head, rule, *rows)} == {11}
    assert rows[0].startswith("| select=adads ratio=0.1 | 76.33 | 3.21 | 3 (1-3) | 80.00 (seed 3) |")


def test_what_is_left_out_is_named(home, capsys):
    (made_run(home / "late", 0.1, 4) / "result.json").write_text('{"status": "running", "seed": 4}')
    (made_run(home / "torn", 0.1, 5) / "result.json").write_text('{"status": "fini')
    (made_run(home / "odd", 0.1, 6) / "result.json").write_text('{"status": "finished", "seed": 6, "ledger": {}}')
    made_run(home / "z again", 0.9, 1)
    (home / "suite").mkdir()
    (home / "suite" / "result.json").write_text('{"status": "finished", "table": []}')
    rows = numbers(home)
    assert (rows["sst2 select=random ratio=0.1"]["seeds"], rows["sst2 select=random ratio=0.1"]["best"]) == (
        "1 2 3",
        "0.9",
    )
    assert capsys.readouterr().err.splitlines() == [
        f"kdlab: left out, running: {home / 'late'}",
        f"kdlab: left out, result.json is not as runs write it: it has no data and no metrics and no select: {home / 'odd'}",
        f"kdlab: left out, half-written: {home / 'torn'}",
        f"kdlab: left out, made again later: {home / 'seed=1,random'}",
    ]
    assert compare.main([str(home), str(home / "z again"), os.path.relpath(home)]) == 0  # a folder twice is once
    assert capsys.readouterr().err.count("left out") == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["{home}/nowhere"], "there is no such folder"),
        (["{home}/empty"], "no finished run in"),
        (["{home}/seed=1,all/config.yaml"], "there is no such folder"),
        (["{home}", "{home}/../text"], "runs of different stages cannot be compared: finetune ("),
        (["{home}", "--metric", "scor"], "no run has a metric called 'scor'; did you mean score?"),
        (["{home}", "--metric", "f1"], "no run has a metric called 'f1'; known: score"),
        (["{home}", "--baseline", "select=rando m"], "sst2 has no such group; did you mean select=random ratio=0.1"),
        (["{home}", "--baseline", "ratio=0.1"], "'ratio=0.1' could be select=adads ratio=0.1 or select=random ratio=0.1"),
        (["{home}", "--csv", "{home}/none/x.csv"], "writing x.csv failed"),
        (["{home}/../damaged"], "config.yaml cannot be read"),
        (["{home}/../bare"], "config.yaml cannot be read"),
        (["{home}/../locked"], "result.json cannot be read"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(given, said, tmp_path, capsys):
    home = tmp_path / "runs"
    many(home, "random", RANDOM)
    many(home, "adads", ADADS, select="adads")
    many(home, "all", FULL, select="all", ratio=1.0)
    (home / "empty").mkdir()
    made_run(tmp_path / "text", 2.5, stage="pretrain")
    (made_run(tmp_path / "damaged", 0.5) / "config.yaml").write_text("a: [1\nb: }")
    (made_run(tmp_path / "bare", 0.5) / "config.yaml").unlink()
    (tmp_path / "locked" / "result.json").mkdir(parents=True)  # what cannot be read, for root too
    assert compare.main([arg.format(home=home) for arg in given]) == 2
    found = capsys.readouterr()
    assert said in found.err and found.err.startswith("kdlab: ") and len(found.err.splitlines()) == 1
    assert found.out == ""


def test_a_real_run(tmp_path, teacher_folder, task_folder):
    """The comparison reads the result files that a run of this version writes."""
    few = ("trainer.max_steps=2", "teachers.finetune.max_steps=2", "teachers.sanity=false", "select=random")
    done = call(tiny_task(teacher_folder, task_folder, *few, "hydra.run.dir=runs/1"), tmp_path)
    assert done.code == 0, done.output
    (row,) = numbers(tmp_path / "runs").values()
    result = json.loads((tmp_path / "runs" / "1" / "result.json").read_text())
    assert result["collapsed"]  # two steps teach nothing
    assert (row["group"], row["seeds"]) == ("select=random ratio=0.25 [1 of 1 collapsed]", str(result["seed"]))
    assert float(row["mean"]) == result["metrics"]["student"]["score"]
    assert float(row["queries"]) == result["ledger"]["teacher_queries"]["total"]
    assert float(row["flops"]) == result["ledger"]["flops"]["total"]


def test_real_runs_of_one_data_set_and_one_that_a_cache_answered(tmp_path, teacher_folder, task_folder):
    """`data.path=X` and `data=glue data.path=X` are one data set; whoever answered, a run stays what it is."""
    few = (
        "trainer.max_steps=2",
        "teachers.finetune.max_steps=2",
        "teachers.sanity=false",
        "select=all",
        "teachers.cache=disk",
        "knowledge=response",
    )
    glue = ("data=glue", "data.task=null")
    for where, more in (
        ("first", ()),
        ("glue", (*glue, "seed=2", "data.max_length=32")),
        ("two/cached", ("optim.lr=2e-3",)),  # the same rows as the first, in the same order
        ("two/random", ("optim.lr=2e-3", "select=random", "select.ratio=0.5")),
    ):
        done = call(tiny_task(teacher_folder, task_folder, *few, *more, f"hydra.run.dir=runs/{where}"), tmp_path)
        assert done.code == 0, done.output
    runs = {run.folder.name: run for run in read([tmp_path / "runs"])[0]}
    source = [read_config(run.folder)["data"].get("source") for run in (runs["first"], runs["glue"])]
    assert source[0] is not None and source[1] is None
    assert runs["first"].key == runs["glue"].key != runs["cached"].key
    assert runs["first"].task == runs["glue"].task
    assert runs["cached"].own.queries == 0 < runs["first"].own.queries and runs["cached"].taught
    teacher = runs["cached"].result["preparation"][0]
    assert runs["cached"].total.flops == runs["cached"].own.flops + teacher["flops"] > runs["cached"].own.flops
    rows = numbers(tmp_path / "runs" / "two")
    baselines = {row["group"]: row["baseline"] for row in rows.values()}
    mark = " [1 of 1 collapsed]"
    whole, random = f"select=all{mark}", f"select=random ratio=0.5{mark}"
    assert baselines == {whole: "", random: whole}  # though no row was a query
    assert {row["queries"] for row in rows.values()} == {"0.0"}
