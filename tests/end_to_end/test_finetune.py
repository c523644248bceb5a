"""Distillation at the fine-tuning stage as a user runs it: every selection, every knowledge set, every kind of data."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import safetensors.torch
import transformers
import yaml

from kdlab import evaluate, export
from kdlab.config.composition import CONF
from kdlab.data.tasks.registry import TASKS
from kdlab.models import flops
from kdlab.storage import tables
from tests.conftest import task_rows, write_task, write_teacher
from tests.support.cadence import each_time
from tests.support.runs import ChildResult, KillAt, call, outcome, tiny_task
from tests.support.selections import MIXED, SELECTIONS, settings

KNOWLEDGE = sorted(file.stem for file in (CONF / "knowledge").glob("*.yaml"))
BATCH, STEPS, KEPT = 16, 8, 4  # of `tiny_task` at ratio 0.25


class Lab:
    """A folder in which a user types commands; teachers, rows and other artifacts are shared, runs are made once."""

    def __init__(self, folder: Path, teacher: Path, rows: Path) -> None:
        self.folder, self.teacher, self.rows = folder, teacher, rows
        self.known: dict[tuple[str, ...], tuple[Path, str]] = {}
        self.count = 0

    def try_(
        self, *more: str, prepare: Callable[[], None] | None = None, into: str | None = None
    ) -> tuple[Path, ChildResult]:
        self.count += 1
        where = into or f"runs/{self.count}"
        return self.folder / where, call(
            tiny_task(self.teacher, self.rows, f"hydra.run.dir={where}", *more), self.folder, prepare
        )

    def run(self, *more: str, into: str | None = None) -> tuple[Path, str]:
        """The run folder of a finished run, and what it printed."""
        more = tuple(o for o in more if o != "knowledge=finetune_demo")  # as +exp=adads_finetune has it
        key = (*more, into or "")
        if key not in self.known:
            folder, done = self.try_(*more, into=into)
            assert done.code == 0, done.output
            self.known[key] = folder, done.output
        return self.known[key]

    def result(self, *more: str) -> dict[str, Any]:
        return result_of(self.run(*more)[0])


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def weights(folder: Path) -> dict[str, bytes]:
    found = safetensors.torch.load_file(folder / "student" / "model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in found.items()}


@pytest.fixture(scope="module")
def lab(tmp_path_factory, teacher_folder, task_folder) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"), teacher_folder, task_folder)


@pytest.fixture(scope="module")
def ready(lab) -> Path:
    """A classifier of this task: the student folder of a run of +exp=finetune."""
    more = ["+exp=finetune", "student=whole", "trainer.max_steps=40", "data.batch_size=32", "optim.lr=5e-3"]
    folder, output = lab.run(*more, "select.ratio=1")
    assert "cost: no teacher" in output and f"teachers.path={folder.relative_to(lab.folder)}/student" in output
    return folder / "student"


# ---- selection

SAME_RATIO = [name for name in SELECTIONS if name != "ratios"]  # of every step


@pytest.mark.parametrize(
    "select",
    each_time(
        SAME_RATIO,
        "adads",
        "all",
        "cluster",
        "committee",
        "divbs",
        "ensemble",
        "forgetting",
        "gradient_norm",
        "random",
        "schedule",
        "thompson",
    ),  # fmt: skip
)
def test_every_selection_asks_the_teacher_about_its_share(select, lab):
    reads = settings(select)
    more = [f"artifacts={select}_artifacts"] if reads else []  # no answers of other runs
    folder, _ = lab.run(f"select={select}", *reads, *more)
    result = result_of(folder)
    ledger = result["ledger"]
    kept = BATCH if select == "all" else KEPT  # all means all, whatever ratio is given
    assert result["status"] == "finished" and result["select"] == {"name": select, "ratio": kept / BATCH}
    queries = ledger["teacher_queries"]
    assert ledger["rows_seen"] == STEPS * BATCH
    if reads:  # every row of a batch is answered once, before the step; then training finds its rows in the cache
        assert queries["total"] + queries["cached"] == STEPS * (BATCH + kept) and queries["total"] == queries["unique"]
        assert queries["unkept"] == STEPS * (BATCH - kept)
    else:
        assert queries["total"] == STEPS * kept and "unkept" not in queries
        assert ledger["speedup"]["queries"] == BATCH / kept
    arms = {row["arm"] for row in tables.read(folder / "selector.csv")}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert arms <= set(config["select"]["arms"]) and bool(arms) == (select != "all")
    assert 0 <= result["metrics"]["student"]["accuracy"] <= 1
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "student")
    assert set(model.config.label2id) == {"kind0", "kind1", "kind2"} and model.config.num_hidden_layers == 2


def test_a_policy_over_ratios_asks_about_the_share_in_the_mean(lab):
    """Each step keeps the rows of its arm's ratio; their mean is select.ratio up to the last choice."""
    ratio = KEPT / BATCH
    folder, _ = lab.run("select=ratios")
    rows, result = tables.read(folder / "selector.csv"), result_of(folder)
    kept = [int(BATCH * float(row["arm"].partition("@")[2])) for row in rows]  # 2, 4 or 12
    assert len(rows) == STEPS and result["ledger"]["teacher_queries"]["total"] == sum(kept)
    assert result["select"] == {"name": "ratios", "ratio": ratio} and len(set(kept)) > 1
    assert abs(sum(kept) / (BATCH * STEPS) - ratio) < (0.75 - 0.125) / STEPS  # one choice


