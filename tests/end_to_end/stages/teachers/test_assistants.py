"""Assistants of a task, and what every stage of a run's preparation cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from kdlab.errors import UserError
from kdlab.models import flops
from kdlab.models.encoder import Encoder
from kdlab.models.student import transformer_layers
from kdlab.stages.validation import check
from tests.conftest import write_teacher
from tests.end_to_end.stages.test_several_teachers import depths
from tests.end_to_end.stages.test_several_teachers import make_stage as make_stage  # a fixture

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (".*LeafSpec", ".*does not have many workers", ".*dataloader is not resumable")
]
ASSISTANT = ["adopt=assistant", "adopt.assistant.max_steps=2", "student.layers=1"]


# ---- assistants


def test_an_assistant_is_between_teacher_and_student_and_made_once(make_stage, teacher_folder):
    one = make_stage(*ASSISTANT)
    assert depths(one) == {"assistant": 2, teacher_folder.name: 4}  # halfway between 1 and 4, rounded down
    assert list(one.teacher_pool.scores) == ["assistant", "teacher"]
    stages = {stage["what"]: stage for stage in one.inputs.prerequisites.stages()}
    assert list(stages) == ["teacher, 4 layers, fine-tuned", "assistant, 2 layers, distilled"]
    two = make_stage(*ASSISTANT, "seed=9", "select.ratio=0.5", "optim.lr=1e-4")
    before = len(make_stage.said)
    assert two.teacher_pool.folder(two.teacher_pool.members[0]) == one.teacher_pool.folder(one.teacher_pool.members[0])
    assert not any("making" in line for line in make_stage.said[before:])
    assert [stage["made_now"] for stage in two.inputs.prerequisites.stages()] == [False, False]
    other = make_stage(*ASSISTANT, "adopt.assistant.temperature=2.0")
    assert other.teacher_pool.folder(other.teacher_pool.members[0]) != one.teacher_pool.folder(
        one.teacher_pool.members[0]
    )
    three = make_stage(*ASSISTANT, "adopt.assistant.layers=3")
    assert three.teacher_pool.members[0].layers == (0, 2, 3)


def test_an_assistant_learns_what_vanilla_kd_teaches(make_stage, tmp_path):
    """Trained on the teacher's answers alone, it comes nearer to them than it was."""
    recipe = ["adopt.assistant.label_weight=0.0", "adopt.assistant.max_steps=20", "adopt.assistant.max_epochs=null",
              "adopt.assistant.lr=5e-3", "adopt.assistant.dropout=0.0", "student.layers=1", "adopt=assistant"]  # fmt: skip
    made = make_stage(*recipe, "teachers.finetune.max_steps=20")
    small, large = made.teachers(None)
    (batch,) = make_stage("data.batch_size=60").inputs.data_module(1, None).heldout_splits(final=True)[""]
    every = torch.arange(60)

    def told(encoder) -> torch.Tensor:
        with torch.no_grad():
            return encoder.project(encoder.vectors(encoder.encode(batch), every, every)).log_softmax(-1)

    member = made.teacher_pool.members[0]
    untrained = Encoder(made.teacher_pool.initial_model(member, 0).eval())
    target = told(large.encoder)
    far, near = (
        torch.nn.functional.kl_div(told(e), target, log_target=True, reduction="batchmean")
        for e in (untrained, small.encoder)
    )
    assert near < 0.7 * far


@pytest.mark.parametrize(
    ("layers", "student"), [(4, 2), (2, 2), (1, 2)], ids=["as the teacher", "as the student", "below the student"]
)
def test_an_assistant_of_another_depth_is_refused_before_anything_is_made(layers, student, make_stage, tmp_path):
    with pytest.raises(UserError, match="more than the student's 2 and fewer than the teacher's 4"):
        check(make_stage(*ASSISTANT, f"adopt.assistant.layers={layers}", f"student.layers={student}"))
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("more", [[], ASSISTANT], ids=["teacher", "assistant"])
def test_models_made_of_equal_weights_have_the_dropout_of_their_own_source(more, make_stage, teacher_folder, tmp_path):
    """MUKI's forwards with dropout must not be those of another teacher that happens to have the same weights."""
    lively = shutil.copytree(teacher_folder, tmp_path / "lively")
    config = json.loads((lively / "config.json").read_text()) | {"hidden_dropout_prob": 0.3}
    (lively / "config.json").write_text(json.dumps(config))

    def made(source: Path) -> Path:
        pool = make_stage(*more, teacher=source).teacher_pool
        return Path(pool.folder(pool.members[0]))

    folders = [made(source) for source in (teacher_folder, lively)]
    probabilities = [json.loads((folder / "config.json").read_text())["hidden_dropout_prob"] for folder in folders]
    assert probabilities == [0.0, 0.3]
    before = len(make_stage.said)
    assert [made(source) for source in (teacher_folder, lively)] == folders
    assert not any("making" in line for line in make_stage.said[before:])


