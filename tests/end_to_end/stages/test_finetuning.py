"""Inputs of a run on labelled rows: rows, teacher, initial student, and the reference scores of the student."""

from __future__ import annotations

import copy
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
import yaml
from omegaconf import DictConfig, OmegaConf
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, f1_score

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.models import loading
from kdlab.models.student import transformer_layers
from kdlab.stages.finetuning import FinetuneStage
from kdlab.stages.registry import stage_of
from kdlab.stages.validation import check
from kdlab.types import IGNORE
from tests.conftest import tiny_config, tiny_tokenizer, write_task
from tests.support.runs import tiny_task

pytestmark = [  # as kdlab.runs.single leaves out what Lightning says of itself
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (".*LeafSpec", ".*does not have many workers", ".*dataloader is not resumable")
]
OWN = ("kind0", "kind1", "kind2")  # the classes of `write_task`
QUICK = ["teachers.finetune.max_steps=2", "teachers.sanity=false", "trainer.max_steps=2"]


@functools.cache
def groups(*choices: str) -> DictConfig:
    """Composing takes a quarter of a second: once for each choice of files."""
    return composition(choices)[0]


def composed(overrides: list[str]) -> DictConfig:
    choices = [o for o in overrides if o.startswith(("+exp=", "select=", "adopt=", "knowledge=", "weigh="))]
    found = copy.deepcopy(groups(*choices))
    for override in overrides:
        key, _, value = override.partition("=")
        if override not in choices:
            OmegaConf.update(found, key, yaml.safe_load(value), force_add=True)
    return found


@pytest.fixture
def make_stage(tmp_path, teacher_folder, task_folder):
    """Make the stage of a tiny run; all stages of one test share an artifact store."""

    def make(*more: str, teacher: Path = teacher_folder, rows: Path = task_folder) -> FinetuneStage:
        given = tiny_task(teacher, rows, f"artifacts={tmp_path / 'artifacts'}", *QUICK, *more)
        made = stage_of(checked(composed(given)), said.append)
        assert isinstance(made, FinetuneStage)
        return made

    said: list[str] = []
    make.said = said  # pyright: ignore
    return make


def write_classifier(folder: Path, names: tuple[str, ...], seed: int = 0, order: list[int] | None = None) -> Path:
    """A random classifier of the classes `names`; `order`: its classes stand in another order."""
    config = tiny_config("bert", 4)
    config.initializer_range = 0.2
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    torch.manual_seed(seed)
    model = transformers.BertForSequenceClassification(config)
    if order is not None:
        with torch.no_grad():
            for p in model.classifier.parameters():
                p.copy_(p[order].clone())
        model.config.id2label = {i: names[at] for i, at in enumerate(order)}
        model.config.label2id = {name: i for i, name in model.config.id2label.items()}
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


# ---- rows


def test_the_shape_is_read_from_the_files_and_later_from_what_was_prepared(make_stage, tmp_path, task_folder):
    rows = shutil.copytree(task_folder, tmp_path / "rows")
    one = make_stage(rows=rows)
    assert (
        one.inputs.shape.labels == OWN and one.inputs.shape.columns == 1 and one.inputs.shape.metrics == ("accuracy",)
    )
    assert one.inputs.task_folder.is_dir()
    two = make_stage(rows=rows)
    assert two.inputs.shape == one.inputs.shape and "rows" not in vars(two.inputs)  # not read again
    assert make_stage("data.max_length=16", rows=rows).inputs.task_parts != one.inputs.task_parts
    assert make_stage("data.train_rows=50", rows=rows).inputs.task_parts != one.inputs.task_parts


def test_train_rows_limits_training_not_dev(make_stage):
    made = make_stage("data.train_rows=50")
    data = made.inputs.data_module(1, None)
    assert len(data.train) == 50 and len(data.dev_splits()[""]) == 60