def test_adads_changes_its_arm_and_learns(lab):
    rows = tables.read(lab.run("select=adads")[0] / "selector.csv")
    assert len(rows) == STEPS and all(float(row["observation"]) > 0 for row in rows)
    assert any(row["reward"] for row in rows) and any(float(rows[-1][key]) for key in rows[-1] if key.startswith("q_"))


def test_random_and_cluster_cost_what_they_must(lab):
    flops = {name: lab.result(f"select={name}")["ledger"]["flops"] for name in ("random", "cluster", "entropy")}
    assert flops["random"].get("scoring", 0) == 0 < flops["cluster"]["scoring"] < flops["entropy"]["scoring"]
    # a kept row is trained on at its own padded size, so never dearer than its share of the whole batch
    assert flops["random"]["total"] == pytest.approx(0.25 * flops["random"]["all_data"], rel=0.1)


def test_ratio_one_is_plain_distillation_bit_for_bit(lab):
    found = [outcome(lab.run(f"select={name}", "select.ratio=1")[0]) for name in ("all", "adads", "entropy")]
    for other in found[1:]:
        for part in found[0]:
            assert other[part] == found[0][part], part
    assert "scoring" not in found[1]["ledger"]["flops"] and "observation" not in found[1]["ledger"]["flops"]


def test_a_share_of_less_than_a_row_is_one_row_and_said_once(lab):
    folder, output = lab.run("select=entropy", "select.ratio=0.01")
    said = [line for line in output.splitlines() if "less than one row" in line]
    assert len(said) == 1 and "one row of each batch is kept" in said[0]
    assert result_of(folder)["ledger"]["teacher_queries"]["total"] == STEPS
    assert "less than one row" not in lab.run("select=entropy")[1]


def test_a_pool_gives_full_batches_of_the_best(lab):
    """Sixteen rows are scored and a full batch of four is kept: what batches of 16 at a quarter are."""
    pool = ["select=entropy", "select.pool=16", "data.batch_size=4"]
    pooled, quarter = lab.run(*pool)[0], lab.run("select=entropy")[0]
    assert result_of(pooled)["select"]["ratio"] == 0.25
    found, wanted = outcome(pooled), outcome(quarter)
    assert found["ledger"] == wanted["ledger"] and found["student"] == wanted["student"]


# ---- knowledge