def test_a_ready_model_may_be_where_an_assistant_starts(make_stage, tmp_path):
    start = write_teacher(tmp_path / "start", layers=3, seed=5)
    made = make_stage(*ASSISTANT, f"adopt.assistant.path={start}")
    check(made)
    assert made.teacher_pool.members[0].depth == 3
    assert torch.equal(
        transformer_layers(made.teacher_pool.initial_model(made.teacher_pool.members[0], 0))[
            0
        ].attention.self.query.weight,  # pyright: ignore
        transformer_layers(transformers.AutoModelForMaskedLM.from_pretrained(start))[0].attention.self.query.weight,  # pyright: ignore
    )


# ---- what it cost


def test_the_costs_of_every_stage_are_counted_and_kept(make_stage, tmp_path):
    made = make_stage(*ASSISTANT, "no_kd_baseline=true", "teachers.finetune.max_steps=3")
    made.teachers(None)
    made.baselines(2, 1)
    stages = made.inputs.prerequisites.stages()
    assert [stage["what"].split(",")[0] for stage in stages] == ["teacher", "assistant", "student without a teacher"]
    assert [stage["steps"] for stage in stages] == [3, 2, 2]
    assert [stage["queries"] for stage in stages] == [0, 2 * 32, 0]  # each row of each batch of the assistant, once
    config = made.inputs.main_source.config
    for stage, rows in zip(stages, (3 * 32, 2 * 32, 2 * 4), strict=True):
        assert stage["seconds"] > 0 and stage["made_now"]
        least = flops.forward(flops.shape_of(config, 3), rows, 3) / 4  # of one layer of four
        assert stage["flops"] > least
    for kind, stage, unique in zip(("classifier", "assistant", "baseline"), stages, (0, 2 * 32, 0), strict=True):
        (file,) = (tmp_path / "artifacts" / kind).glob("*/cost.json")
        kept = json.loads(file.read_text())
        shown = {name: stage[name] for name in ("steps", "queries", "cached", "flops", "seconds")}
        assert kept == {**shown, "unique": unique}  # two batches of one epoch have no row in common
    again = make_stage(*ASSISTANT, "no_kd_baseline=true", "teachers.finetune.max_steps=3")
    again.teachers(None)
    again.baselines(2, 1)
    assert again.inputs.prerequisites.stages() == [{**stage, "made_now": False} for stage in stages]


def test_the_flops_of_an_assistant_are_three_passes_of_its_own_and_one_of_the_teachers(make_stage, tmp_path):
    """Rows of one length, so that padding hides nothing: W steps of B rows are B W (3 F_assistant + F_teacher)."""
    rows = tmp_path / "even"
    rows.mkdir()
    words = ("ba", "ke", "lo", "mi")
    for split in ("train", "dev"):
        lines = [f"{words[i % 4]} {words[i // 4 % 4]} {split[0]}\t{i % 3}" for i in range(64)]
        (rows / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    made = make_stage(*ASSISTANT, rows=rows)
    made.teachers(None)
    (stage,) = [stage for stage in made.inputs.prerequisites.stages() if stage["what"].startswith("assistant")]
    lengths = set(made.inputs.data_module(1, None).lengths.tolist())
    assert len(lengths) == 1
    (length,) = lengths
    shapes = [flops.shape_of(member.config, 3) for member in made.teacher_pool.members]
    n = 2 * 32

    def packed(shape: Any) -> float:
        """A forward of rows without padding, whose last layer runs for their first tokens."""
        return flops.encoder(shape, n * length, n * length**2, n, n * length) + flops.classifier_head(shape, n, 3)

    small, large = map(packed, shapes)
    assert stage["flops"] == 3 * small + large


def test_an_artifact_of_a_kdlab_that_did_not_count_says_so(make_stage, tmp_path):
    made = make_stage()
    made.teachers(None)
    (folder,) = (tmp_path / "artifacts" / "classifier").glob("[0-9a-f]*")
    kept = made.inputs.prerequisites.store
    (folder / "cost.json").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    parts, what = manifest["parts"], manifest["what"]
    weights = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "manifest.json"}

    def as_before(out: Path) -> None:
        for name, content in weights.items():
            (out / name).write_bytes(content)

    assert kept.get("classifier", parts, as_before, what) == folder
    again = make_stage()
    again.teachers(None)
    assert again.inputs.prerequisites.stages() == [
        {"what": "teacher, 4 layers, fine-tuned", "made_now": False, "queries": None, "cached": None, "flops": None, "seconds": None, "steps": None}
    ]  # fmt: skip