def test_evaluations_along_the_way_read_the_same_few_rows_for_every_seed(make_stage):
    def rows(split, final=False) -> list[int]:
        return sorted(r for b in split.heldout_splits(final)[""] for r in b.rows.tolist())

    one, two = (make_stage("data.heldout_rows=16", f"seed={seed}").inputs.data_module(1, None) for seed in (1, 2))
    assert len(rows(one)) == 16 and rows(one) == rows(two)
    assert rows(one, final=True) == list(range(60))
    every = make_stage("data.heldout_rows=null").inputs.data_module(1, None)
    assert rows(every) == list(range(60))


def test_mnli_is_scored_on_both_dev_sets(make_stage, tmp_path):
    rows = write_task(tmp_path / "mnli", rows=30, pair=True)
    (rows / "labels.txt").unlink()
    shutil.copy(rows / "dev.tsv", rows / "dev_mismatched.tsv")
    data = make_stage("data.task=mnli", "data.columns=[sentence1,sentence2]", rows=rows).inputs.data_module(1, None)
    assert list(data.dev_splits()) == ["", "mismatched"] == list(data.heldout_splits())
    assert data.shape.labels == ("entailment", "neutral", "contradiction")


def test_a_policy_observes_rows_with_labels_only(make_stage):
    data = make_stage().inputs.data_module(1, None)
    known = {3, 20, 100}
    data.train.labels = np.array([label if i in known else IGNORE for i, label in enumerate(data.train.labels)])
    seen = {row for b in data.observed_batches(8) for row in b.rows.tolist()}
    assert seen == known


@pytest.mark.parametrize("rows", [5, 1000])
def test_observed_rows_are_drawn_once_a_seed(make_stage, rows):
    def seen(seed: int) -> list[int]:
        data = make_stage(f"seed={seed}").inputs.data_module(1, None)
        return sorted(row for b in data.observed_batches(rows) for row in b.rows.tolist())

    assert seen(1) == seen(1) and len(set(seen(1))) == min(rows, 240)
    assert rows > 240 or seen(1) != seen(2)


# ---- the majority class


def test_the_majority_is_that_of_the_training_rows(make_stage, tmp_path):
    rows = tmp_path / "skewed"
    rows.mkdir()
    train, dev = [0, 0, 0, 1, 1], [1, 1, 0, 1]
    for split, labels in (("train", train), ("dev", dev)):
        lines = [f"ba ke\tlo {split} {i}\t{label}" for i, label in enumerate(labels)]
        (rows / f"{split}.tsv").write_text("\n".join(["sentence1\tsentence2\tlabel", *lines]) + "\n")
    found = make_stage("data.task=mrpc", rows=rows).baselines(1, 1)["majority class"]
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((5, 1)), train).predict(np.zeros((4, 1)))
    assert found["accuracy"] == pytest.approx(accuracy_score(dev, dummy)) == 0.25
    assert found["f1"] == f1_score(dev, dummy, zero_division=0) == 0.0
    assert found["score"] == pytest.approx(0.125)


def test_in_regression_it_is_a_constant(make_stage, tmp_path):
    found = make_stage(rows=write_task(tmp_path / "numbers", rows=30, regression=True)).baselines(1, 1)[
        "majority class"
    ]
    assert found == {"pearson": 0.0, "spearman": 0.0, "score": 0.0}


# ---- the teacher


def test_an_encoder_is_fine_tuned_once_and_a_classifier_is_taken_as_it_is(make_stage, tmp_path):
    one, two = make_stage(), make_stage("seed=5", "select=random")
    assert not one.teacher_pool.is_classifier(one.teacher_pool.main)
    assert one.teacher_folder == two.teacher_folder and sum("fine-tuned" in line for line in make_stage.said) == 1
    for made in (one, two):  # 2 steps of 32 of 240 rows; also where the teacher was found
        [caveat] = made.inputs.caveats.entries
        assert caveat["kind"] == "short_teacher" and "saw 0.27 epochs (2 steps of 32 of 240 rows)" in caveat["text"]
    whole = make_stage("teachers.finetune.max_steps=8")  # 256 rows
    assert whole.teacher_folder and not whole.inputs.caveats.entries
    assert make_stage("teachers.finetune.lr=1e-4").teacher_folder != one.teacher_folder
    given = write_classifier(tmp_path / "given", OWN)
    ready = make_stage(teacher=given)
    assert ready.teacher_pool.is_classifier(ready.teacher_pool.main) and ready.teacher_folder == given


