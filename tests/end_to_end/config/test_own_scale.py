"""scale=own: every experiment composes with it, on one device, for epochs; and each scale says which devices it takes."""

from __future__ import annotations

import pytest

from kdlab.config.composition import CONF, composition
from kdlab.config.schema import Config, checked
from kdlab.models.student import pick_layers
from kdlab.runs.callbacks import steps_between

EXPERIMENTS = sorted(file.stem for file in (CONF / "exp").glob("*.yaml"))


def own(exp: str, *more: str) -> Config:
    return checked(composition([f"+exp={exp}", "scale=own", "data.path=mine", *more])[0])


@pytest.mark.parametrize("exp", EXPERIMENTS)
def test_every_experiment_has_settings_for_ones_own_data(exp):
    config = own(exp, *(["student.path=mine"] if exp == "glue" else []))
    trainer, finetune = config.trainer, config.teachers.finetune
    assert trainer.max_steps is None and 1 <= (trainer.max_epochs or 0) <= 10
    if exp.startswith("causal"):  # a decoder teaches as it is
        assert finetune is None
    else:
        assert finetune is not None and finetune.max_steps is None and 3 <= (finetune.max_epochs or 0) <= 10
        assert finetune.precision == "auto"
    assert (trainer.precision, trainer.devices, trainer.num_nodes) == ("auto", 1, 1)
    assert trainer.evaluate_every == 0.05 and trainer.checkpoint_every == "auto"
    assert config.data.source is None and "wikipedia" not in str(config.data)
    assert config.student.layers == ("all" if exp in ("finetune", "glue") else 0.5)


def test_a_share_of_the_layers_suits_any_teacher():
    """By hand: half of 12, 24, 6, 4 and 1 layers; two thirds of 12 and 6; the published choice of 6 of 12."""
    assert [len(pick_layers(0.5, depth)) for depth in (12, 24, 6, 4, 1)] == [6, 12, 3, 2, 1]
    assert [pick_layers(0.667, depth, "first")[-1] for depth in (12, 6)] == [7, 3]
    assert pick_layers(0.5, 12) == [0, 2, 4, 7, 9, 11] and pick_layers(0.5, 6, "first") == [0, 1, 2]


def test_an_evaluation_by_share_of_the_run():
    assert [steps_between(0.05, total) for total in (1000, 30, 3)] == [50, 2, 1]
    assert steps_between(7, 1000) == 7


@pytest.mark.parametrize(("scale", "name", "revision"), [
    ("own", "roberta-base", None), ("paper", "roberta-base", None),
    ("own", "google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594"),
])  # fmt: skip
def test_a_revision_belongs_to_one_model(scale, name, revision):
    given = ["+exp=adads_finetune", f"scale={scale}", "data.path=mine", f"teachers.name={name}"]
    given += ["data=labelled_own"] if scale == "paper" else []
    assert checked(composition(given)[0]).teachers.revision == revision
    with_own = composition([*given, "teachers.revision=main"])[0]
    assert checked(with_own).teachers.revision == "main"


@pytest.mark.parametrize("scale", ["demo", "own", "paper"])
def test_what_a_scale_says_of_devices_is_what_they_are(scale):
    """Each text names all GPUs for a stage exactly where trainer.devices=auto."""
    devices = {}
    for stage, exp in (("pre-training", "adads_pretrain"), ("fine-tuning", "adads_finetune")):
        config = checked(
            composition([f"+exp={exp}", f"scale={scale}", "data.path=mine", *TASK.get((scale, exp), [])])[0]
        )
        devices[stage] = config.trainer.devices
        says = config.scale.says
    assert ("pre-training on every GPU" in says) is (devices["pre-training"] == "auto") is (scale == "paper")
    assert ("fine-tuning on one" in says) is (scale == "paper") and devices["fine-tuning"] == 1
    assert ("(trainer.devices=1)" in says) is (scale != "demo")
    summary = (CONF / "scale" / f"{scale}.yaml").read_text().splitlines()[0]
    assert ("every GPU" in summary) is ("pre-training on every GPU" in summary)


TASK = {("paper", "adads_finetune"): ["data.task=rte"]}