# their terms are those of other sets (ksm, pkd, cfl, response), or test_causal.py and test_student_rows.py run them by day
ALIKE = {
    "causal", "causal_states", "gkd", "taid", "dekd_no_alignment", "dfa", "dynamickd_objective", "feak", "fink_resk",
    "fink_resk_feak", "finetune_own", "finetune_paper", "relk", "resk", "uhc",
}  # fmt: skip
assert set(KNOWLEDGE) > ALIKE


@pytest.mark.parametrize("knowledge", each_time(KNOWLEDGE, *(name for name in KNOWLEDGE if name not in ALIKE)))
def test_every_knowledge_set_teaches(knowledge, lab):
    folder, output = lab.run("select=random", f"knowledge={knowledge}")
    result, config = result_of(folder), yaml.safe_load((folder / "config.yaml").read_text())
    counted = {name: term for name, term in config["knowledge"]["terms"].items() if term["weight"] > 0}
    trained = tables.read(folder / "metrics.csv")[1:]  # the first row is from before any step
    last = STEPS - 1
    for name, term in counted.items():
        values = [float(row[f"train_{name}"]) for row in trained if row.get(f"train_{name}")]
        counts = term.get("since", 0) * STEPS <= last  # in some step that is reported
        assert bool(values) == counts and all(math.isfinite(v) and v > 0 for v in values), name
    asked = knowledge not in ("labels", "fink")
    assert result["ledger"]["teacher_queries"]["total"] == (STEPS * KEPT if asked else 0)
    assert ("teacher" in result["metrics"]) == asked == ("teacher queries" in output)
    assert set(result["metrics"]["student"]) == {"loss", "accuracy", "score"}