def test_a_fine_tuned_teacher_names_its_classes(make_stage):
    config = transformers.AutoConfig.from_pretrained(make_stage().teacher_folder)
    assert loading.labels_of(config) == OWN


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("cat", "dog", "cow"), "other labels"),
        (("kind0", "kind1"), "other labels"),
        (("LABEL_0", "LABEL_1", "LABEL_2"), "numbered, not named"),
        (("score",), "other labels"),
    ],
)
def test_a_teacher_of_another_task_is_refused_before_anything_is_made(make_stage, tmp_path, names, says):
    with pytest.raises(UserError, match=says) as error:
        check(make_stage(teacher=write_classifier(tmp_path / "other", names)))
    assert all(name in str(error.value) for name in (*names, *OWN))
    assert not (tmp_path / "artifacts").exists()


def test_a_classifier_cannot_teach_regression(make_stage, tmp_path):
    rows = write_task(tmp_path / "numbers", rows=30, regression=True)
    with pytest.raises(UserError, match="3 classes; this task is regression"):
        check(make_stage("select=random", teacher=write_classifier(tmp_path / "given", OWN), rows=rows))
    check(make_stage("select=random", teacher=write_classifier(tmp_path / "score", ("score",)), rows=rows))


def test_a_teacher_is_not_asked_who_it_is_where_labels_alone_teach(make_stage, tmp_path):
    made = make_stage("+exp=finetune", teacher=write_classifier(tmp_path / "other", ("cat", "dog", "cow")))
    check(made)
    assert made.teacher_pool.is_classifier(made.teacher_pool.main) and made.teachers(None) == []


def test_the_order_of_a_teachers_classes_is_found_by_name_and_its_answers_are_turned(make_stage, tmp_path):
    order = [2, 0, 1]
    plain, turned = (
        make_stage(teacher=write_classifier(tmp_path / name, OWN, order=given))
        for name, given in (("plain", None), ("turned", order))
    )
    assert [made.teacher_pool.order(made.teacher_pool.main) for made in (plain, turned)] == [(0, 1, 2), (1, 2, 0)]
    scores = [made.teacher_pool.scores for made in (plain, turned)]
    assert scores[0] == scores[1]
    (b,) = make_stage("data.batch_size=60").inputs.data_module(1, None).heldout_splits(final=True)[""]
    every = torch.arange(60)
    logits = []
    for made in (plain, turned):
        (teacher,) = made.teachers(None)
        logits.append(teacher.project(teacher.encoder.vectors(teacher.query(b), every, every)))
    torch.testing.assert_close(logits[0], logits[1])


def test_the_teachers_scores_are_kept_for_its_labels_too_not_for_its_weights_alone(make_stage, tmp_path):
    """After a correction of id2label in the teacher's config.json, scores of the wrong names are not reused."""
    right = write_classifier(tmp_path / "right", OWN)
    wrong = shutil.copytree(right, tmp_path / "wrong")
    config = json.loads((wrong / "config.json").read_text())
    names = ["kind1", "kind2", "kind0"]
    config["id2label"], config["label2id"] = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    (wrong / "config.json").write_text(json.dumps(config))
    before = make_stage(teacher=wrong).teacher_pool.scores["teacher"]
    after = make_stage(teacher=right).teacher_pool.scores["teacher"]
    alone = make_stage(f"artifacts={tmp_path / 'other artifacts'}", teacher=right).teacher_pool.scores["teacher"]
    assert before["loss"] != pytest.approx(alone["loss"], rel=1e-3)
    assert after == alone


