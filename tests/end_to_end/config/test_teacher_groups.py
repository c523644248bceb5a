"""Contradictory settings of teachers are refused in one line, before anything is loaded or made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdlab.config.composition import CONF, composition, error_line
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.methods.adoption import hard
from kdlab.methods.marks import needs
from kdlab.modules.objective import WeightedTerm
from kdlab.stages.dry_run import ModelShape, check_adoption, check_terms
from kdlab.stages.validation import check
from kdlab.teachers import specs
from kdlab.teachers.specs import ModelSource, TeacherSpec
from tests.conftest import tiny_config, write_task, write_teacher
from tests.end_to_end.stages.test_several_teachers import SMALL
from tests.end_to_end.stages.test_several_teachers import make_stage as make_stage  # a fixture

ADOPTIONS = sorted(file.stem for file in (CONF / "adopt").glob("*.yaml"))
TYPED = {
    "the main teacher again": ([SMALL.replace("layers=2", "pick=first")], "the main teacher again"),
    "an unknown key of a further teacher": ([SMALL.replace("layers", "layer")], "teachers.others.small.layers"),
    "no layers": ([SMALL.replace("=2", "=0")], "layers=0: a whole number, at least 1"),
    "a way to pick them": ([SMALL, SMALL.replace("layers=2", "pick=last")], "teachers.others.small.pick=last"),
    "the assistant's name": (["+teachers.others.assistant.layers=2"], "cannot be a teacher's name"),
    "a name with a blank": (["+teachers.others={a b:{layers:2}}"], "cannot be a teacher's name"),
    "one specialist": (["teachers.split=1"], "teachers.split=1: a whole number, at least 2"),
    "specialists and others": (["teachers.split=2", SMALL], "does not go with teachers.others (small)"),
    "specialists of text": (["teachers.split=2"], "plain text"),
    "specialists and an assistant": (["+exp=adads_finetune", "teachers.split=2", "adopt=assistant"], "adopt.assistant=null"),
    "an assistant's layers": (["adopt=assistant", "adopt.assistant.layers=many"], "adopt.assistant.layers=many"),
    "an assistant's steps": (["adopt=assistant", "adopt.assistant.max_steps=0"], "adopt.assistant.max_steps=0"),
    "an assistant without an end": (
        ["adopt=assistant", "adopt.assistant.max_steps=null", "adopt.assistant.max_epochs=null"], "max_epochs or max_steps"
    ),
    "an assistant's temperature": (["adopt=assistant", "adopt.assistant.temperature=0"], "adopt.assistant.temperature"),
    "labels alone for an assistant": (["adopt=assistant", "adopt.assistant.label_weight=1"], "adopt.assistant.label_weight"),
    "an assistant's decay": (["adopt=assistant", "adopt.assistant.weight_decay=-1"], "adopt.assistant.weight_decay"),
    "an assistant's precision": (["adopt=assistant", "adopt.assistant.precision=half"], "adopt.assistant.precision"),
    "forwards below none": (["adopt=muki_soft", "adopt.mc_dropout=-1"], "adopt.mc_dropout=-1: a whole number, at least 0"),
    "forwards of a shared teacher": (
        ["adopt=muki_hard", "adopt.mc_dropout=16", "trainer.shard_teacher=true", "trainer.devices=2"], "adopt.mc_dropout=16: forwards with dropout"
    ),
    "no such teacher of a term": (
        ["knowledge=dekd", "knowledge.terms.aligned.teacher=large"], "knowledge.terms.aligned.teacher=large: did you mean largest"
    ),
    "learning rates of too few phases": (["knowledge=tinybert", "knowledge.phase_lrs=[1e-4]"], "make 2 phases"),
    "no learning rate of a phase": (["knowledge=tinybert", "knowledge.phase_lrs=[1e-4,0]"], "knowledge.phase_lrs=[0.0001, 0.0]"),
    "an arm that is no code": (["+adopt.arms.mine=3"], "adopt.arms.mine=3: code was expected"),
    "an arm of foreign code": (["+adopt.arms.mine._target_=os.system"], "adopt.arms.mine._target_=os.system"),
    "an adoption that is not there": (["adopt=hrad"], "did you mean hard"),
    "a phase of no steps": (["weigh.phase=0"], "weigh.phase=0"),
    "episodes below none": (["weigh.episodes=-1"], "weigh.episodes=-1"),
    "another reward": (["weigh.reward=f2"], "did you mean f1"),
    "rewards from test": (["weigh.reward_data=test"], "weigh.reward_data=test"),
    "no rows for rewards": (["weigh.reward_rows=0"], "weigh.reward_rows=0"),
}  # fmt: skip


@pytest.mark.parametrize("what", TYPED)
def test_one_line_from_the_configuration_alone(what):
    overrides, says = TYPED[what]
    with pytest.raises(Exception) as error:
        checked(composition(overrides)[0])
    line = error_line(error.value)
    assert says in line and "\n" not in line


def test_every_adoption_composes_and_single_has_no_rule():
    arms = {name: list(checked(composition([f"adopt={name}"])[0]).adopt.arms) for name in ADOPTIONS}
    assert {name for name, found in arms.items() if not found} == {"single"}
    assert arms["assistant"] == ["hard"] and all(len(found) == 1 for name, found in arms.items() if name != "single")


def test_a_configuration_written_before_there_were_several_teachers_is_still_one():
    composed, _ = composition([])
    del composed["weigh"], composed["adopt"]["arms"], composed["adopt"]["policy"], composed["teachers"]["others"]
    found = checked(composed)
    assert found.adopt.arms == {} and found.teachers.others == {} and found.weigh.name == "fixed"


# ---- what needs the models' configs, not the models


def test_a_rule_for_two_needs_two_and_two_need_a_rule(make_stage, tmp_path):
    for adopt in ("hard", "soft", "muki_hard", "muki_soft"):
        with pytest.raises(UserError, match=f"adopt={adopt}: .* 2 teachers or more"):
            check(make_stage(f"adopt={adopt}"))
    with pytest.raises(UserError, match=r"adopt=single: there are 2 teachers \(small, "):
        check(make_stage(SMALL))
    for adopt in ("ensemble", "every"):
        check(make_stage(f"adopt={adopt}"))  # of one teacher: that one
        check(make_stage(f"adopt={adopt}", SMALL))
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("adopt", ["hard", "soft", "muki_hard", "muki_soft"])
def test_uncertainty_on_regression(adopt, make_stage, tmp_path):
    rows = write_task(tmp_path / "numbers", rows=30, regression=True)
    with pytest.raises(UserError, match=f"adopt={adopt}: .* regression, which has none: adopt=ensemble or every"):
        check(make_stage(f"adopt={adopt}", SMALL, rows=rows))
    check(make_stage("adopt=every", SMALL, rows=rows))


def test_a_further_teacher_of_other_words_or_shorter_reach(make_stage, tmp_path):
    other = write_teacher(tmp_path / "other")
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"baba"', '"xxx"'))
    with pytest.raises(UserError, match="the teacher words has another tokenizer"):
        check(make_stage("adopt=every", f"+teachers.others.words.path={other}"))
    import transformers

    short = tiny_config("bert")
    short.max_position_embeddings = 16
    folder = write_teacher(tmp_path / "short")
    transformers.BertForMaskedLM(short).save_pretrained(folder)
    with pytest.raises(UserError, match="the teacher short reads at most 16 tokens"):
        check(make_stage("adopt=every", f"+teachers.others.short.path={folder}"))


def test_more_layers_than_there_are_and_no_such_folder(make_stage):
    with pytest.raises(UserError, match="teachers.others.small.layers=5: the teacher has 4 layers"):
        check(make_stage("adopt=every", SMALL.replace("=2", "=5")))
    with pytest.raises(UserError, match="teachers.others.small.path=nowhere: a model folder"):
        check(make_stage("adopt=every", "+teachers.others.small.path=nowhere"))


def test_two_teachers_of_one_name(make_stage, tmp_path):
    teacher = write_teacher(tmp_path / "small")
    with pytest.raises(UserError, match="two teachers are called small"):
        check(make_stage("adopt=every", SMALL, teacher=teacher))


def test_terms_are_evaluated_on_examples_of_every_teacher(make_stage, tmp_path):
    """Attention of other heads cannot be compared, whichever teacher has them; nor layers with fewer than one's own."""
    import transformers

    config = tiny_config("bert")
    config.num_attention_heads = 2
    other = write_teacher(tmp_path / "heads")
    transformers.BertForMaskedLM(config).save_pretrained(other)
    heads = f"+teachers.others.heads.path={other}"
    check(make_stage("adopt=every", heads, "knowledge=response"))
    with pytest.raises(UserError, match="as many heads"):
        check(make_stage("adopt=every", heads, "knowledge=tinybert"))
    check(make_stage("adopt=every", SMALL, "student.layers=2", "knowledge=pkd"))
    with pytest.raises(UserError, match="at least as deep"):
        check(make_stage("adopt=every", SMALL, "student.layers=3", "knowledge=pkd"))


