"""The settings at scale=paper against what was published, as METHODS.md quotes it.

Where each number comes from (METHODS.md; A is AdaDS, D Dynamic KD, T DeKD):

- section 1, selection: ratio 0.1 of A's tables; the strategies under their papers' names.
- section 2, AdaDS: six arms (no random); alpha 0.1, epsilon 0.1, K 5, M 256 are ours, stated there, for A does not print
  them; the interval follows from its speed-up; the observation is the task's own loss, it queries no teacher.
- section 3, fine-tuning: lr 2e-5, batch 32, AdamW, 10 % linear warm-up, length 128 (D); 5 epochs (A; D takes 3);
  lambda 0.5, tau 1 (D); the student is the first 6 layers of BERT-base; the teacher BERT-base, lr 2e-5, 3 epochs (D).
- section 5, augmentation: x20 (D). Replacement probability 0.4 and 15 candidates are TinyBERT's (Jiao et al. 2020,
  Algorithm 1 and section 4.2), whose task-specific stage is 20 epochs on intermediate layers, then 3 on predictions.
- sections 6 and 7, knowledge sets: BERT-PKD's layers {2,4,6,8,10} of 12; TinyBERT's embeddings, hidden states and
  attention matrices by MSE, then logits; MiniLM's last-layer attention distributions and value relations.
- section 4, DistilBERT: 5 CE_soft + 2 labels + 1 cosine, tau 2.

Pre-training (section 4) is held by test_commands.py.
"""

from __future__ import annotations

import functools
import inspect
import re

import pytest
import transformers

from kdlab.config.composition import CONF, composition
from kdlab.config.schema import Config, checked
from kdlab.errors import UserError
from kdlab.methods.knowledge import layer_maps
from kdlab.methods.ksm.module import KSM
from kdlab.models import flops
from kdlab.models.student import pick_layers
from kdlab.stages import components, observation
from kdlab.stages.registry import stage_of
from kdlab.stages.validation import check
from kdlab.sweeps import expansion
from kdlab.teachers import specs
from kdlab.teachers.specs import ModelSource
from tests.support.cadence import each_time

TASK = "data.task=sst2"
HUB = r"(?:\bname[=:] ?|\bpath[=:] ?)([a-z][\w-]*/[\w.-]+)"  # a model or data set, in a file of conf/
UNFIXED = {"google/bert_uncased_L-12_H-256_A-4", "google/bert_uncased_L-6_H-256_A-4"}  # said in tasks.md and the sweep


@functools.cache
def paper(*more: str, exp: str = "adads_finetune") -> Config:
    return checked(composition([f"+exp={exp}", "scale=paper", TASK, *more])[0])


def function_of(term: dict) -> str:
    return term["_target_"].rpartition(".")[2]


def terms(config: Config) -> dict[str, tuple[float, str]]:
    """Weight and function of each term that counts."""
    return {name: (t.weight, function_of(t.term)) for name, t in config.knowledge.terms.items() if t.weight > 0}


def test_adads_fine_tunes_as_published():
    config = paper()
    assert (config.optim.lr, config.optim.warmup, config.data.batch_size, config.data.max_length) == (
        2e-5,
        0.1,
        32,
        128,
    )
    assert (config.trainer.max_epochs, config.trainer.max_steps, config.trainer.accumulate) == (5, None, 1)
    assert config.select.ratio == 0.1 and config.knowledge.labels_on == "selected"
    assert config.teachers.name == "google-bert/bert-base-uncased" and config.teachers.path is None
    assert (config.data.stage, config.data.task, config.data.source, config.data.augment) == (
        "finetune",
        "sst2",
        None,
        None,
    )


def test_the_paper_scale_names_the_task_it_needs():
    config = checked(composition(["+exp=adads_finetune", "scale=paper"])[0])
    with pytest.raises(UserError, match=r"data\.task="):
        check(stage_of(config, lambda line: None))


def test_its_student_is_the_first_half_of_bert_base():
    student = paper().student
    assert pick_layers(student.layers, 12, student.pick) == [0, 1, 2, 3, 4, 5]
    assert (student.path, student.hidden, student.dropout, student.freeze) == (None, None, None, [])
    other = paper("student.pick=even").student  # METHODS sections 3 and 4: or every other one, as DistilBERT
    assert pick_layers(other.layers, 12, other.pick) == [0, 2, 4, 7, 9, 11]