def test_tinybert_learns_states_first_and_answers_after(lab):
    command = ("select=random", "knowledge=tinybert", "knowledge.phases=[0.5]")
    folder, _ = lab.run(*command, "trainer.log_every=1")
    rows = tables.read(folder / "metrics.csv")[1:]  # row i tells of step i - 1
    assert [row["step"] for row in rows if row["heldout_loss"]] == ["4", str(STEPS)]
    for step, row in enumerate(rows):
        first = step < STEPS / 2
        assert all(bool(row[f"train_{name}"]) == first for name in ("embedding", "hidden", "attention"))
        assert bool(row["train_soft"]) != first
    rates = [float(row["lr"]) for row in rows]
    assert rates[STEPS // 2] > rates[STEPS // 2 - 2]  # the second phase has a schedule of its own
    means = tables.read(lab.run(*command)[0] / "metrics.csv")[1:]  # a line after each four steps
    for line, steps in zip(means, (rows[:4], rows[4:]), strict=True):
        for name in ("train_loss", "train_hidden", "train_soft"):
            values = [float(row[name]) for row in steps if row[name]]
            assert (float(line[name]) if line[name] else None) == (pytest.approx(sum(values) / 4) if values else None)
        assert float(line["rows"]) == KEPT


def test_what_begins_later_can_be_observed(lab):
    """The teacher's answers for the observed rows are kept from the first step, and hold what later terms read."""
    more = ["select=adads", "select.observe=kd", "knowledge=pkd", "+knowledge.terms.patient.since=0.5"]
    folder, _ = lab.run(*more)
    rows = tables.read(folder / "selector.csv")
    assert len(rows) == STEPS and all(math.isfinite(float(row["observation"])) for row in rows)
    assert result_of(folder)["ledger"]["teacher_queries"]["total"] == STEPS * KEPT + 8  # evaluation_rows, once


@pytest.mark.nightly  # with the same run killed and resumed, below
def test_tinybert_and_adads_go_together(lab):
    result = lab.result(*KILLED["tinybert"][0])
    assert result["ledger"]["teacher_queries"]["total"] == STEPS * KEPT


def test_labels_on_all_trains_on_all_rows_and_asks_about_some(lab):
    selected, every = lab.result("select=random"), lab.result("select=random", "knowledge.labels_on=all")
    assert every["ledger"]["teacher_queries"] == selected["ledger"]["teacher_queries"]
    spent = every["ledger"]["flops"]
    assert spent["teacher_forward"] == selected["ledger"]["flops"]["teacher_forward"]
    whole = lab.result("select=all", "select.ratio=1")["ledger"]["flops"]["student_forward"]
    assert spent["student_forward"] == whole + STEPS * KEPT * head(lab)  # it runs for the labels and the soft loss
    assert spent["student_backward"] == 2 * spent["student_forward"]
    assert every["metrics"]["student"] != selected["metrics"]["student"]


def head(lab: Lab) -> int:
    """FLOPs of the student's head on a row."""
    config = transformers.AutoConfig.from_pretrained(lab.run("select=random")[0] / "student")
    return flops.classifier_head(flops.shape_of(config), 1, config.num_labels)


def test_with_labels_on_all_rows_scoring_takes_no_forward_of_its_own(lab):
    """Fs + Bs + r Ft, as Dynamic KD's code, which scores the training forward; only the head runs once more."""
    drawn, scored = (
        lab.result(f"select={name}", "knowledge.labels_on=all")["ledger"]["flops"] for name in ("random", "entropy")
    )
    assert scored["scoring"] == STEPS * BATCH * head(lab)
    for part in ("student_forward", "student_backward", "all_data"):
        assert scored[part] == drawn[part]
    assert scored["teacher_forward"] == pytest.approx(drawn["teacher_forward"], rel=0.2)  # for rows of other lengths
    assert scored["total"] < 0.8 * scored["all_data"]


# ---- students


def depth(folder: Path) -> int:
    return json.loads((folder / "student" / "config.json").read_text())["num_hidden_layers"]


def test_layers_of_the_student_by_list_by_number_or_all(lab):
    few = ["select=random", "trainer.max_steps=2"]
    folders = {given: lab.run(*few, f"student.layers={given}")[0] for given in ("[0,1]", "[0,3]", "all")}
    assert {given: depth(folder) for given, folder in folders.items()} == {"[0,1]": 2, "[0,3]": 2, "all": 4}
    for pick, same, other in (("first", "[0,1]", "[0,3]"), ("even", "[0,3]", "[0,1]")):
        folder, _ = lab.run(*few, "student.layers=2", f"student.pick={pick}")
        assert weights(folder) == weights(folders[same]) != weights(folders[other])


@pytest.mark.parametrize("knowledge", each_time(["tinybert", "distilbert"], "tinybert"))
def test_a_narrower_student_and_nothing_of_its_projections_is_saved(knowledge, lab):
    more = ["student.layers=2", "student.hidden=16", f"knowledge={knowledge}", "trainer.max_steps=2"]
    folder, _ = lab.run("select=random", *more)
    model, told = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder / "student", output_loading_info=True
    )
    assert model.config.hidden_size == 16 and model.config.num_attention_heads == 4
    assert not any(told.values())


def test_a_student_of_ones_own(lab, tmp_path):
    mine = write_teacher(tmp_path / "mine", layers=3, seed=8)
    folder, _ = lab.run("select=random", f"student.path={mine}", "trainer.max_steps=2")
    assert json.loads((folder / "student" / "config.json").read_text())["num_hidden_layers"] == 3


# ---- teachers


def test_a_ready_classifier_teaches_as_it_is(lab, ready):
    folder, output = lab.run("select=random", f"teachers.path={ready}")
    assert "fine-tuned on this task" not in output
    theirs = result_of(ready.parent)["metrics"]["student"]
    assert result_of(folder)["metrics"]["teacher"] == pytest.approx(theirs, abs=1e-6)


