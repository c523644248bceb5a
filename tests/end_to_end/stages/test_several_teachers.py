"""Several teachers of a task: others, specialists and assistants, made once, kept, ordered, scored and paid for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sklearn.metrics import accuracy_score

from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.models import flops, loading
from kdlab.models.student import transformer_layers
from kdlab.stages.finetuning import FinetuneStage
from kdlab.stages.registry import stage_of
from kdlab.stages.validation import check
from tests.conftest import write_task, write_teacher
from tests.end_to_end.stages.test_finetuning import OWN, QUICK, composed, write_classifier
from tests.support.runs import tiny_task

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (".*LeafSpec", ".*does not have many workers", ".*dataloader is not resumable")
]
SMALL = "+teachers.others.small.layers=2"


@pytest.fixture
def make_stage(tmp_path, teacher_folder, task_folder):
    """Make the stage of a tiny run; all stages of one test share an artifact store."""

    def make(*more: str, teacher: Path = teacher_folder, rows: Path = task_folder) -> FinetuneStage:
        given = tiny_task(teacher, rows, f"artifacts={tmp_path / 'artifacts'}", *QUICK, "select=random", *more)
        made = stage_of(
            checked(composed([o.lstrip("+") if not o.startswith("+exp") else o for o in given])), said.append
        )
        assert isinstance(made, FinetuneStage)
        return made

    said: list[str] = []
    make.said = said  # pyright: ignore
    return make


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Path:
    """Rows of four classes."""
    folder = write_task(tmp_path_factory.mktemp("four"), rows=80, classes=3)
    for split in ("train", "dev"):
        lines = (folder / f"{split}.tsv").read_text().splitlines()
        turned = [f"{line[:-1]}3" if i % 4 == 0 and i else line for i, line in enumerate(lines)]
        (folder / f"{split}.tsv").write_text("\n".join(turned) + "\n")
    (folder / "labels.txt").write_text("index\tvalue\tname\n" + "".join(f"{i}\t{i}\tkind{i}\n" for i in range(4)))
    return folder


def depths(made: FinetuneStage) -> dict[str, int]:
    return {t.name: t.encoder.model.config.num_hidden_layers for t in made.teachers(None)}


# ---- others


def test_a_second_teacher_has_the_first_layers_of_the_main_one_and_is_fine_tuned_once(make_stage, teacher_folder):
    one = make_stage("adopt=hard", SMALL, "teachers.finetune.max_steps=1", "teachers.finetune.lr=1e-9")
    found = one.teachers(None)
    assert [t.name for t in found] == ["small", teacher_folder.name]
    assert depths(one) == {"small": 2, teacher_folder.name: 4}
    source = transformers.AutoModelForMaskedLM.from_pretrained(teacher_folder)
    for mine, theirs in zip(transformer_layers(found[0].encoder.model), transformer_layers(source), strict=False):
        for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-6, rtol=0)  # trained with next to no learning rate
    assert loading.labels_of(found[0].encoder.model.config) == OWN
    two = make_stage("adopt=soft", SMALL, "teachers.finetune.max_steps=1", "teachers.finetune.lr=1e-9", "seed=4")
    before = len(make_stage.said)
    two.teachers(None)
    assert not any("making" in line for line in make_stage.said[before:])
    assert two.teacher_pool.folder(two.teacher_pool.members[0]) == one.teacher_pool.folder(one.teacher_pool.members[0])
    assert [stage["made_now"] for stage in one.inputs.prerequisites.stages()] == [True, True]
    assert [stage["made_now"] for stage in two.inputs.prerequisites.stages()] == [False, False]


def test_even_layers_and_lists_of_layers(make_stage, teacher_folder):
    made = make_stage(
        "adopt=every", "+teachers.others.a.layers=[1,3]", "+teachers.others.b.layers=2", "+teachers.others.b.pick=even"
    )
    members = {member.name: member.layers for member in made.teacher_pool.members}
    assert members == {"a": (1, 3), "b": (0, 3), teacher_folder.name: None}


def test_they_come_from_small_to_large_by_their_cost_not_by_their_names(make_stage, tmp_path):
    wide = write_teacher(tmp_path / "wide", layers=6)
    made = make_stage("adopt=every", f"+teachers.others.a.path={wide}", "+teachers.others.z.layers=1")
    assert [member.depth for member in made.teacher_pool.members] == [1, 4, 6]
    assert [member.name for member in made.teacher_pool.members][::2] == ["z", "a"]
    costs = [flops.forward(flops.shape_of(member.config, 3), 1, 32) for member in made.teacher_pool.members]
    assert costs == sorted(costs)


def test_a_classifier_of_the_task_is_taken_as_it_is_and_its_order_is_found(make_stage, tmp_path):
    given = write_classifier(tmp_path / "given", OWN, order=[2, 0, 1])
    made = make_stage("adopt=ensemble", f"+teachers.others.given.path={given}")
    found = {t.name: t for t in made.teachers(None)}
    assert found["given"].order == [1, 2, 0] and not any(
        "given" in s["what"] for s in made.inputs.prerequisites.stages()
    )
    assert set(made.teacher_pool.scores) == {"teacher", "teacher given"}
    assert made.teachers_on_heldout(None, [], None) == {}  # pyright: ignore


def test_no_teacher_is_made_where_no_term_asks_one(make_stage, tmp_path):
    made = make_stage("knowledge=labels", "adopt=hard", SMALL)
    check(made)
    assert made.teachers(None) == [] and made.inputs.prerequisites.stages() == []
    assert not (tmp_path / "artifacts" / "classifier").exists()


def test_the_student_starts_from_the_main_teachers_backbone_whoever_teaches(make_stage):
    alone, both = make_stage(), make_stage("adopt=hard", SMALL)
    for p, q in zip(alone.student().parameters(), both.student(*both.teachers(None)).parameters(), strict=True):
        assert torch.equal(p, q)


# ---- specialists


def test_specialists_know_their_classes_alone(make_stage, four, tmp_path):
    made = make_stage("teachers.split=2", rows=four)
    check(made)
    assert not (tmp_path / "artifacts" / "classifier").exists()
    found = made.teachers(None)
    assert [t.classes for t in found] == [[0, 1], [2, 3]]
    assert [loading.labels_of(t.encoder.model.config) for t in found] == [("kind0", "kind1"), ("kind2", "kind3")]
    assert made.teacher_folder == made.inputs.main_source.place  # nobody knows all classes
    assert len(list((tmp_path / "artifacts" / "classifier").glob("[0-9a-f]*"))) == 2


def test_a_specialist_is_scored_on_the_rows_of_its_classes(make_stage, four):
    """By the model in its folder and scikit-learn, on rows picked from dev by hand."""
    made = make_stage("teachers.split=2", "teachers.finetune.max_steps=6", "teachers.finetune.lr=5e-3", rows=four)
    scores = made.teacher_pool.scores
    tokenizer = made.inputs.tokenizer
    for part, (title, found) in zip(((0, 1), (2, 3)), scores.items(), strict=True):
        rows = [line.split("\t") for line in (four / "dev.tsv").read_text().splitlines()[1:]]
        mine = [(text, part.index(int(label))) for text, label in rows if int(label) in part]
        member = next(m for m in made.teacher_pool.members if m.title == title)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(made.teacher_pool.folder(member)).eval()
        told = []
        with torch.no_grad():
            for text, _ in mine:
                given = tokenizer(text, return_tensors="pt", truncation=True, max_length=32)
                told.append(
                    int(model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits.argmax())
                )
        assert found["accuracy"] == pytest.approx(accuracy_score([label for _, label in mine], told))
        counts = np.bincount([int(label) for _, label in rows])[list(part)]
        assert len(mine) == counts.sum()


@pytest.mark.parametrize(
    ("classes", "count", "parts"),
    [(5, 2, [(0, 1, 2), (3, 4)]), (6, 3, [(0, 1), (2, 3), (4, 5)]), (4, 2, [(0, 1), (2, 3)])],
)
def test_classes_are_dealt_out_in_order_and_evenly(classes, count, parts, make_stage):
    from kdlab.teachers import specs

    names = [f"kind{i}" for i in range(classes)]
    assert [m.classes for m in specs.specialists(count, make_stage().inputs.main_source, names)] == parts


def test_too_many_specialists_and_specialists_in_regression_are_refused(make_stage, tmp_path):
    with pytest.raises(UserError, match="two classes or more, and this task has 3"):
        check(make_stage("teachers.split=2"))
    numbers = write_task(tmp_path / "numbers", rows=30, regression=True)
    with pytest.raises(UserError, match="regression"):
        check(make_stage("teachers.split=2", rows=numbers))


def test_a_classifier_is_no_specialist(make_stage, four, tmp_path):
    given = write_classifier(tmp_path / "given", ("kind0", "kind1", "kind2", "kind3"))
    with pytest.raises(UserError, match="a classifier already"):
        check(make_stage("teachers.split=2", teacher=given, rows=four))


def test_a_specialist_is_held_against_the_majority_of_its_own_classes(make_stage, tmp_path, four):
    """With one class alone on its dev rows nobody is better than always answering it."""
    rows = write_task(tmp_path / "one", rows=60, classes=3)
    (rows / "labels.txt").write_text((four / "labels.txt").read_text())
    train = (four / "train.tsv").read_text()
    dev = [line for line in (four / "dev.tsv").read_text().splitlines() if not line.endswith("\t0")]
    counts = [sum(line.endswith(f"\t{c}") for line in train.splitlines()) for c in (0, 1)]
    more = [f"ba ke lo {w}\t1" for w in ("ba", "ke", "lo", "mi", "nu", "ra")] * (2 if counts[0] > counts[1] else 1)
    (rows / "train.tsv").write_text(train.rstrip("\n") + "\n" + "\n".join(more * 5) + "\n")
    (rows / "dev.tsv").write_text("\n".join(dev) + "\n")
    with pytest.raises(UserError, match=r"specialist-1 scores .* no better than always the majority class \(1.000\)"):
        make_stage("teachers.split=2", "teachers.sanity=true", rows=rows).teachers(None)