def test_its_bandit_has_the_stated_settings():
    select = paper().select
    assert list(select.arms) == ["entropy", "margin", "least_confidence", "certainty", "cluster", "density"]
    assert select.policy == {"_target_": "kdlab.methods.selection.policies.Online", "alpha": 0.1, "epsilon": 0.1}
    assert select.reward == {"_target_": "kdlab.methods.selection.rewards.LossDecay", "window": 5}
    assert (select.evaluation_rows, select.interval, select.observe) == ("auto", "auto", "task")


def test_its_selector_observes_as_few_rows_as_its_speed_up_implies():
    """AdaDS Table 1: 3.4x with 6 of 12 layers at ratio 0.1, by Eq. 12 with n_eval M of the rows of an epoch."""
    select, bert = paper().select, flops.cost(flops.BERT_6_LAYERS, flops.BERT_BASE)

    def speed_up(rows: int, interval: int) -> float:
        return bert.vanilla() / bert.adads(0.1, 1, rows, interval * 32)

    found = observation.planned(select, components.selection(select), 32, 100_000)
    assert found is not None and round(speed_up(found.rows, found.interval), 1) == 3.4
    assert round(speed_up(256, 10), 1) == 2.3  # 80 % of the rows


def test_vanilla_kd_is_half_labels_half_teacher_at_temperature_one():
    knowledge = paper().knowledge
    assert terms(paper("knowledge=response")) == terms(paper())
    assert terms(paper()) == {"label": (0.5, "label_loss"), "soft": (0.5, "soft_loss")}
    assert knowledge.terms["soft"].term["temperature"] == 1.0
    assert terms(paper("knowledge=mse")) == {"label": (0.5, "label_loss"), "logits": (0.5, "mean_squared_error")}


def test_the_teacher_is_fine_tuned_as_published():
    finetune = paper().teachers.finetune
    assert finetune is not None
    assert (finetune.lr, finetune.max_epochs, finetune.max_steps, finetune.batch_size) == (2e-5, 3, None, 32)
    assert (finetune.warmup, finetune.dropout, finetune.freeze) == (0.1, None, [])
    assert paper().teachers.sanity and paper().teachers.prepare is None


@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_fine_tuning_alone_makes_the_teacher_that_distillation_would_make(scale):
    alone = checked(composition(["+exp=finetune", f"scale={scale}", TASK])[0])
    recipe = checked(composition(["+exp=adads_finetune", f"scale={scale}", TASK])[0]).teachers.finetune
    assert recipe is not None
    assert alone.student.layers == "all" and alone.student.path is None and alone.select.ratio == 1
    mine = (alone.optim.lr, alone.optim.weight_decay, alone.optim.warmup, alone.data.batch_size)
    assert mine == (recipe.lr, recipe.weight_decay, recipe.warmup, recipe.batch_size)
    assert (alone.trainer.max_epochs, alone.trainer.max_steps) == (recipe.max_epochs, recipe.max_steps)
    assert alone.trainer.precision == recipe.precision
    assert (alone.student.freeze, alone.student.dropout) == (recipe.freeze, recipe.dropout)
    assert terms(alone) == {"label": (1.0, "label_loss")}


def test_the_baseline_without_kd_is_the_same_student_and_recipe():
    mine = paper("student=short_paper", exp="finetune")
    theirs = paper()
    assert (mine.student.layers, mine.student.pick) == (theirs.student.layers, theirs.student.pick) == (6, "first")
    assert (mine.optim.lr, mine.data.batch_size) == (theirs.optim.lr, theirs.data.batch_size)