def test_a_ready_classifier_that_numbers_its_classes_otherwise_teaches_the_same(lab, ready, tmp_path):
    turned = shutil.copytree(ready, tmp_path / "turned")
    order = [2, 0, 1]
    tensors = safetensors.torch.load_file(turned / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name][order].contiguous()
    safetensors.torch.save_file(tensors, turned / "model.safetensors", {"format": "pt"})
    config = json.loads((turned / "config.json").read_text())
    config["id2label"] = {str(i): config["id2label"][str(at)] for i, at in enumerate(order)}
    config["label2id"] = {name: int(i) for i, name in config["id2label"].items()}
    (turned / "config.json").write_text(json.dumps(config))
    for more in (["select=random"], ["select=entropy", "knowledge=mse"]):
        plain, other = (outcome(lab.run(*more, f"teachers.path={path}")[0]) for path in (ready, turned))
        assert other["student"] == plain["student"] and other["scores"] == plain["scores"]


# DistilBERT by day on text: test_commands.py
@pytest.mark.parametrize("family", each_time(["roberta", "distilbert", "electra"], "roberta", "electra"))
def test_any_encoder_family_can_teach_and_learn(family, lab, tmp_path):
    teacher = write_teacher(tmp_path / "teacher", family)
    folder, _ = lab.run("select=entropy", "knowledge=minilm", f"teachers.path={teacher}", *UNTAUGHT)
    config = json.loads((folder / "student" / "config.json").read_text())
    assert config["architectures"][0].casefold() == f"{family}forsequenceclassification"


def test_the_teacher_is_made_once_for_all_runs(lab):
    lab.run("select=random")
    assert "making" not in lab.run("select=entropy")[1]


# ---- what the student is read against


def test_without_kd_and_the_majority_class_are_printed_and_made_once(lab):
    more = ["no_kd_baseline=true", "trainer.max_steps=4"]
    folder, first = lab.run("select=random", *more)
    _, second = lab.run("select=entropy", *more)
    assert first.count("making the baseline without a teacher") == 1 and "making" not in second
    for output in (first, second):
        lines = [line.split("  ")[1] for line in output.splitlines() if line.startswith("  ") and "%" in line]
        assert lines[:4] == ["majority class", "no KD", "student", "teacher"]
    found = result_of(folder)["metrics"]
    assert set(found) == {"majority class", "no KD", "student", "teacher"}
    labels = [row.split("\t")[-1] for row in (lab.rows / "dev.tsv").read_text().splitlines()[1:]]
    train = [row.split("\t")[-1] for row in (lab.rows / "train.tsv").read_text().splitlines()[1:]]
    most = max(set(train), key=train.count)
    assert found["majority class"]["accuracy"] == pytest.approx(labels.count(most) / len(labels))


def test_no_kd_is_the_run_that_learns_labels_alone(lab):
    """The same student, steps and rows a step as plain fine-tuning with random selection: the same scores."""
    baseline = lab.result("select=random", "no_kd_baseline=true", "trainer.max_steps=4")["metrics"]["no KD"]
    alone = lab.result("select=random", "knowledge=labels", "trainer.max_steps=4")["metrics"]["student"]
    assert baseline == pytest.approx(alone, rel=1e-6)


def test_random_at_the_same_ratio_is_printed_beside_if_it_is_there(lab):
    def beside(name: str, *more: str) -> list[str]:
        _, output = lab.run(*more, "trainer.max_steps=2", into=f"beside/{name}")
        lines = output.splitlines()
        start = next((i for i, line in enumerate(lines) if line.startswith("beside random")), None)
        return [] if start is None else lines[start : start + 5]  # each run with a line for its preparation

    assert beside("a", "select=entropy") == []  # nobody ran random yet
    assert beside("b", "select=random", "seed=2") == []
    found = beside("c", "select=margin")  # of another seed, for want of one of the same
    assert "(b, seed 2)" in found[0] and "this run" in found[1] and "random" in found[3]
    assert beside("d", "select=random") == []  # random itself
    found = beside("e", "select=entropy", "seed=1", "trainer.threads=1")
    assert "(d, seed 1)" in found[0]
    queries = result_of(lab.folder / "beside/d")["ledger"]["teacher_queries"]["total"]
    score = 100 * result_of(lab.folder / "beside/d")["metrics"]["student"]["score"]
    assert f"{queries} queries" in found[3] and f"score {score:.1f}" in found[3] and "FLOPs" in found[3]
    assert all("with preparation" in found[line] for line in (2, 4))
    assert beside("f", "select=entropy", "select.ratio=0.5") == []  # another ratio
    assert beside("g", "select=entropy", "optim.lr=2e-3") == []  # another setting