def test_a_teacher_that_knows_nothing_is_refused_unless_told_otherwise(make_stage, tmp_path):
    given = write_classifier(tmp_path / "given", OWN)
    weights = safetensors.torch.load_file(given / "model.safetensors")
    weights["classifier.weight"].zero_()
    weights["classifier.bias"].copy_(torch.tensor([0.0, 0.0, 1.0]))
    safetensors.torch.save_file(weights, given / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="no better than always the majority class") as error:
        _ = make_stage("teachers.sanity=true", teacher=given).teacher_pool.scores["teacher"]
    assert "teachers.finetune" in str(error.value) and "teachers.sanity=false" in str(error.value)
    weak = make_stage("teachers.sanity=false", teacher=given)
    assert weak.teacher_pool.scores["teacher"]["accuracy"] < 0.5
    [caveat] = weak.inputs.caveats.entries
    assert caveat["kind"] == "weak_teacher" and "on dev, no better than always the majority class" in caveat["text"]


# ---- the student


def test_a_student_starts_from_the_teacher_as_it_was_before_fine_tuning(make_stage, teacher_folder):
    student = make_stage("student.layers=[0,3]").student().model
    source = transformers.AutoModelForMaskedLM.from_pretrained(teacher_folder)
    for mine, theirs in ((0, 0), (1, 3)):
        for p, q in zip(
            transformer_layers(student)[mine].parameters(), transformer_layers(source)[theirs].parameters(), strict=True
        ):
            assert torch.equal(p, q)
    assert loading.labels_of(student.config) == OWN


def test_the_new_head_is_the_seeds(make_stage):
    heads = [make_stage(f"seed={seed}").student().model.classifier.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_a_students_head_is_kept_only_if_it_tells_the_same_classes_in_the_same_order(make_stage, tmp_path):
    for name, names, kept in (("same", OWN, True), ("turned", OWN[::-1], False), ("other", ("a", "b", "c"), False)):
        given = write_classifier(tmp_path / name, names)
        student = make_stage(f"student.path={given}").student().model
        source = transformers.AutoModelForSequenceClassification.from_pretrained(given)
        assert torch.equal(student.classifier.weight, source.classifier.weight) == kept, name
        inside = [m.base_model.embeddings.word_embeddings.weight for m in (student, source)]
        assert torch.equal(*inside) and loading.labels_of(student.config) == OWN


# ---- the baseline without a teacher


def test_the_baseline_does_not_depend_on_how_others_select_or_teach(make_stage, tmp_path):
    more = ["no_kd_baseline=true", "trainer.max_steps=4"]
    scores, kept = [], 0
    for other in (["select=random"], ["select=adads"], ["select=margin", "knowledge=mse"]):
        made = make_stage(*more, *other)
        scores.append(made.baselines(4, 1)["no KD"])
        kept = len(list((tmp_path / "artifacts" / "baseline").glob("[0-9a-f]*")))
    assert scores[0] == scores[1] == scores[2] and kept == 1
    assert make_stage(*more, "seed=7").baselines(4, 1)["no KD"] != scores[0]


def test_the_baseline_is_the_same_whichever_knowledge_is_trained_first(make_stage, tmp_path):
    """TinyBERT's phases begin the learning rate's schedule anew; labels alone have no phases."""
    found = {}
    for knowledge in ("response", "tinybert"):
        store = f"artifacts={tmp_path / knowledge}"
        made = make_stage(
            "no_kd_baseline=true", "trainer.max_steps=8", store, f"knowledge={knowledge}", "optim.lr=1e-2"
        )
        made._no_kd(8, 1)
        (parts,) = [
            json.loads(file.read_text())["parts"]
            for file in (tmp_path / knowledge / "baseline").glob("*/manifest.json")
        ]
        found[knowledge] = parts, made._no_kd(8, 1)
    same_key = found["response"][0] == found["tinybert"][0]
    assert not same_key or found["response"][1] == found["tinybert"][1]


def test_the_baseline_takes_as_many_rows_as_all_ranks_together(make_stage, tmp_path):
    one = make_stage("no_kd_baseline=true").baselines(2, 1)["no KD"]
    two = make_stage("no_kd_baseline=true", "data.batch_size=8").baselines(2, 2)["no KD"]
    assert one == two