def test_tinybert_learns_intermediate_layers_for_20_epochs_then_predictions_for_3():
    config = paper("knowledge=tinybert")
    (change,) = config.knowledge.phases
    assert change == pytest.approx(20 / 23, abs=5e-4)
    counted = {name: t for name, t in config.knowledge.terms.items() if t.weight > 0}
    head = counted.pop("head")  # ours: selection reads the classifier
    assert (function_of(head.term), head.trains, head.since, head.until) == ("label_loss", "head", 0.0, change)
    first = {name: t for name, t in counted.items() if t.since == 0}
    second = {name: t for name, t in counted.items() if t.since > 0}
    assert {name: (t.weight, function_of(t.term), t.until) for name, t in first.items()} == {
        "embedding": (1.0, "embedding_mse", change),
        "hidden": (1.0, "hidden_mse", change),
        "attention": (1.0, "attention_mse", change),
    }
    # hard labels have no part in it
    assert {name: (function_of(t.term), t.since, t.until) for name, t in second.items()} == {
        "soft": ("soft_loss", change, 1.0)
    }
    assert layer_maps.layer_pairs(counted["hidden"].term["layers"], 4, 12) == [(1, 3), (2, 6), (3, 9), (4, 12)]
    assert counted["soft"].term["temperature"] == 1.0


@pytest.mark.parametrize(
    ("task", "epochs", "length"),
    [("sst2", 20, 64), ("cola", 50, 64), ("mrpc", 20, 128), ("rte", 20, 128), ("mnli", 10, 128), ("qqp", 10, 128), ("qnli", 10, 128)],
)  # fmt: skip
def test_tinyberts_recipe_is_the_published_one(task, epochs, length):
    """Jiao et al. 2020, 4.2: 20 epochs (MNLI, QQP, QNLI 10, CoLA 50) at 5e-5, 3 at 1e-5 to 3e-5; 64 tokens of one sentence."""
    given = ["+exp=adads_finetune", "scale=paper", "knowledge=tinybert", "recipe=tinybert_paper", f"data.task={task}"]
    config = checked(composition(given)[0])
    assert config.trainer.max_epochs == epochs + 3 and config.trainer.max_steps is None
    assert config.knowledge.phases == [pytest.approx(epochs / (epochs + 3), abs=1e-6)]
    assert config.knowledge.terms["hidden"].until == config.knowledge.terms["soft"].since == config.knowledge.phases[0]
    first, second = config.knowledge.phase_lrs
    assert first == 5e-5 and 1e-5 <= second <= 3e-5
    assert (config.data.max_length, config.data.batch_size) == (length, 32)


def test_ksms_tinybert_is_trained_by_tinyberts_recipe():
    """K Table 4 quotes the row from Jiao et al. 2020; the teacher is the one of the other arms (K Appendix B.2)."""
    given = ["+sweep=ksm_augmented", "scale=paper", "seed=1"]
    found = {}
    for config in (job.config for job in expansion.jobs(expansion.Expansion(given, []), {})):
        if config.knowledge.name == "tinybert":
            teacher = config.teachers.finetune
            assert teacher is not None and (teacher.lr, teacher.max_epochs) == (5e-5, 5)
            assert config.knowledge.phase_lrs == [5e-5, 2e-5]
            found[config.data.task] = (config.trainer.max_epochs, config.data.max_length)
    assert found == {"rte": (23, 128), "mrpc": (23, 128), "sst2": (23, 64), "qnli": (13, 128)}


def test_tinyberts_sweep_trains_by_tinyberts_recipe():
    jobs = expansion.jobs(expansion.Expansion(["+sweep=adads_tinybert", "scale=paper", "seed=1", "select=all"], []), {})
    found = {}
    for config in (job.config for job in jobs):
        found[config.data.task] = (config.trainer.max_epochs, config.data.max_length, *config.knowledge.phase_lrs)
    assert found == {
        "qqp": (13, 128, 5e-5, 2e-5), "mnli": (13, 128, 5e-5, 2e-5), "qnli": (13, 128, 5e-5, 2e-5), "sst2": (23, 64, 5e-5, 2e-5)
    }  # fmt: skip


def test_another_length_of_tinyberts_first_phase_moves_everything_that_hangs_on_it():
    config = paper("knowledge=tinybert", "knowledge.phases=[0.5]")
    found = {name: (t.since, t.until) for name, t in config.knowledge.terms.items() if t.weight > 0}
    first = dict.fromkeys(("head", "embedding", "hidden", "attention"), (0, 0.5))
    assert found == {"soft": (0.5, 1.0), **first}