# ---- data


def columns_of(folder: Path, split: str) -> list[dict[str, str]]:
    header, *rows = (line.split("\t") for line in (folder / f"{split}.tsv").read_text().splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.mark.parametrize("form", each_time(["csv", "jsonl", "parquet"], "csv"))
def test_rows_in_another_form_give_the_same_student(form, lab, ready, tmp_path):
    wanted = weights(lab.run("select=entropy", f"teachers.path={ready}")[0])
    for split in ("train", "dev"):
        rows = [(row["sentence"], f"kind{row['label']}") for row in columns_of(lab.rows, split)]
        file = tmp_path / f"{split}.{form}"
        if form == "csv":
            with file.open("w", newline="", encoding="utf-8") as out:
                csv.writer(out).writerows([("remark", "words", "kind"), *(("a, b", *row) for row in rows)])
        elif form == "jsonl":
            file.write_text("".join(json.dumps({"words": text, "kind": kind}) + "\n" for text, kind in rows))
        else:
            parquet.write_table(pa.table({"words": [t for t, _ in rows], "kind": [k for _, k in rows]}), file)
    more = [f"data.path={tmp_path}", "data.columns=[words]", "data.label_column=kind", f"teachers.path={ready}"]
    folder, output = lab.run("select=entropy", *more)
    assert "inferred: single texts, 3 classes (kind0, kind1, kind2), accuracy" in output
    assert weights(folder) == wanted


UNTAUGHT = ["teachers.finetune.max_steps=2", "teachers.sanity=false", "trainer.max_steps=2"]


@pytest.mark.parametrize("select", each_time(["cluster", "density"], "density"))
def test_regression(select, lab, tmp_path):
    rows = write_task(tmp_path / "numbers", rows=120, regression=True)
    folder, output = lab.run(f"select={select}", f"data.path={rows}", *UNTAUGHT)
    result = result_of(folder)
    assert set(result["metrics"]["student"]) == {"loss", "pearson", "spearman", "score"}
    assert result["metrics"]["majority class"] == {"pearson": 0.0, "spearman": 0.0, "score": 0.0}
    assert "pearson and spearman" in output and "regression" in output
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "student")
    assert model.config.num_labels == 1 and model.config.problem_type == "regression"


@pytest.mark.parametrize("knowledge", each_time(["mse", "tinybert"], "mse"))
def test_regression_with_other_knowledge(knowledge, lab, tmp_path):
    rows = write_task(tmp_path / "numbers", rows=60, regression=True, seed=4)
    folder, _ = lab.run("select=random", f"knowledge={knowledge}", f"data.path={rows}", *UNTAUGHT)
    assert math.isfinite(result_of(folder)["metrics"]["student"]["loss"])


def test_pairs(lab, tmp_path):
    rows = write_task(tmp_path / "pairs", pair=True)
    folder, output = lab.run("select=entropy", f"data.path={rows}", *UNTAUGHT)
    assert "pairs of texts" in output
    assert result_of(folder)["data"]["shape"]["columns"] == 2


def official(folder: Path, name: str) -> Path:
    """A folder of an official task as ../shared/data has it: labels as numbers, their names in labels.txt."""
    task = TASKS[name]
    columns, names = list(task.hub.columns), task.shape.labels
    folder.mkdir()
    for number, split in enumerate(("train", "dev", *(["dev_mismatched"] if name == "mnli" else []))):
        made = task_rows(100 if split == "train" else 30, len(names or "abc"), len(columns) == 2, seed=number)
        lines = ["\t".join([*columns, "label"])]
        lines += ["\t".join([*texts, f"{label + 0.5}" if names is None else str(label)]) for texts, label in made]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    if names is not None:
        listed = [f"{i}\t{i}\t{name}" for i, name in enumerate(names)]
        (folder / "labels.txt").write_text("\n".join(["index\tvalue\tname", *listed]) + "\n")
    return folder