# ---- the parts


def member(layers: int = 4, classes: tuple[int, ...] | None = None, width: int = 32) -> TeacherSpec:
    config = tiny_config("bert", layers)
    config.hidden_size = width
    return TeacherSpec(f"of {layers}", "teacher", ModelSource(Path("nowhere"), None, config), None, classes)


def test_a_rule_of_ones_own_is_tried(make_stage):
    two = [member(2), member(4)]

    @needs("student")
    def wrong(student, teachers, count):
        return student

    def failing(student, teachers, count):
        raise ValueError("no such thing\nand more")

    with pytest.raises(UserError, match=r"returned \(3,\), not \(3, 2\)"):
        check_adoption("mine", {"wrong": wrong}, two, [], False)
    with pytest.raises(UserError, match="failing is no adoption rule: no such thing$"):
        check_adoption("mine", {"failing": failing}, two, [], False)
    with pytest.raises(UserError, match="is no adoption rule"):
        check_adoption("mine", {"seven": 7}, two, [], False)
    check_adoption("single", {}, two, ["features"], False)  # something reads them together
    with pytest.raises(UserError, match="hard queries only some teachers, and features reads all of them"):
        check_adoption("hard", {"hard": hard}, two, ["features"], False)


def test_a_term_that_reads_all_teachers_is_given_all_of_them_at_their_widths():
    seen = []

    @needs("hidden", joint=True)
    class All(torch.nn.Module):
        def build(self, student_width, teacher_widths, seed):
            seen.append((student_width, teacher_widths))

        def forward(self, student, teachers):
            seen.append([t.hidden.shape[-1] for t in teachers])
            seen.append([t.logits.shape[-1] for t in teachers])
            return student.hidden.sum((1, 2))

    @needs("logits")
    def alone(student, teacher):
        seen.append((student.logits.shape[-1], teacher.logits.shape[-1]))
        return student.logits.sum(1)

    members = [member(2, (0, 1)), member(4, (2, 3, 4), 48)]
    terms = {"all": WeightedTerm(All(), 1.0), "alone": WeightedTerm(alone, 1.0)}
    check_terms(terms, ModelShape.of(tiny_config("bert", 2)), members, 5, torch.zeros(1, dtype=torch.long), None)
    assert seen == [(32, [32, 48]), [32, 48], [2, 3], (2, 2), (3, 3)]