def test_patient_kd_learns_from_the_published_layers():
    config = paper("knowledge=pkd")
    found = config.knowledge.terms["patient"]
    assert function_of(found.term) == "patient" and found.at == "all"
    assert [n for _, n in layer_maps.layer_pairs(found.term["layers"], 6, 12)] == [2, 4, 6, 8, 10]
    # beta of the published script, on means over mapped layers and width, whatever these are
    assert found.weight == 100 and found.term["average"] is True
    assert paper("student.layers=3", "knowledge=pkd").knowledge.terms["patient"].weight == 100
    assert paper(exp="dynamickd_objective").knowledge.terms["patient"].term["average"] is True
    assert set(terms(config)) == {"label", "soft", "patient"}


def test_distilbert_and_minilm_have_their_parts():
    distilbert = paper("knowledge=distilbert")
    assert terms(distilbert) == {"soft": (5.0, "soft_loss"), "label": (2.0, "label_loss"), "cosine": (1.0, "cosine")}
    assert distilbert.knowledge.terms["soft"].term["temperature"] == 2.0
    minilm = terms(paper("knowledge=minilm"))
    assert minilm["attention"] == (1.0, "attention_relation") and minilm["values"] == (1.0, "value_relation")


def test_augmentation_is_tinyberts():
    augment = paper("+augment=tinybert").data.augment
    assert augment is not None
    assert (augment.copies, augment.replace, augment.candidates) == (20, 0.4, 15)
    assert augment.model is None and augment.table is None


def test_dynamic_kds_and_dekds_own_settings_are_a_word_away():
    config = paper("knowledge.labels_on=all", "trainer.max_epochs=3")  # D's public code and epochs
    assert config.knowledge.labels_on == "all" and config.trainer.max_epochs == 3
    config = paper("knowledge.terms.soft.term.temperature=5")  # T: tau 5
    assert config.knowledge.terms["soft"].term["temperature"] == 5