@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb", "mnli"])
def test_official_tasks_have_their_metrics(name, lab, tmp_path, monkeypatch, capsys):
    rows = official(tmp_path / "rows", name)
    select = "random" if name == "stsb" else "margin"
    folder, output = lab.run(f"select={select}", f"data.task={name}", f"data.path={rows}", *UNTAUGHT)
    found = result_of(folder)["metrics"]["student"]
    wanted = set(TASKS[name].shape.metrics)
    if name == "mnli":
        assert set(found) == {"loss", "accuracy", "loss_mismatched", "accuracy_mismatched", "score"}
        assert found["score"] == pytest.approx((found["accuracy"] + found["accuracy_mismatched"]) / 2)
        assert "accuracy mm" in output
    else:
        assert set(found) == {"loss", "score", *wanted}
        assert found["score"] == pytest.approx(sum(found[metric] for metric in wanted) / len(wanted))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "student")
    names = TASKS[name].shape.labels or ("score",)
    assert tuple(model.config.id2label[i] for i in range(len(names))) == names
    row = tables.read(folder / "metrics.csv")[-1]
    assert all(float(row[f"heldout_{key}"]) == pytest.approx(value) for key, value in found.items())
    monkeypatch.chdir(lab.folder)
    assert evaluate.main([str(folder)]) == 0
    head, *scores = (line.split()[2:] for line in capsys.readouterr().out.splitlines()[1:4])
    assert set(head) == set(found) and scores[0][-len(head) :] == scores[1][-len(head) :]


# ---- augmentation


def test_augmented_rows_are_taught_by_the_teacher_alone(lab, tmp_path):
    words = write_teacher(tmp_path / "words", seed=5)
    more = ["+augment=tinybert", "data.augment.copies=2", f"data.augment.model={words}", "data.train_rows=60",
            "teachers.sanity=false"]  # fmt: skip
    folder, output = lab.run("select=random", *more)
    train = result_of(folder)["data"]["splits"]["train"]
    assert 60 < train["rows"] <= 180 and train["hidden"] == train["rows"] - 60
    assert f"augmented: {train['hidden']} copies of 60 training rows" in output
    assert result_of(folder)["data"]["splits"]["dev"] == lab.result("select=random")["data"]["splits"]["dev"]
    again = lab.run("select=margin", *more)[1]
    assert "making" not in again and "augmented: " in again


# ---- killed runs


WORKERS = "data.workers=2"
KILLED = {
    "adads": (["select=adads", "data.max_length=auto"], [(2, "end"), (5, "start")]),
    "tinybert": (
        ["select=adads", "knowledge=tinybert", "knowledge.phases=[0.5]", "student.hidden=16", "student.layers=2"],
        [(5, "end")],
    ),
    # who loads the rows does not matter either
    "labels on all": (["select=entropy", "knowledge.labels_on=all", "student.dropout=0.1", WORKERS], [(4, "end")]),
    "forgetting": (["select=forgetting"], [(6, "end")]),
    "mixed": (MIXED, [(3, "start"), (5, "end")]),
    "balanced": (
        ["select=adads", "select.balance=predicted", "select.explore=0.5", "select.interval=2"],
        [(5, "start")],
    ),
    "a committee": (["select=committee", "select.votes=2", "student.dropout=0.1"], [(5, "start")]),
    "augmented": (
        ["select=random", "+augment=tinybert", "data.augment.copies=1", "data.train_rows=40", "teachers.sanity=false"],
        [(4, "start")],
    ),
}


