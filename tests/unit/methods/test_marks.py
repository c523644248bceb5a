"""kdlab.methods.marks: what each rule of kdlab declares, and where marks are found."""

from __future__ import annotations

import functools

import pytest
import torch

from kdlab.errors import UserError
from kdlab.methods import adoption
from kdlab.methods.knowledge import attention, base, hidden_states, joint, logits, weighing
from kdlab.methods.ksm.module import KSM
from kdlab.methods.marks import DECLARED_FIELDS, FORWARD, UNDECLARED, Marks, function_of, marks_of, members_of, needs
from kdlab.methods.selection import strategies

NEEDS = {
    strategies: {
        "random": "",
        "entropy scaled_entropy margin least_confidence certainty": "logits",
        "density cluster": "features",
    },
    adoption: {
        "ensemble every alone": "",
        "hard soft": "student",
        "least_uncertain by_certainty": "teachers",
        "by_column": "rows",
    },
    weighing: {"fixed random_soft random_hard token_temperature accepted": "", "uncertainty": "uncertainty"},
    logits: {
        "soft_cross_entropy mean_squared_error label_cross_entropy label_squared_error label_loss soft_loss": "logits"
    },
    hidden_states: {"cosine": "hidden", "patient embedding_mse hidden_mse relation aligned": "states"},
    attention: {"attention_mse attention_relation": "scores", "value_relation": "values"},
    joint: {"FeatureAlignment CommonFeatures": "hidden", "joined_soft_loss": "logits"},
}
RULES = {
    f"{module.__name__.rsplit('.', 1)[-1]}.{name}": (getattr(module, name), frozenset(fields.split()))
    for module, groups in NEEDS.items()
    for names, fields in groups.items()
    for name in names.split()
}


@pytest.mark.parametrize("rule", sorted(RULES))
def test_needs(rule):
    function, fields = RULES[rule]
    assert marks_of(function).needs == fields
    assert marks_of(functools.partial(functools.partial(function), temperature=2.0)).needs == fields


def test_every_rule_of_a_module_has_its_row():
    for module, groups in NEEDS.items():
        if module is strategies:  # tests/property/test_strategy_laws.py tries the marks of all of them
            continue
        marked = {name for name, value in vars(module).items() if isinstance(getattr(value, "marks", None), Marks)}
        assert marked == set(" ".join(groups).split())


def test_other_marks_of_the_rules():
    functions = [function for function, _ in RULES.values()]

    def names(test) -> str:
        return " ".join(sorted(rule.__name__ for rule in functions if test(marks_of(rule))))

    assert names(lambda m: m.rowwise) == "certainty entropy least_confidence margin random scaled_entropy"
    assert names(lambda m: m.mixes == "answers") == "by_certainty ensemble least_uncertain"
    assert names(lambda m: m.min_teachers == 1) == "alone ensemble every"
    assert names(lambda m: not m.teacher) == "label_cross_entropy label_loss label_squared_error"
    assert names(lambda m: m.joint) == "CommonFeatures FeatureAlignment joined_soft_loss"
    assert names(lambda m: m.layer_mask is not None) == "aligned"
    assert marks_of(hidden_states.aligned).layer_mask is hidden_states.informative_layer_mask


def test_a_rule_without_marks_needs_everything():
    def plain(*inputs): ...

    for rule in (plain, functools.partial(plain), lambda evidence: evidence.labels):
        marks = marks_of(rule)
        assert marks is UNDECLARED
        assert marks.needs >= {"logits", "features", "labels", "student", "teachers", "uncertainty"}
        assert not marks.needs & DECLARED_FIELDS  # what costs a cache or further forwards must be asked for
        assert (marks.rowwise, marks.mixes, marks.min_teachers) == (False, "losses", 1)


def test_a_term_without_marks_is_refused():
    for term in (lambda student, teacher: student.logits, functools.partial(torch.nn.Linear(2, 2))):
        for question in (base.on_logits, base.is_joint, base.queries_teacher, base.fields_beyond_logits):
            with pytest.raises(UserError, match="declares no inputs: mark it with @needs"):
                question(term)


def test_terms_by_their_marks():
    soft = functools.partial(logits.soft_cross_entropy, temperature=2.0)
    assert base.on_logits(soft) and base.queries_teacher(soft) and not base.fields_beyond_logits(soft)
    assert base.on_logits(logits.label_loss) and not base.queries_teacher(logits.label_loss)
    assert not base.on_logits(hidden_states.patient) and base.fields_beyond_logits(hidden_states.patient) == {"states"}
    assert base.is_joint(joint.FeatureAlignment()) and not base.is_joint(soft)

    @needs("scores", "values", "logits", teacher=False)
    def term(student, teacher=None):
        return student.logits

    assert base.fields_beyond_logits(term) == {"scores", "values"}
    assert base.on_logits(term) and not base.queries_teacher(term)


def test_objects_carry_the_marks_of_their_class():
    @needs("features", rowwise=True)
    class Rule:
        def __call__(self, evidence): ...

    assert marks_of(Rule()) is marks_of(Rule) is marks_of(functools.partial(Rule))
    assert marks_of(Rule()).needs == {"features"} and marks_of(Rule()).rowwise
    assert marks_of(KSM).needs == {"features"}
    assert function_of(functools.partial(functools.partial(Rule))) is Rule


def test_an_ensemble_needs_what_its_members_need():
    members = [strategies.random, strategies.entropy, functools.partial(strategies.cluster, clusters=2)]
    ensemble = strategies.Ensemble(members)
    assert marks_of(ensemble) == Marks(frozenset({"logits", "features"}))
    assert not marks_of(strategies.Ensemble([strategies.entropy])).rowwise  # ranks depend on all rows
    assert list(members_of(ensemble)) == ["random", "entropy", "cluster"]
    assert members_of(strategies.entropy) == {"": strategies.entropy}
    assert marks_of(strategies.Ensemble({"mine": lambda evidence: evidence.labels})).needs >= FORWARD - DECLARED_FIELDS