FILES = sorted((CONF / "exp").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("scale", each_time(["demo", "paper"], "paper"))  # the demo's run by day: test_commands.py
def test_every_experiment_composes_at_both_scales(file, scale):
    more = [TASK] if "labelled" in file.read_text() else []
    config = checked(composition([f"+exp={file.stem}", f"scale={scale}", *more])[0])
    assert config.name == file.stem and config.scale.name == scale


def test_a_group_is_said_in_the_comments_as_it_is_typed():
    """`+augment=tinybert`, not `data/augment=...`: commands in comments of conf/ must compose."""
    typed = {
        found
        for file in CONF.rglob("*.yaml")
        for found in re.findall(r"(?<![\w.])(\+?[a-z]+/?[a-z]+=[a-z]+)\b(?![.\w])", file.read_text())
        if found.split("=")[0].lstrip("+") in {"augment", "data/augment", "knowledge", "select", "student", "recipe"}
    }
    assert len(typed) > 20
    groups = dict(override.split("=") for override in sorted(typed))  # of each, as it is typed, one that is composed
    for group, choice in groups.items():
        assert composition(["+exp=adads_finetune", f"{group}={choice}"])[0], group
    for override in typed:
        group, _, choice = override.lstrip("+").partition("=")
        assert (CONF / group / f"{choice}.yaml").is_file(), override


# ---- which teacher, which knowledge (METHODS sections 5 to 7)


@pytest.mark.parametrize(
    "exp", ["dekd", "ksm", "dynamickd_data", "dynamickd_teacher", "dynamickd_objective", "specialists"]
)
def test_students_and_batches_of_the_other_papers_are_the_same(exp):
    config = paper(exp=exp)
    assert pick_layers(config.student.layers, 12, config.student.pick) == [0, 1, 2, 3, 4, 5]
    assert (config.optim.lr, config.optim.warmup) == (2e-5, 0.1)
    assert (config.data.batch_size, config.data.max_length) == (32, 128)
    assert config.trainer.max_steps is None and config.trainer.max_epochs == (5 if exp == "ksm" else 3)


def test_dekd_has_its_published_settings():
    config = paper(exp="dekd")
    assert (config.select.name, config.select.ratio) == ("scaled_entropy", 0.5)
    assert terms(config) == {"label": (0.5, "label_loss"), "soft": (0.3, "soft_loss"), "aligned": (0.2, "aligned")}
    assert config.knowledge.terms["soft"].term["temperature"] == 5.0
    assert config.knowledge.terms["aligned"].teacher == "largest"  # Eq. 8, 9: the teacher's states
    assert config.adopt.arms["hard"]["_target_"] == "kdlab.methods.adoption.hard"
    given = config.adopt.assistant
    assert given is not None and (given.layers, given.temperature) == (None, 5.0)
    assert (given.lr, given.max_epochs, given.batch_size) == (2e-5, 3, 32)
    without = paper("knowledge=dekd_no_alignment", exp="dekd")
    assert terms(without) == {"label": (0.5, "label_loss"), "soft": (0.3, "soft_loss")}


@pytest.mark.nightly
@pytest.mark.parametrize(("student", "published"), [(3, 6), (6, 9)])
def test_every_assistant_of_dekds_methods_has_the_published_depth(student, published):
    """DeKD section 4.3: the 6-layer assistant is configured for the 3-layer student, the 9-layer one for the 6-layer."""
    one_setting = ["scale=paper", "seed=1", f"student.layers={student}"]
    bert = ModelSource("bert-base", None, transformers.BertConfig())  # 12 layers
    depths = []
    jobs = expansion.jobs(expansion.Expansion(["+sweep=dekd_methods", *one_setting], []), {})
    for job in [one for one in jobs if one.config.data.task == "agnews"]:
        assert len(pick_layers(job.config.student.layers, 12, job.config.student.pick)) == student
        settings = job.config.adopt.assistant
        depths.append(None if settings is None else specs.assistant(settings, bert, student).depth)
    assert depths == [published, *[None] * 8]  # DeKD, then eight methods without an assistant


@pytest.mark.parametrize(("teacher", "student", "halfway"), [(6, 3, 4), (6, 2, 4), (4, 2, 3), (24, 6, 15)])
def test_other_assistants_are_halfway_rounded_down(teacher, student, halfway):
    assert specs.assistant_layers(teacher, student) == halfway


def test_mukis_settings_are_those_of_its_public_code():
    """Li et al. 2022: weights softmax(score / 0.2), margin re-weighting, tau 1; 16 forwards for MC dropout, an option."""
    soft = paper("knowledge=muki", "adopt=muki_soft", "adopt.mc_dropout=16", exp="specialists")
    arm = soft.adopt.arms["muki_soft"]
    assert (arm["scale"], arm["margin"], soft.adopt.mc_dropout) == (0.2, True, 16)
    assert soft.knowledge.terms["soft"].term["temperature"] == 1.0
    hard = paper("knowledge=muki", "adopt=muki_hard", exp="specialists")
    assert hard.adopt.arms["muki_hard"]["margin"] is True and hard.adopt.mc_dropout == 0


@pytest.mark.parametrize("name", ["dfa", "cfl"])
def test_dfa_and_cfl_learn_joined_logits_and_uhc_does_not(name):
    config = paper(f"knowledge={name}", exp="specialists")
    assert terms(config)["soft"] == (1.0, "joined_soft_loss")
    assert config.knowledge.terms["soft"].term["temperature"] == 5.0
    assert terms(paper(exp="specialists"))["soft"] == (1.0, "soft_loss")


def test_dekd_without_data_selection_learns_from_every_row():
    assert paper("select=all", exp="dekd").select.ratio == 1
    assert paper("select=random", exp="dekd").select.ratio == 0.5


def test_ksm_has_its_published_settings():
    config = paper(exp="ksm")
    assert terms(config) == {
        "fink": (1.0, "label_loss"),
        "resk": (1.0, "soft_loss"),
        "feak": (1.0, "patient"),
        "relk": (1.0, "relation"),
    }
    assert config.knowledge.terms["feak"].term["squared"] is False
    given = config.weigh.arms["ksm"]
    assert (given["gamma"], given["lr_actor"], given["lr_critic"]) == (0.98, 2e-4, 2e-4)
    assert given["threshold"] in (0.1, 0.2, 0.3) and given["alpha"] in (0.1, 0.2)
    assert config.weigh.phase in (32, 64, 96, 128)
    assert (config.weigh.reward, config.weigh.reward_data) == ("loss", "heldout")
    teacher = config.teachers.finetune  # K Appendix B.2
    assert teacher is not None
    assert (teacher.lr, teacher.max_epochs, teacher.max_steps, teacher.batch_size) == (5e-5, 5, None, 32)
    made = inspect.signature(KSM)
    assert (made.parameters["hidden"].default, made.parameters["features"].default) == (256, 8)


KSM_SWEEPS = [file.stem for file in sorted((CONF / "sweep").glob("ksm_*.yaml"))]


@pytest.mark.parametrize("sweep", each_time(KSM_SWEEPS, "ksm_learning"))
def test_every_sweep_of_ksm_fine_tunes_ksms_teacher(sweep):
    """K Appendix B.2: lr 5e-5, 5 epochs; also where the sweep's other settings are cut down to one job each."""
    one_setting = ["scale=paper", "data.task=rte", "seed=1", "student.layers=3", "weigh.episodes=1"]
    for job in expansion.jobs(expansion.Expansion([f"+sweep={sweep}", *one_setting], []), {}):
        teacher = job.config.teachers.finetune
        assert teacher is not None and (teacher.lr, teacher.max_epochs) == (5e-5, 5)


def test_dynamic_kds_teachers_are_bert_base_and_large():
    config = paper(exp="dynamickd_teacher")
    assert config.teachers.name == "google-bert/bert-base-uncased"
    (other,) = config.teachers.others.values()
    assert other.name == "google-bert/bert-large-uncased"
    assert config.adopt.arms["hard"]["_target_"] == "kdlab.methods.adoption.hard" and config.select.ratio == 1
    assert terms(config) == {"label": (0.5, "label_loss"), "soft": (0.5, "soft_loss")}
    assert config.knowledge.terms["soft"].term["temperature"] == 1.0


def test_dynamic_kd_weighs_outputs_by_certainty_and_states_by_uncertainty():
    config = paper(exp="dynamickd_objective")
    rule = config.weigh.arms["uncertainty"]
    assert (rule["certain"], rule["uncertain"]) == (["soft"], ["patient"])
    assert config.knowledge.terms["patient"].term["layers"] == "skip" and layer_maps.layer_pairs("skip", 6, 12) == [
        (1, 2), (2, 4), (3, 6), (4, 8), (5, 10)
    ]  # fmt: skip


# ---- models of the Hub


@pytest.mark.parametrize("file", [f for f in sorted(CONF.rglob("*.yaml")) if re.search(HUB, f.read_text())], ids=str)
def test_every_name_of_the_hub_is_fixed_to_a_commit(file):
    text = file.read_text()
    # ${only_for:NAME,KEY,COMMIT}: the commit counts where KEY is NAME
    text = re.sub(r"\"\$\{only_for:[^,]*,\$\{[\w.]*\},'([0-9a-f]*)'\}\"", r"\1", text)
    fixed = [name for name in re.findall(HUB, text) if name not in UNFIXED]
    assert len(fixed) == len(re.findall(r"\brevision[=:] ?\"?[0-9a-f]{7,40}\b", text))


def test_the_names_that_are_fixed_are_these():
    """A walk that finds nothing would pass."""
    found = {name for file in CONF.rglob("*.yaml") for name in re.findall(HUB, file.read_text())}
    assert found == {
        "databricks/databricks-dolly-15k",
        "google-bert/bert-base-uncased",
        "google-bert/bert-large-uncased",
        "huawei-noah/TinyBERT_General_4L_312D",
        "huawei-noah/TinyBERT_General_6L_768D",
        "rojagtap/bookcorpus",
        "wikimedia/wikipedia",
        *UNFIXED,
    }
    large = paper(exp="dynamickd_teacher").teachers.others["large"]
    assert large.revision == "6da4b6a26a1877e173fca3225479512db81a5e5b"


def test_a_revision_without_a_path_is_refused():
    with pytest.raises(UserError, match="student.revision=abc: that of student.path"):
        paper("student.revision=abc")