@pytest.mark.parametrize("what", each_time(KILLED, "labels on all", "forgetting", "mixed"))
def test_a_killed_run_goes_on_bit_for_bit(what, lab):
    more, kills = KILLED[what]
    wanted = outcome(lab.run(*(o for o in more if o != WORKERS))[0])
    into = f"killed/{what.replace(' ', '-')}"
    for step, when in kills:
        assert lab.try_(*more, prepare=KillAt(step, when), into=into)[1].code == -9
    timed = ["trainer.measure_speed=true"] if what == "labels on all" else []  # changes no bit, and no run
    folder, done = lab.try_(*more, *timed, into=into)
    assert done.code == 0 and "resuming the unfinished run" in done.output, done.output
    assert all(bool(one["milliseconds"]) == bool(timed) for one in result_of(folder)["size"].values())
    found = outcome(folder)
    for part in wanted:
        assert found[part] == wanted[part], part


# ---- other commands


@pytest.fixture
def here(lab, monkeypatch):
    monkeypatch.chdir(lab.folder)
    return lab


def test_evaluate_scores_the_student_as_the_run_did(here, capsys):
    folder, _ = here.run("select=entropy")
    assert evaluate.main([str(folder)]) == 0
    kept = result_of(folder)["metrics"]["student"]
    output = capsys.readouterr().out
    assert output.count(f"{kept['loss']:.4f}") == 2 and output.count(f"{kept['accuracy']:.4f}") >= 2
    assert evaluate.main([str(folder), "--rows", "10"]) == 0


def test_evaluate_tells_of_a_student_that_was_changed(here, capsys, tmp_path):
    folder = shutil.copytree(here.run("select=entropy")[0], tmp_path / "run")
    tensors = safetensors.torch.load_file(folder / "student" / "model.safetensors")
    tensors["classifier.bias"][0] += 3
    safetensors.torch.save_file(tensors, folder / "student" / "model.safetensors", {"format": "pt"})
    assert evaluate.main([str(folder)]) == 1
    assert "the scores differ" in capsys.readouterr().err


def test_export_gives_the_classifier(here, capsys, tmp_path):
    folder, _ = here.run("select=entropy")
    assert export.main([str(folder), str(tmp_path / "out")]) == 0
    assert "AutoModelForSequenceClassification" in capsys.readouterr().out
    inside, outside = (
        transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
        for path in (folder / "student", tmp_path / "out")
    )
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("ba ke lo", return_tensors="pt")
    given = {"input_ids": words["input_ids"], "attention_mask": words["attention_mask"]}
    assert inside(**given).logits.tolist() == outside(**given).logits.tolist()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "text-classification" in card and "AutoModelForSequenceClassification" in card


def test_the_metric_that_is_asked_for_is_the_score_of_everybody(lab, tmp_path):
    """DeKD scores MRPC by F1: student, teacher, majority class and the student without a teacher; AdaDS by the mean."""
    rows = write_task(tmp_path / "mrpc", rows=60, classes=2, pair=True)
    (rows / "labels.txt").unlink()  # its classes have other names
    common = [
        f"data.path={rows}",
        "data.task=mrpc",
        "teachers.sanity=false",
        "no_kd_baseline=true",
        "trainer.max_steps=2",
    ]
    for metric, names in (("f1", ("f1",)), ("accuracy", ("accuracy",)), ("null", ("accuracy", "f1"))):
        scores = lab.result(*common, f"data.metric={metric}")["metrics"]
        assert scores.keys() == {"student", "teacher", "majority class", "no KD"}
        for who, found in scores.items():
            assert found["score"] == pytest.approx(sum(found[name] for name in names) / len(names)), who


@pytest.mark.nightly
def test_a_small_model_is_the_reference_of_reducible(lab, ready):
    """Without cached answers: the teacher is queried for the rows kept alone, and the reference's forwards are scoring."""
    folder, _ = lab.run("select=reducible", f"select.reference='{ready}'")
    ledger, plain = result_of(folder)["ledger"], lab.result("select=loss")["ledger"]
    assert ledger["teacher_queries"]["total"] == STEPS * KEPT and "unkept" not in ledger["teacher_queries"]
    assert ledger["flops"]["scoring"] > plain["flops"]["scoring"] > 0