def test_a_term_of_the_largest_teacher_is_tried_on_that_one_and_needs_one():
    seen = []

    @needs("states")
    def term(student, teacher):
        seen.append(len(teacher.states) - 1)
        return student.states[0][:, 0, 0]

    terms = {"mine": WeightedTerm(term, 1.0, "all", teacher="largest")}
    given = (ModelShape.of(tiny_config("bert", 2)), [member(2), member(4)], 5, torch.zeros(1, dtype=torch.long), None)
    check_terms(terms, *given)
    assert seen == [4]
    with pytest.raises(UserError, match="knowledge.terms.mine.teacher=largest: the teachers are specialists"):
        check_terms(terms, given[0], [member(2, (0, 1)), member(4, (2, 3, 4))], *given[2:])


def test_monte_carlo_dropout_is_for_rules_that_read_the_teachers_and_for_teachers_with_dropout(make_stage):
    with pytest.raises(UserError, match=r"adopt.mc_dropout=2: adopt=hard .* adopt=muki_soft or muki_hard"):
        check(make_stage("adopt=hard", SMALL, "+adopt.mc_dropout=2"))
    with pytest.raises(UserError, match="adopt.mc_dropout=2: the teacher small has no dropout"):
        check(make_stage("adopt=muki_soft", SMALL, "adopt.mc_dropout=2"))  # the tests' models have none


def test_equals_keep_their_order_and_specialists_theirs():
    first, second = member(4), member(4)
    assert specs.ordered([first, second], 3, 32) == [first, second]
    large, small = member(6, (0, 1)), member(2, (2, 3))
    assert specs.ordered([large, small], 4, 32) == [large, small]
