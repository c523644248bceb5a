"""A batch's second and third answer: several teachers and weighed terms, against the same losses written plainly."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from kdlab.errors import UserError
from kdlab.methods import adoption
from kdlab.methods.knowledge import hidden_states, weighing
from kdlab.methods.knowledge import logits as terms
from kdlab.methods.knowledge.joint import FeatureAlignment, joined_soft_loss
from kdlab.methods.marks import needs
from kdlab.models import flops
from kdlab.models.encoder import Encoder
from kdlab.models.student import set_dropout
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.seeding import stable
from kdlab.teachers.specs import weights_of
from kdlab.teachers.teacher import Teacher
from kdlab.types import Outputs, Plan
from tests.unit.modules.test_student_tasks import CLASSES, ROWS, STUDENT, batch, classifier, kl

SOFT = WeightedTerm(functools.partial(terms.soft_loss, temperature=2.0), 0.7, "all")
LABEL = WeightedTerm(terms.label_loss, 0.3)
PATIENT = WeightedTerm(functools.partial(hidden_states.patient, layers="skip"), 0.5, "all")


def lab(given, classes=((None, 3), (None, 4)), same: bool = False, width: int = 32, labels_on="selected", mc_dropout=0):
    """A distiller with teachers of the given (classes, layers), from small to large."""
    ledger = Ledger(ROWS, fixed_inputs=True)
    teachers = []
    for i, (known, layers) in enumerate(classes):
        model = classifier("bert", layers, CLASSES if known is None else len(known), seed=0 if same else 5 + i)
        teachers.append(Teacher(f"t{i}", Encoder(model), ledger.count_queries, classes=known))
    student = Encoder(classifier("bert", STUDENT, CLASSES, seed=1, width=width))
    optim = OptimizerSettings(lr=1e-3)
    return StudentModule(student, given, optim, 10, teachers, ledger, labels_on=labels_on, mc_dropout=mc_dropout).eval()


def logits(module: StudentModule, b) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The student's with gradient, the teachers' without, by transformers' own forward."""
    given = {"input_ids": b.input_ids, "attention_mask": b.attention_mask}
    with torch.no_grad():
        theirs = [t.encoder.model(**given).logits for t in module.teachers]
    return module.student.model(**given).logits, theirs


def uncertainty(found: torch.Tensor) -> torch.Tensor:
    p = found.softmax(-1)
    return -(p * p.log()).sum(-1) / math.log(found.shape[-1])


def queries_in(module: StudentModule) -> list[int]:
    assert module.ledger is not None
    per_teacher = module.ledger.totals()["teacher_queries"]["per_teacher"]
    return [per_teacher.get(t.name, {"total": 0})["total"] for t in module.teachers]


