"""Several teachers of plain text: masked-LM models of other depths, and assistants distilled from the main one."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers

from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.models import loading
from kdlab.stages.pretraining import PretrainStage
from kdlab.stages.registry import stage_of
from kdlab.stages.validation import check
from tests.end_to_end.stages.test_finetuning import composed
from tests.support.runs import tiny

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (".*LeafSpec", ".*does not have many workers", ".*dataloader is not resumable")
]
SMALL = "teachers.others.small.layers=2"
PREPARE = ["teachers.prepare.max_steps=1", "teachers.prepare.lr=1e-9", "teachers.prepare.max_length=32"]
ASSISTANT = ["adopt=assistant", "adopt.assistant.max_steps=2", "adopt.assistant.batch_size=16", "student.layers=[0]"]


@pytest.fixture
def make_stage(tmp_path, teacher_folder, text_folder):
    """Make the stage of a tiny run on text; all stages of one test share an artifact store."""

    def make(*more: str, teacher: Path = teacher_folder) -> PretrainStage:
        given = tiny(teacher, text_folder, f"artifacts={tmp_path / 'artifacts'}", "select=random", *PREPARE, *more)
        made = stage_of(checked(composed(given)), said.append)
        assert isinstance(made, PretrainStage)
        return made

    said: list[str] = []
    make.said = said  # pyright: ignore
    return make


def test_layers_of_the_main_teacher_keep_its_head_and_are_prepared_once(make_stage, teacher_folder):
    made = make_stage("adopt=hard", SMALL)
    check(made)
    found = made.teachers(None)
    assert [t.name for t in found] == ["small", teacher_folder.name]
    source = transformers.AutoModelForMaskedLM.from_pretrained(teacher_folder).state_dict()
    mine = found[0].encoder.model.state_dict()
    assert found[0].encoder.model.config.num_hidden_layers == 2
    for name, tensor in mine.items():  # layers 0 and 1 have the same names in both
        torch.testing.assert_close(tensor, source[name], atol=1e-6, rtol=0)
    assert [stage["what"] for stage in made.inputs.prerequisites.stages()] == ["teacher small, 2 layers, prepared"]
    again = make_stage("adopt=hard", SMALL, "seed=3")
    again.teachers(None)
    assert [(s["made_now"], s["steps"]) for s in again.inputs.prerequisites.stages()] == [(False, 1)]


def test_a_shallower_teacher_needs_a_recipe(make_stage):
    with pytest.raises(
        UserError, match="the teacher small has some layers of another model, and teachers.prepare, the settings"
    ):
        check(make_stage("adopt=hard", SMALL, "teachers.prepare=null"))


def test_an_encoder_without_a_head_is_prepared_first_and_its_layers_then(make_stage, teacher_folder, tmp_path):
    bare = tmp_path / "bare"
    transformers.AutoModel.from_pretrained(teacher_folder).save_pretrained(bare)
    loading.load_tokenizer(teacher_folder).save_pretrained(bare)
    made = make_stage("adopt=every", SMALL, teacher=bare)
    check(made)
    assert len(made.teachers(None)) == 2
    assert [stage["what"] for stage in made.inputs.prerequisites.stages()] == [
        "teacher, 4 layers, prepared",
        "teacher small, 2 layers, prepared",
    ]
    assert [one["kind"] for one in made.inputs.caveats.entries] == ["short_teacher"] * 2  # one step of 16 rows each


def test_the_loss_of_frequencies_is_that_of_counted_tokens(make_stage, text_folder):
    made = make_stage()
    data = made.inputs.data_module(1, None)
    rows = [data.train[i][1:-1] for i in range(len(data.train))]  # without [CLS] and [SEP]
    special = {int(data.train[0][0]): len(rows), int(data.train[0][-1]): len(rows)}
    counts = Counter(int(token) for row in rows for token in row) + Counter(special)
    whole = sum(counts.values()) + len(made.inputs.tokenizer)
    labels = [int(label) for b in data.heldout_splits(final=True)[""] for label in b.labels[b.labels != -100]]
    expected = -sum(math.log((counts[label] + 1) / whole) for label in labels) / len(labels)
    assert made.unigram_loss(data) == pytest.approx(expected)


def test_an_assistant_of_text(make_stage, teacher_folder):
    made = make_stage(*ASSISTANT)
    check(made)
    found = made.teachers(None)
    assert [(t.name, t.encoder.model.config.num_hidden_layers) for t in found] == [
        ("assistant", 2),
        (teacher_folder.name, 4),
    ]
    (stage,) = made.inputs.prerequisites.stages()
    assert stage["what"] == "assistant, 2 layers, distilled" and stage["queries"] == 2 * 16 and stage["flops"] > 0
    assert any(line.startswith("assistant: held-out masked-LM loss") for line in make_stage.said)
    [caveat] = made.inputs.caveats.entries
    assert caveat["kind"] == "short_teacher" and caveat["text"].startswith("assistant: its training saw 0.")
    again = make_stage(*ASSISTANT, "seed=5")
    again.teachers(None)
    assert [s["made_now"] for s in again.inputs.prerequisites.stages()] == [False]


def test_the_student_takes_the_layers_of_the_main_teacher_loaded_or_not(make_stage):
    made = make_stage("adopt=hard", SMALL)
    loaded, anew = made.student(*made.teachers(None)), made.student()
    for p, q in zip(loaded.parameters(), anew.parameters(), strict=True):
        assert torch.equal(p, q)
