"""Wrong input of the fine-tuning stage: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from kdlab import run as entry
from tests.conftest import tiny_config, tiny_tokenizer, write_task, write_teacher
from tests.end_to_end.test_bad_input import assert_refused
from tests.support.cadence import each_time
from tests.support.runs import ChildResult, call, run_folder, tiny_task

UNTRAINED = ["knowledge=tinybert", "knowledge.terms.head.weight=0"]  # TinyBERT as published: no classifier at first
# what is wrong, and what the line must say
WRONG = {
    "a metric that the task lacks": (["data.task=sst2", "data.metric=pearson"], ["data.metric=pearson", "SST-2", "accuracy"]),
    "a metric that these rows lack": (["data.metric=f1"], ["data.metric=f1", "accuracy"]),
    "a metric of text": (["data.stage=pretrain", "data.metric=f1"], ["data.metric=f1", "text"]),
    "no share": (["data.dev_share=1"], ["data.dev_share=1", "(0, 1)"]),
    "unknown task": (["data.task=sst3"], ["data.task", "sst2"]),
    "a task for plain text": (["data=wikipedia_demo", "data.task=sst2"], ["data.task", "plain text"]),
    "a task of another width": (["data.task=rte"], ["RTE has 2", "data.columns"]),
    "a task of other classes": (["data.task=cola"], ["labels.txt", "unacceptable", "kind0"]),
    "no rows at all": (["data.path=nowhere"], ["nowhere", "train.tsv"]),
    "three text columns": (["data.columns=[a,b,c]"], ["data.columns", "two for pairs"]),
    "a text column that is not there": (["data.columns=[sentense]"], ["train.tsv, line 1", "sentence"]),
    "a label column that is not there": (["data.label_column=lable"], ["train.tsv, line 1", "label"]),
    "no such encoding": (["data.encoding=utf-9"], ["data.encoding=utf-9", "utf-8"]),
    "another encoding": (["data.encoding=utf-16"], ["train.tsv", "not utf-16", "data.encoding="]),
    "no training rows": (["data.train_rows=0"], ["data.train_rows"]),
    "rows longer than the teacher reads": (["data.max_length=512"], ["data.max_length", "64"]),
    "no room for a word": (["data.max_length=2"], ["data.max_length"]),
    "a width that the heads do not divide": (["student.hidden=18", "student.layers=2"], ["student.hidden", "4"]),
    "a narrower student with a list of layers": (["student.hidden=16", "student.layers=[0,2]"], ["student.hidden"]),
    "more layers than the teacher has": (["student.layers=5"], ["student.layers", "4"]),
    "a way to pick layers": (["student.pick=frist"], ["student.pick", "first"]),
    "a phase beyond the end": (["knowledge=tinybert", "knowledge.phases=[1.2]"], ["knowledge."]),
    "a phase of nothing": (["knowledge=tinybert", "knowledge.phases=[0]"], ["knowledge."]),
    "a time when nothing is learnt": (["knowledge=tinybert", "knowledge.terms.soft.since=0.95"], ["no term counts"]),
    "labels on something": (["knowledge.labels_on=al"], ["knowledge.labels_on", "all"]),
    "a classifier of random weights": (["select=entropy", *UNTRAINED], ["select.arms.entropy", "random weights", "0.87"]),
    "an observed loss of random weights": (
        ["select=adads", *UNTRAINED, *(f"~select.arms.{arm}" for arm in ("entropy", "margin", "least_confidence", "certainty"))],
        ["select.observe=task", "random weights"],
    ),
    "a later arm of random weights": (
        ["select=schedule", "select.policy.stages=[density,margin]", "select.policy.at=[0.5]", *UNTRAINED], ["arms.margin"]
    ),
    "uncertainty of random weights": (
        ["select=random", "adopt=hard", "+teachers.others.small.layers=2", *UNTRAINED], ["adopt.arms.hard"]
    ),
    "a committee without dropout": (["select=committee", "select.votes=4", "student.dropout=0"], ["select.votes=4", "no dropout"]),
    "a committee of one exit": (["select=committee", "student.layers=1"], ["select.votes=exits", "one layer"]),
    "a committee of none": (["select=committee", "select.votes=0"], ["select.votes", "exits"]),
    "a committee of the first layers": (["select=committee", "select.scoring=early_exit"], ["select.scoring=early_exit", "committee"]),
    "stale histories": (["select=forgetting", "select.scoring=stale"], ["select.scoring=stale", "history"]),
    "histories of first layers": (["select=forgetting", "select.scoring=early_exit"], ["select.scoring=early_exit", "history"]),
    "histories of a rank": (["select=forgetting", "select.scope=local"], ["select.scope=local", "history"]),
    "a head of hidden states": (["knowledge=tinybert", "+knowledge.terms.hidden.trains=head"], ["reads no logits"]),
    "a part that no term trains": (["+knowledge.terms.soft.trains=pooler"], ["trains", "head"]),
    "no layer map": (["knowledge=pkd", "knowledge.terms.patient.term.layers=skipp"], ["skip"]),
    "layers that the teacher lacks": (["knowledge=pkd", "knowledge.terms.patient.term.layers=[9]"], ["layers"]),
    "augmentation that labels alone cannot use": (["+augment=tinybert", "knowledge=labels"], ["data.augment", "labels"]),
    "labels of augmented rows": (["+augment=tinybert", "select=loss"], ["select=loss: loss reads labels", "augmented"]),
    "no copies": (["+augment=tinybert", "data.augment.copies=0"], ["data.augment.copies"]),
    "no such table": (["+augment=tinybert", "data.augment.table=glove.txt"], ["glove.txt"]),
    "no steps for the teacher": (["teachers.finetune.max_steps=0"], ["teachers.finetune.max_steps"]),
    "no recipe for the teacher": (["teachers.finetune=null"], ["teachers.finetune"]),
}  # fmt: skip


@pytest.fixture
def assert_refused_early(tmp_path, monkeypatch, capsys):
    """Run a command in this process; assert that one line containing `says` refuses it, before anything is written."""

    def type_(arguments: list[str], *says: str) -> None:
        folder = tmp_path / "typed"
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        monkeypatch.setattr("kdlab.runs.single.run", lambda *_: pytest.fail("not refused before it began"))
        capsys.readouterr()
        code = entry.main(arguments)
        captured = capsys.readouterr()
        for part in says:
            assert_refused(ChildResult(code, captured.out + captured.err), part)
        assert not list(folder.iterdir())

    return type_


# an argument's range is one check, and tests/unit/config/test_arguments.py makes it with every argument
RANGES = {
    "no share", "no training rows", "no room for a word", "a phase beyond the end", "a phase of nothing", "no copies",
    "no steps for the teacher",
}  # fmt: skip
assert set(WRONG) > RANGES


@pytest.mark.parametrize("what", each_time(WRONG, *(what for what in WRONG if what not in RANGES)))
def test_one_line_and_nothing_written(what, assert_refused_early, teacher_folder, task_folder):
    wrong, says = WRONG[what]
    assert_refused_early(tiny_task(teacher_folder, task_folder, *wrong), *says)


def test_the_command_itself(tmp_path, teacher_folder, task_folder):
    assert_refused(call(tiny_task(teacher_folder, task_folder, "data.task=sst3"), tmp_path), "data.task")
    assert not [path.name for path in tmp_path.iterdir() if not path.name.startswith("log-")]


# ---- rows


def line(file: str, number: int, change: Callable[[str], str]) -> Callable[[Path], None]:
    """Changes one line (from 1) of a file of the rows."""

    def fault(rows: Path) -> None:
        lines = (rows / file).read_text().split("\n")
        lines[number - 1] = change(lines[number - 1])
        (rows / file).write_text("\n".join(lines))

    return fault


def label(value: str) -> Callable[[str], str]:
    return lambda text: text.rsplit("\t", 1)[0] + "\t" + value


def hide(rows: Path) -> None:
    lines = (rows / "dev.tsv").read_text().splitlines()
    (rows / "dev.tsv").write_text("\n".join([lines[0], *map(label("-1"), lines[1:])]) + "\n")


def latin(rows: Path) -> None:
    lines = (rows / "train.tsv").read_bytes().split(b"\n")
    lines[6] = "café\t1".encode("latin-1")
    (rows / "train.tsv").write_bytes(b"\n".join(lines))


def only_test(rows: Path) -> None:
    (rows / "train.tsv").rename(rows / "test.tsv")


def one_class(rows: Path) -> None:
    (rows / "labels.txt").unlink()
    lines = (rows / "train.tsv").read_text().splitlines()
    (rows / "train.tsv").write_text("\n".join([lines[0], *map(label("1"), lines[1:])]) + "\n")


def no_classes(rows: Path) -> None:
    """A text column in the place of the labels."""
    (rows / "labels.txt").unlink()
    for split in ("train", "dev"):
        file = rows / f"{split}.tsv"
        texts = [text.split("\t")[0] for text in file.read_text().splitlines()[1:]]
        lines = [f"{text}\tanswer {i}" for i, text in enumerate(texts)]
        file.write_text("\n".join(["sentence\tlabel", *lines]) + "\n")


FAULTS = {
    "ragged row": (line("train.tsv", 9, lambda text: text + "\tmore"), ["train.tsv, line 9", "3 fields", "2"]),
    "short row": (line("dev.tsv", 4, lambda text: text.split("\t")[0]), ["dev.tsv, line 4", "1 field"]),
    "unknown label": (line("train.tsv", 12, label("7")), ["train.tsv, line 12", "'7'"]),
    "unknown label on dev": (line("dev.tsv", 3, label("kindd1")), ["dev.tsv, line 3", "kind1"]),
    "hidden label": (line("train.tsv", 5, label("-1")), ["train.tsv, line 5", "hidden"]),
    "empty label": (line("dev.tsv", 5, label("")), ["dev.tsv, line 5", "hidden"]),
    "hidden dev labels": (hide, ["dev.tsv, line 2", "hidden", "train and dev"]),
    "no label column": (line("train.tsv", 1, lambda _: "sentence\tclass"), ["train.tsv, line 1", "data.label_column"]),
    "no text column": (line("train.tsv", 1, lambda _: "remark\tlabel"), ["train.tsv, line 1", "data.columns"]),
    "empty split": (lambda rows: (rows / "dev.tsv").write_text("sentence\tlabel\n"), ["dev.tsv", "no rows"]),
    "empty file": (lambda rows: (rows / "train.tsv").write_text(""), ["train.tsv"]),
    "not utf-8": (latin, ["train.tsv", "line 7", "UTF-8"]),
    "binary": (lambda rows: (rows / "train.tsv").write_bytes(bytes(range(256)) * 9), ["train.tsv"]),
    "no train file": (only_test, ["no train file", "test.tsv"]),
    "two train files": (lambda rows: (rows / "train.csv").write_text("sentence,label\nba,1\n"), ["more than once", "train.csv"]),
    "one class": (one_class, ["train.tsv", "two classes"]),
    "labels that are texts": (no_classes, ["train.tsv", "neither classes nor numbers"]),
    "header in the middle": (line("train.tsv", 9, lambda _: "sentence\tlabel"), ["train.tsv, line 9", "the header again"]),
    "NaN": (line("train.tsv", 5, label("nan")), ["train.tsv, line 5", "hidden"]),
    "infinity": (line("dev.tsv", 5, label("inf")), ["dev.tsv, line 5", "inf"]),
    "damaged labels.txt": (lambda rows: (rows / "labels.txt").write_text("index\tvalue\tname\n0\t0\ta\n5\t1\tb\n"), ["labels.txt, line 3"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_rows_that_cannot_be_used(fault, tmp_path, assert_refused_early, teacher_folder, task_folder):
    rows = shutil.copytree(task_folder, tmp_path / "rows")
    change, says = FAULTS[fault]
    change(rows)
    assert_refused_early(tiny_task(teacher_folder, rows), *says)


def test_hidden_test_labels_are_no_fault(tmp_path, teacher_folder, task_folder):
    rows = shutil.copytree(task_folder, tmp_path / "rows")
    lines = (rows / "dev.tsv").read_text().splitlines()
    (rows / "test.tsv").write_text("\n".join([lines[0], *map(label("-1"), lines[1:])]) + "\n")
    more = ["select=random", "trainer.max_steps=1", "teachers.finetune.max_steps=1", "teachers.sanity=false"]
    done = call(tiny_task(teacher_folder, rows, *more), tmp_path / "run")
    assert done.code == 0, done.output


def test_pairs_with_no_room(tmp_path, assert_refused_early, teacher_folder):
    """Three special tokens and a word of each text are five tokens."""
    rows = write_task(tmp_path / "pairs", rows=20, pair=True)
    assert_refused_early(tiny_task(teacher_folder, rows, "data.max_length=4"), "max_length")


OF_CLASSES = ["entropy", "margin", "least_confidence", "certainty", "scaled_entropy", "divbs", "badge", "committee",
              "forgetting", "adads", "randmix", "ensemble", "schedule"]  # fmt: skip


@pytest.mark.parametrize("select", each_time(OF_CLASSES, "entropy", "badge", "forgetting", "adads"))  # one of each kind
def test_uncertainty_on_regression(select, tmp_path, assert_refused_early, teacher_folder):
    rows = write_task(tmp_path / "numbers", rows=20, regression=True)
    assert_refused_early(
        tiny_task(teacher_folder, rows, f"select={select}"),
        *(f"select={select}", "regression", "random, cluster or density"),
    )


def whole_numbers(folder: Path, step: int) -> Path:
    """Rows whose labels are 30 whole numbers from `step` on."""
    rows = write_task(folder, rows=90)
    (rows / "labels.txt").unlink()
    for file in rows.glob("*.tsv"):
        head, *lines = file.read_text().splitlines()
        labelled = [label(str(step * (1 + i % 30)))(text) for i, text in enumerate(lines)]
        file.write_text("\n".join([head, *labelled]) + "\n")
    return rows


def test_a_refusal_of_regression_says_that_it_was_inferred(tmp_path, assert_refused_early, teacher_folder):
    rows = whole_numbers(tmp_path / "numbers", 7)
    term = "knowledge.terms.soft.term._target_=kdlab.methods.knowledge.logits.soft_cross_entropy"
    for more in (["select=entropy"], ["select=random", term]):
        command = tiny_task(teacher_folder, rows, *more)
        assert_refused_early(command, "30 different whole numbers from 7 to 210", "data.regression=false")
    given = write_classifier(tmp_path / "teacher", tuple(str(7 * i) for i in range(1, 31)))
    assert_refused_early(tiny_task(given, rows, "select=random"), "30 classes", "data.regression=false")


@pytest.mark.parametrize(("step", "more"), [(1, []), (7, ["data.regression=false"])])
def test_class_numbers_train_a_classifier(step, more, tmp_path, teacher_folder):
    rows = whole_numbers(tmp_path / "numbers", step)
    short = ["select=entropy", "trainer.max_steps=1", "teachers.finetune.max_steps=1", "teachers.sanity=false"]
    done = call(tiny_task(teacher_folder, rows, *short, *more), tmp_path / "run")
    assert done.code == 0, done.output
    assert "30 classes" in done.output and ("data.regression=true takes them for scores" in done.output) == (not more)


def test_regression_that_the_official_task_is_not(tmp_path, assert_refused_early, teacher_folder):
    rows = write_task(tmp_path / "numbers", rows=20)
    assert_refused_early(tiny_task(teacher_folder, rows, "data.task=cola", "data.regression=true"), "data.regression")


def test_a_loss_that_regression_cannot_have(tmp_path, assert_refused_early, teacher_folder):
    rows = write_task(tmp_path / "numbers", rows=20, regression=True)
    term = "knowledge.terms.soft.term._target_=kdlab.methods.knowledge.logits.soft_cross_entropy"
    assert_refused_early(tiny_task(teacher_folder, rows, "select=random", term), "mean_squared_error")


# ---- teachers and students


def write_classifier(folder: Path, names: tuple[str, ...] | None, constant: bool = False, heads: int = 4) -> Path:
    """A random classifier; `names` None: its classes are called LABEL_0, LABEL_1, ..."""
    config = tiny_config("bert", 2)
    config.num_attention_heads = heads
    if names is None:
        config.num_labels = 3
    else:
        config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    if constant:
        torch.nn.init.zeros_(model.classifier.weight)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


TEACHERS = {
    "of another task": (("negative", "neutral", "positive"), ["other labels", "kind0, kind1, kind2", "negative, neutral, positive"]),
    "of fewer classes": (("kind0", "kind1"), ["other labels", "kind2"]),
    "that only numbers its classes": (None, ["numbered, not named", "LABEL_0", "id2label"]),
    "of regression": (("score",), ["other labels", "score"]),
}  # fmt: skip


@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_teacher(teacher, tmp_path, assert_refused_early, task_folder):
    names, says = TEACHERS[teacher]
    given = write_classifier(tmp_path / "teacher", names)
    assert_refused_early(tiny_task(given, task_folder), *says)


def test_a_teacher_of_classes_for_numbers(tmp_path, assert_refused_early):
    rows = write_task(tmp_path / "numbers", rows=20, regression=True)
    given = write_classifier(tmp_path / "teacher", ("kind0", "kind1", "kind2"))
    assert_refused_early(tiny_task(given, rows, "select=random"), "regression")


def test_a_teacher_that_learnt_nothing(tmp_path, task_folder, teacher_folder):
    """A fault known only after training and scoring: one line, with the remedy, and no run is started."""
    rows = shutil.copytree(task_folder, tmp_path / "rows")
    most = majority(rows)
    lines = (rows / "dev.tsv").read_text().splitlines()
    (rows / "dev.tsv").write_text("\n".join([lines[0], *map(label(most), lines[1:])]) + "\n")  # nobody beats 100 %
    more = ["select=random", "trainer.max_steps=1", "teachers.finetune.max_steps=1"]
    command = tiny_task(teacher_folder, rows, *more)
    for _ in range(2):  # what the store holds by then does not change it
        done = call(command, tmp_path / "run")
        assert done.code == 2 and "Traceback" not in done.output
        last = done.output.strip().splitlines()[-1]
        assert last.startswith("kdlab: ") and "no better than always the majority class (1.000)" in last
        assert "teachers.finetune" in last and "teachers.sanity=false" in last
        assert not (tmp_path / "run" / "outputs").exists()
    done = call([*command, "teachers.sanity=false"], tmp_path / "run")
    assert done.code == 0, done.output


def majority(rows: Path) -> str:
    labels = [text.split("\t")[-1] for text in (rows / "train.tsv").read_text().splitlines()[1:]]
    return max(set(labels), key=labels.count)


def test_a_given_teacher_that_always_answers_the_same(tmp_path, task_folder):
    given = write_classifier(tmp_path / "teacher", ("kind0", "kind1", "kind2"), constant=True)
    done = call(tiny_task(given, task_folder, "select=random"), tmp_path / "run")
    assert done.code == 2 and "no better than always the majority class" in done.output.splitlines()[-1]
    assert not (tmp_path / "run" / "outputs").exists()


def another_vocabulary(folder: Path) -> Path:
    """The same words and size, but two words have changed places."""
    made = write_teacher(folder)
    tokenizer = json.loads((made / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["baba"], words["bake"] = words["bake"], words["baba"]
    (made / "tokenizer.json").write_text(json.dumps(tokenizer))
    return made


def test_a_student_of_another_vocabulary(tmp_path, assert_refused_early, teacher_folder, task_folder):
    other = another_vocabulary(tmp_path / "student")
    assert_refused_early(tiny_task(teacher_folder, task_folder, f"student.path={other}"), "different tokenizers")


def test_a_student_whose_attention_cannot_be_compared(tmp_path, assert_refused_early, teacher_folder, task_folder):
    other = write_classifier(tmp_path / "student", ("kind0", "kind1", "kind2"), heads=2)
    assert_refused_early(tiny_task(teacher_folder, task_folder, f"student.path={other}", "knowledge=tinybert"), "heads")


def test_a_student_deeper_than_its_teacher(tmp_path, assert_refused_early, teacher_folder, task_folder):
    other = write_teacher(tmp_path / "student", layers=6)
    assert_refused_early(
        tiny_task(teacher_folder, task_folder, f"student.path={other}", "knowledge=pkd"), "at least as deep"
    )


# ---- augmentation


def test_augmentation_needs_a_model_that_fills_in_words(tmp_path, assert_refused_early, teacher_folder, task_folder):
    bare = shutil.copytree(teacher_folder, tmp_path / "bare")
    transformers.AutoModel.from_pretrained(teacher_folder).save_pretrained(bare)
    assert_refused_early(tiny_task(bare, task_folder, "+augment=tinybert"), "masked-LM head", "data.augment.model=")
    more = ["+augment=tinybert", f"data.augment.model={bare}"]
    assert_refused_early(tiny_task(teacher_folder, task_folder, *more), "masked-LM head", "data.augment.model=")


def test_augmentation_by_a_folder_that_is_not_there_yet(assert_refused_early, teacher_folder, task_folder):
    more = ["+augment=tinybert", "data.augment.model=outputs/words/student"]
    assert_refused_early(tiny_task(teacher_folder, task_folder, *more), "no such folder", "hydra.run.dir=outputs/words")


def test_augmentation_by_a_model_of_other_words(tmp_path, assert_refused_early, teacher_folder, task_folder):
    other = another_vocabulary(tmp_path / "other")
    more = ["+augment=tinybert", f"data.augment.model={other}"]
    assert_refused_early(tiny_task(teacher_folder, task_folder, *more), "data.augment.model")


def test_what_fails_during_training_is_said_in_the_run_folder(tmp_path, teacher_folder, task_folder):
    done = call(tiny_task(teacher_folder, task_folder, "select=random", "optim.lr=1e30", "optim.clip=1e30"), tmp_path)
    assert done.code == 2 and "Traceback" not in done.output, done.output
    result = json.loads((run_folder(tmp_path, "adads_finetune") / "result.json").read_text())
    assert result["status"] == "failed" and result["error"] in done.output