def assert_same_gradient(module: StudentModule, loss: torch.Tensor, plain: torch.Tensor) -> None:
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-6)
    some = [p for p in module.student.parameters() if p.requires_grad]
    mine = torch.autograd.grad(loss, some, allow_unused=True)
    theirs = torch.autograd.grad(plain, some, allow_unused=True)
    for a, b in zip(mine, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# ---- adoption


def test_hard_asks_each_teacher_for_its_half_alone():
    module, b = lab({"label": LABEL, "soft": SOFT}), batch()
    loss = module.loss(b, plan=Plan(adopt=adoption.hard))
    assert queries_in(module) == [3, 3]
    s, t = logits(module, b)
    order = uncertainty(s).argsort(descending=True)
    target = t[1].clone()
    target[order[:3]] = t[0][order[:3]]
    plain = 0.3 * torch.nn.functional.cross_entropy(s, b.labels) + 0.7 * kl(target, s, 2.0).mean()
    assert_same_gradient(module, loss, plain)
    spent = module.ledger.totals()["flops"]["teacher_forward"]  # pyright: ignore
    whole = sum(flops.forward(shape, *b.input_ids.shape) for shape in module.distillation.flops.teacher_shapes)
    assert 0.4 * whole < spent < 0.6 * whole


def test_soft_weighs_both_losses_row_by_row():
    module, b = lab({"label": LABEL, "soft": SOFT}), batch()
    loss = module.loss(b, plan=Plan(adopt=adoption.soft))
    assert queries_in(module) == [ROWS, ROWS]
    s, t = logits(module, b)
    u = uncertainty(s).detach()  # or the student would lower its loss by changing its entropy
    each = u * kl(t[0], s, 2.0) + (1 - u) * kl(t[1], s, 2.0)
    assert_same_gradient(module, loss, 0.3 * torch.nn.functional.cross_entropy(s, b.labels) + 0.7 * each.mean())


def test_the_ensemble_teaches_the_mean_of_the_probabilities():
    module, b = lab({"soft": WeightedTerm(terms.soft_loss, 1.0, "all")}), batch()
    loss = module.loss(b, plan=Plan(adopt=adoption.ensemble))
    s, t = logits(module, b)
    p = (t[0].softmax(-1) + t[1].softmax(-1)) / 2
    assert_same_gradient(module, loss, (p * (p.log() - s.log_softmax(-1))).sum(-1).mean())


@pytest.mark.parametrize("rule", [adoption.soft, adoption.ensemble, adoption.hard])
def test_equal_teachers_teach_as_one(rule):
    given = {"label": LABEL, "soft": SOFT, "patient": PATIENT}
    many, b = lab(given, ((None, 4), (None, 4)), same=True), batch()
    one = lab(given, ((None, 4),), same=True)
    torch.testing.assert_close(many.loss(b, plan=Plan(adopt=rule)), one.loss(b), rtol=1e-5, atol=1e-6)


def test_without_a_rule_the_largest_teacher_alone_is_asked():
    module, b = lab({"soft": SOFT}), batch()
    s, t = logits(module, b)
    assert_same_gradient(module, module.loss(b), 0.7 * kl(t[1], s, 2.0).mean())
    assert queries_in(module) == [0, ROWS]


def test_states_are_compared_with_the_teacher_a_row_heeds_in_its_depth_and_width():
    module, b = lab({"soft": SOFT, "patient": PATIENT}, width=16), batch()
    loss = module.loss(b, plan=Plan(adopt=adoption.hard))
    found = module.student.model(b.input_ids, attention_mask=b.attention_mask, output_hidden_states=True)
    order = uncertainty(found.logits).argsort(descending=True)
    each = torch.zeros(ROWS)
    for place, rows in enumerate((order[:3], order[3:])):
        teacher = module.teachers[place].encoder.model
        with torch.no_grad():
            t = teacher(b.input_ids, attention_mask=b.attention_mask, output_hidden_states=True)
        s = [module.bridges[str(place)]["states"](x) for x in found.hidden_states]  # pyright: ignore
        pairs = [(1, 2)]  # PKD-Skip of a 2-layer student and 3 or 4 layers: all layers but the last
        apart = sum(
            (torch.nn.functional.normalize(s[m][:, 0], dim=-1) - torch.nn.functional.normalize(t.hidden_states[n][:, 0], dim=-1))
            .square().sum(-1) for m, n in pairs
        )  # fmt: skip
        each = each.index_add(0, rows, (0.7 * kl(t.logits, found.logits, 2.0) + 0.5 * apart)[rows])
    torch.testing.assert_close(loss, each.mean(), rtol=1e-5, atol=1e-6)


def test_uncertainty_is_found_once_for_both_rules_and_paid_for():
    module, b = lab({"label": LABEL, "soft": SOFT, "patient": PATIENT}), batch()
    weigh = functools.partial(weighing.uncertainty, certain=["soft"], uncertain=["patient"])
    module.loss(b, plan=Plan(adopt=adoption.hard, weigh=weigh))
    head = flops.classifier_head(module.shape, ROWS, CLASSES)
    spent = module.ledger.totals()["flops"]["student_forward"]  # pyright: ignore
    heads = 2 * head  # for uncertainty, and for the soft loss at all rows beside the labels' at those that have one
    assert spent == flops.forward(module.shape, *b.input_ids.shape) + heads


# ---- specialists

PARTS = (([0, 2], 3), ([1, 3], 3))


def test_uhc_compares_each_specialist_with_the_student_over_its_own_classes():
    module, b = lab({"soft": SOFT}, PARTS), batch()
    loss = module.loss(b, plan=Plan(adopt=adoption.every))
    s, t = logits(module, b)
    assert_same_gradient(module, loss, 0.7 * (kl(t[0], s[:, [0, 2]], 2.0) + kl(t[1], s[:, [1, 3]], 2.0)).mean())
    torch.testing.assert_close(module.loss(b), loss)  # specialists are heeded together where there is no rule
    assert queries_in(module) == [2 * ROWS, 2 * ROWS]


MUKI = {
    "hard": adoption.least_uncertain,
    "soft": functools.partial(adoption.by_certainty, scale=0.2),
    "hard, by margin": functools.partial(adoption.least_uncertain, margin=True),
    "soft, by margin": functools.partial(adoption.by_certainty, scale=0.2, margin=True),
}


def muki(name: str, doubt: torch.Tensor, t: list[torch.Tensor], s: torch.Tensor, tau: float) -> torch.Tensor:
    """MUKI's loss written plainly: soften each teacher, pad it, mix, weigh the row by the margin of two scores."""
    score = 1 - doubt
    weight = torch.nn.functional.one_hot(score.argmax(1), 2).float()
    weight = (score / 0.2).softmax(1) if name.startswith("soft") else weight
    p = torch.zeros(ROWS, CLASSES)
    p[:, [0, 2]], p[:, [1, 3]] = weight[:, :1] * (t[0] / tau).softmax(-1), weight[:, 1:] * (t[1] / tau).softmax(-1)
    each = tau**2 * (torch.special.xlogy(p, p) - p * (s / tau).log_softmax(-1)).sum(-1)
    return (each * ((score[:, 0] - score[:, 1]).abs() + 1e-6) if "margin" in name else each).mean()


@pytest.mark.parametrize("tau", [1.0, 5.0])
@pytest.mark.parametrize("name", MUKI)
def test_muki_makes_one_answer_over_all_classes(name, tau):
    soft = WeightedTerm(functools.partial(terms.soft_loss, temperature=tau), 1.0, "all")
    module, b = lab({"soft": soft}, PARTS), batch()
    loss = module.loss(b, plan=Plan(adopt=MUKI[name]))
    s, t = logits(module, b)
    doubt = torch.stack([uncertainty(x) for x in t], 1)
    assert float((doubt[:, 0] - doubt[:, 1]).abs().min()) > 1e-4
    assert_same_gradient(module, loss, muki(name, doubt, t, s, tau))


def test_uncertainty_by_monte_carlo_dropout_is_that_of_the_mean_answer():
    """MUKI: the entropy of the mean of K answers with dropout; the answer itself is taken without."""
    samples, soft = 3, WeightedTerm(terms.soft_loss, 1.0, "all")
    module, b = lab({"soft": soft}, PARTS, mc_dropout=samples), batch()
    for teacher in module.teachers:
        set_dropout(teacher.encoder.model.base_model, 0.3)
        teacher.encoder.model.dropout.p = 0.0  # pyright: ignore
    before = torch.get_rng_state()
    loss = module.loss(b, plan=Plan(adopt=MUKI["soft, by margin"]))
    assert torch.equal(torch.get_rng_state(), before)  # the student's dropout is as without it
    assert not any(m.training for teacher in module.teachers for m in teacher.encoder.modules())
    s, t = logits(module, b)
    doubt = []
    for teacher in module.teachers:
        with torch.random.fork_rng([]), torch.no_grad():
            torch.manual_seed(stable(0, "mc_dropout", teacher.name, 0, 0))
            model = teacher.encoder.model.train()
            given = {"input_ids": b.input_ids, "attention_mask": b.attention_mask}
            p = sum(model(**given).logits.softmax(-1) for _ in range(samples)) / samples
            model.eval()
        doubt.append(-(p * p.log()).sum(-1) / math.log(2))
    doubt = torch.stack(doubt, 1)
    assert float((doubt - torch.stack([uncertainty(x) for x in t], 1)).abs().max()) > 1e-3
    assert_same_gradient(module, loss, muki("soft, by margin", doubt, t, s, 1.0))
    assert queries_in(module) == [(1 + samples) * ROWS] * 2
    spent = module.ledger.totals()["flops"]["teacher_forward"]  # pyright: ignore
    shapes = [flops.shape_of(teacher.encoder.model.config, 2) for teacher in module.teachers]
    assert spent == sum((1 + samples) * flops.forward(shape, *b.input_ids.shape) for shape in shapes)
    assert not torch.equal(loss, module.distillation(b, Plan(adopt=MUKI["soft, by margin"]), step=1)[0])


def test_joined_logits_are_learnt_over_all_classes_with_features():
    soft = WeightedTerm(functools.partial(joined_soft_loss, temperature=5.0), 0.7, "all")
    module, b = lab({"soft": soft, "align": WeightedTerm(FeatureAlignment(), 0.5, "all")}, PARTS), batch()
    loss = module.loss(b, plan=Plan(adopt=adoption.every))
    s, t = logits(module, b)
    whole = torch.stack([t[0][:, 0], t[1][:, 0], t[0][:, 1], t[1][:, 1]], 1)
    torch.testing.assert_close(module.losses["soft"], kl(whole, s, 5.0).mean().detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss.detach(), 0.7 * module.losses["soft"] + 0.5 * module.losses["align"])
    assert queries_in(module) == [ROWS, ROWS]


def test_layers_are_the_teachers_for_every_row_whoever_answers_it():
    """DeKD Eq. 7 to 9: the assistant answers the uncertain half, and the teacher's layers are aligned for all rows."""
    largest = WeightedTerm(hidden_states.aligned, 0.2, "all", teacher="largest")
    module, b = lab({"soft": SOFT, "aligned": largest}), batch()
    loss = module.loss(b, plan=Plan(adopt=adoption.hard))
    s, t = logits(module, b)
    given = {"attention_mask": b.attention_mask, "output_hidden_states": True}
    own = module.student.model(b.input_ids, **given).hidden_states
    with torch.no_grad():
        theirs = module.teachers[1].encoder.model(b.input_ids, **given).hidden_states
    apart = hidden_states.aligned(Outputs(states=own), Outputs(states=theirs))  # by hand in test_hidden_states
    order = uncertainty(s).argsort(descending=True)
    soft = torch.zeros(ROWS)
    soft[order[:3]], soft[order[3:]] = kl(t[0], s, 2.0)[order[:3]], kl(t[1], s, 2.0)[order[3:]]
    assert_same_gradient(module, loss, 0.7 * soft.mean() + 0.2 * apart.mean())
    assert queries_in(module) == [ROWS // 2, ROWS]
    names = module.decision_columns(["adopt"])
    assert [name for name in names if name.startswith("layer_")] == [f"layer_aligned_t1_{n}" for n in range(1, 5)]
    assert set(names) == set(module.decisions)
    assert float(module.decisions["asked_t1"]) == 0.5
    assert sum(float(module.decisions[f"layer_aligned_t1_{n}"]) for n in range(1, 5)) == pytest.approx(STUDENT)


def test_no_projection_is_made_to_a_teacher_whose_states_no_term_reads():
    largest = WeightedTerm(hidden_states.aligned, 0.2, "all", teacher="largest")
    assert set(lab({"soft": SOFT, "aligned": largest}, width=16).bridges) == {"1"}
    assert set(lab({"soft": SOFT, "aligned": largest, "patient": PATIENT}, width=16).bridges) == {"0", "1"}


def test_layers_are_those_of_the_model_that_answers_where_one_says_so():
    module, b = lab({"soft": SOFT, "aligned": WeightedTerm(hidden_states.aligned, 0.2, "all")}), batch()
    module.loss(b, plan=Plan(adopt=adoption.hard))
    assert queries_in(module) == [ROWS // 2, ROWS // 2]
    for teacher, layers in (("t0", 3), ("t1", 4)):
        shares = [float(module.decisions[f"layer_aligned_{teacher}_{n}"]) for n in range(1, layers + 1)]
        assert sum(shares) == pytest.approx(STUDENT)


@pytest.mark.parametrize("rule", [adoption.hard, adoption.soft, adoption.ensemble, adoption.least_uncertain, None])
def test_a_term_of_the_largest_teacher_has_the_same_value_under_every_rule(rule):
    patient = WeightedTerm(PATIENT.term, 1.0, "all", teacher="largest")
    module, b = lab({"patient": patient, "soft": WeightedTerm(SOFT.term, 1.0, "all", teacher="largest")}), batch()
    loss = module.loss(b, plan=None if rule is None else Plan(adopt=rule))
    torch.testing.assert_close(loss, module.loss(b), rtol=1e-5, atol=1e-6)


def test_terms_that_read_all_teachers_are_trained_with_the_student():
    module, b = lab({"soft": SOFT, "align": WeightedTerm(FeatureAlignment(), 0.5, "all")}, PARTS), batch()
    trained = {name for name, _ in module.named_parameters() if not name.startswith("student")}
    assert trained and all("term align" in name for name in trained)
    module.loss(b, plan=Plan(adopt=adoption.every)).backward()
    assert all(p.grad is not None for name, p in module.named_parameters() if name in trained)


def test_all_are_asked_about_every_row_where_a_term_reads_all_at_once():
    given = {"soft": SOFT, "align": WeightedTerm(FeatureAlignment(), 0.5, "all")}
    module, b = lab(given), batch()

    def extremes(student, teachers, count):
        return torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3)

    module.loss(b, plan=Plan(adopt=extremes))
    assert queries_in(module) == [ROWS, ROWS]


# ---- weighing


def test_weights_of_one_change_no_bit():
    module, b = lab({"label": LABEL, "soft": SOFT, "patient": PATIENT}), batch()
    ones = Plan(weigh=weighing.fixed)
    assert torch.equal(module.loss(b, plan=ones), module.loss(b))


def test_rows_are_weighed_by_the_students_uncertainty():
    module, b = lab({"label": LABEL, "soft": SOFT, "patient": PATIENT}), batch()
    rule = functools.partial(weighing.uncertainty, certain=["soft"], uncertain=["patient"])
    loss = module.loss(b, plan=Plan(weigh=rule))
    s, t = logits(module, b)
    u = uncertainty(s).detach()
    given = {"attention_mask": b.attention_mask, "output_hidden_states": True}
    mine = module.student.model(b.input_ids, **given).hidden_states[1][:, 0]
    theirs = module.teachers[1].encoder.model(b.input_ids, **given).hidden_states[2][:, 0]
    unit = torch.nn.functional.normalize
    apart = (unit(mine, dim=-1) - unit(theirs, dim=-1)).square().sum(-1)
    plain = 0.3 * torch.nn.functional.cross_entropy(s, b.labels)
    plain = plain + 0.7 * ((1 - u) * kl(t[1], s, 2.0)).mean() + 0.5 * (u * apart).mean()
    assert_same_gradient(module, loss, plain)
    assert float(module.decisions["weight_soft"]) == pytest.approx(float((1 - u).mean()), rel=1e-5)
    assert float(module.decisions["weight_label"]) == 1.0


def test_labels_of_rows_that_nobody_asks_about_keep_their_weight():
    module, b = lab({"label": LABEL, "soft": SOFT}, labels_on="all"), batch()
    rows = torch.tensor([1, 4])

    def halves(seen, terms):
        return torch.full((len(seen.teacher_weights), 2), 0.5)

    loss = module.loss(b, queried=rows, plan=Plan(weigh=halves))
    s, t = logits(module, b)
    each = torch.nn.functional.cross_entropy(s, b.labels, reduction="none")
    each = each * torch.tensor([1, 0.5, 1, 1, 0.5, 1])
    torch.testing.assert_close(
        loss, 0.3 * each.mean() + 0.7 * 0.5 * kl(t[1], s, 2.0)[rows].mean(), rtol=1e-5, atol=1e-6
    )


def test_a_rule_that_gives_something_else_is_refused_in_one_line():
    module, b = lab({"soft": SOFT}), batch()
    with pytest.raises(UserError, match="adoption rule gave weights of shape"):
        module.loss(b, plan=Plan(adopt=lambda student, teachers, count: student))
    with pytest.raises(UserError, match="weighing rule gave weights of shape"):
        module.loss(b, plan=Plan(weigh=lambda seen, terms: torch.ones(7)))
    regression = classifier("bert", 2, 1)
    student = Encoder(classifier("bert", 2, 1, seed=1))
    one = StudentModule(
        student, {"soft": SOFT}, OptimizerSettings(lr=1e-3), 10, [Teacher("t", Encoder(regression))] * 2
    )
    with pytest.raises(UserError, match="never uncertain"):
        one.loss(batch(regression=True), plan=Plan(adopt=adoption.hard))


def test_what_a_weighing_rule_sees_are_the_rows_first_states_and_zeros_where_nobody_was_asked():
    module, b = lab({"soft": SOFT}), batch()
    met = {}

    @needs("features", "uncertainty")
    def look(seen, terms):
        met.update(vars(seen))
        return torch.ones(len(terms))

    module.loss(b, plan=Plan(adopt=adoption.hard, weigh=look))
    given = {"attention_mask": b.attention_mask, "output_hidden_states": True}
    own = module.student.model(b.input_ids, **given)
    torch.testing.assert_close(met["student"], own.hidden_states[-1][:, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(met["uncertainty"], uncertainty(own.logits), rtol=1e-5, atol=1e-6)
    assert not met["student"].requires_grad and met["teacher_weights"].sum(0).tolist() == [3, 3]
    for place, found in enumerate(met["teachers"]):
        theirs = module.teachers[place].encoder.model(b.input_ids, **given).hidden_states[-1][:, 0]
        heard = met["teacher_weights"][:, place] > 0
        torch.testing.assert_close(found, theirs * heard.unsqueeze(1), rtol=1e-5, atol=1e-6)


def test_weights_in_several_files_are_named_by_their_bytes(tmp_path):
    (tmp_path / "model-1.safetensors").write_bytes(b"one")
    (tmp_path / "model-2.safetensors").write_bytes(b"two")
    before = weights_of(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert weights_of(tmp_path) == before
    (tmp_path / "model-2.safetensors").write_bytes(b"owt")
    assert weights_of(tmp_path) != before and len(before) == 16
