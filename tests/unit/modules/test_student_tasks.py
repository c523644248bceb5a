"""The distiller with classifiers, against the same losses computed the plain way with transformers' own models."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import transformers

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.data.tasks.labels import align
from kdlab.errors import UserError
from kdlab.methods.knowledge import attention, hidden_states, logits
from kdlab.models import flops
from kdlab.models.encoder import Encoder
from kdlab.models.student import transformer_layers
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.stages import components
from kdlab.teachers.teacher import Teacher
from kdlab.types import IGNORE, Batch
from tests.conftest import tiny_config

FAMILIES = ["bert", "roberta", "distilbert", "electra"]
LENGTHS = [12, 12, 11, 9, 7, 5]
ROWS, CLASSES, STUDENT, TEACHER = len(LENGTHS), 4, 2, 4  # a student of two layers, a teacher of four

label = WeightedTerm(logits.label_loss, 0.3, "labelled")


def soft(temperature: float = 1.0, **more: float) -> WeightedTerm:
    return WeightedTerm(functools.partial(logits.soft_loss, temperature=temperature), 0.7, "all", **more)


PATIENT = WeightedTerm(functools.partial(hidden_states.patient, layers="skip"), 0.5, "all")
TINYBERT = {
    "embedding": WeightedTerm(hidden_states.embedding_mse, 0.9, "all"),
    "hidden": WeightedTerm(functools.partial(hidden_states.hidden_mse, layers="uniform"), 0.8, "all"),
    "attention": WeightedTerm(functools.partial(attention.attention_mse, layers="uniform"), 0.7, "all"),
}
MINILM = {
    "attention": WeightedTerm(attention.attention_relation, 0.4, "all"),
    "values": WeightedTerm(attention.value_relation, 0.6, "all"),
}
COSINE = WeightedTerm(hidden_states.cosine, 2.0, "tokens")


def classifier(family: str = "bert", layers: int = TEACHER, outputs: int = CLASSES, seed: int = 0, width: int = 32):
    """A random classifier whose rows differ clearly, without dropout."""
    config = tiny_config(family, layers)
    config.num_labels, config.initializer_range = outputs, 0.2
    for name in ("seq_classif_dropout", "classifier_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    if width != 32:
        config.hidden_size, config.intermediate_size = width, 2 * width
    torch.manual_seed(seed)
    return transformers.AutoModelForSequenceClassification.from_config(config)


def batch(regression: bool = False, hidden: tuple[int, ...] = (), lengths: list[int] = LENGTHS) -> Batch:
    rng = torch.Generator().manual_seed(3)
    ids = torch.randint(6, 100, (len(lengths), max(lengths)), generator=rng)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    ids = ids * mask
    if regression:
        labels = torch.randn(len(lengths), generator=rng)
        labels[list(hidden)] = float("nan")
    else:
        labels = torch.randint(0, CLASSES, (len(lengths),), generator=rng)
        labels[list(hidden)] = IGNORE
    every = torch.arange(len(lengths))
    return Batch(every, 0, ids, mask, labels, torch.ones(len(lengths), dtype=torch.bool))


def distiller(
    given: dict[str, WeightedTerm],
    family: str = "bert",
    outputs: int = CLASSES,
    reduce: str = "tokens",
    labels_on: str = "selected",
    width: int = 32,
) -> StudentModule:
    student = Encoder(classifier(family, STUDENT, outputs, seed=1, width=width))
    ledger = Ledger(ROWS, fixed_inputs=True)
    teacher = Teacher("teacher", Encoder(classifier(family, TEACHER, outputs)), ledger.count_queries)
    return StudentModule(
        student, given, OptimizerSettings(lr=1e-3), 10, [teacher], ledger, reduce, labels_on=labels_on
    ).eval()


def at(module: StudentModule, step: int) -> StudentModule:
    """`module` as if `step` of its steps were done."""
    module._trainer = SimpleNamespace(global_step=step)  # pyright: ignore
    return module


# ---- the textbook


class Plain:
    """Outputs of a transformers model for a batch: logits, hidden states, and attention from its own projections."""

    def __init__(self, model: transformers.PreTrainedModel, b: Batch) -> None:
        found = model(input_ids=b.input_ids, attention_mask=b.attention_mask, output_hidden_states=True)
        self.logits, self.states, self.mask = found.logits, found.hidden_states, b.attention_mask.bool()
        self.inputs = self.states  # of the layers, whatever `states` is replaced by
        self.model = model

    def _heads(self, layer: int, which: str) -> torch.Tensor:
        block = transformer_layers(self.model)[layer].attention
        inside = block.self if hasattr(block, "self") else block
        short = {"query": "q_lin", "key": "k_lin", "value": "v_lin"}[which]
        made = getattr(inside, which if hasattr(inside, which) else short)(self.inputs[layer])
        return made.unflatten(-1, (4, -1)).transpose(1, 2)  # (k, A, L, d)

    def scores(self, layer: int) -> torch.Tensor:
        q, k = self._heads(layer, "query"), self._heads(layer, "key")
        return q @ k.transpose(2, 3) / q.shape[-1] ** 0.5

    def relation(self, layer: int) -> torch.Tensor:
        v = self._heads(layer, "value")
        return v @ v.transpose(2, 3) / v.shape[-1] ** 0.5


def plainly(module: StudentModule, b: Batch, of: dict[str, WeightedTerm] | None = None) -> torch.Tensor:
    """The loss as a textbook would write it: row by row, term by term."""
    s = Plain(module.student.model, b)
    with torch.no_grad():
        t = Plain(module.teachers[-1].encoder.model, b)
    return sum(w.weight * TEXTBOOK[name](s, t, b) for name, w in (of or module.terms).items())  # pyright: ignore


def kl(t: torch.Tensor, s: torch.Tensor, tau: float = 1.0) -> torch.Tensor:
    p = (t / tau).softmax(-1)
    return tau**2 * (p * (p.log() - (s / tau).softmax(-1).log())).sum(-1)


def over_rows(value, b: Batch) -> torch.Tensor:
    """The mean over rows of `value(row, its length)`."""
    return torch.stack([value(row, int(n)) for row, n in enumerate(b.attention_mask.sum(1))]).mean()


def text_label(s: Plain, t: Plain, b: Batch) -> torch.Tensor:
    if b.labels.is_floating_point():
        known = ~b.labels.isnan()
        return ((s.logits[known, 0] - b.labels[known]) ** 2).mean()
    return F.cross_entropy(s.logits, b.labels, ignore_index=IGNORE)


def text_patient(s: Plain, t: Plain, b: Batch) -> torch.Tensor:
    def unit(x):
        return x / x.norm()

    return over_rows(lambda r, n: (unit(s.states[1][r, 0]) - unit(t.states[2][r, 0])).pow(2).sum(), b)


def text_hidden(s: Plain, t: Plain, b: Batch) -> torch.Tensor:
    return over_rows(lambda r, n: sum(F.mse_loss(s.states[m][r, :n], t.states[2 * m][r, :n]) for m in (1, 2)), b)


def text_attention(s: Plain, t: Plain, b: Batch) -> torch.Tensor:
    def value(r, n):
        return sum(F.mse_loss(s.scores(m)[r, :, :n, :n], t.scores(2 * m + 1)[r, :, :n, :n]) for m in (0, 1))

    return over_rows(value, b)


def relation(s: torch.Tensor, t: torch.Tensor, b: Batch) -> torch.Tensor:
    return over_rows(lambda r, n: kl(t[r, :, :n, :n], s[r, :, :n, :n]).mean(), b)


TEXTBOOK = {
    "label": text_label,
    "soft": lambda s, t, b: kl(t.logits, s.logits).mean(),
    "warm": lambda s, t, b: kl(t.logits, s.logits, 3.0).mean(),
    "logits": lambda s, t, b: F.mse_loss(s.logits, t.logits),
    "patient": text_patient,
    "embedding": lambda s, t, b: over_rows(lambda r, n: F.mse_loss(s.states[0][r, :n], t.states[0][r, :n]), b),
    "hidden": text_hidden,
    "attention": text_attention,
    "at": lambda s, t, b: relation(s.scores(STUDENT - 1), t.scores(TEACHER - 1), b),
    "values": lambda s, t, b: relation(s.relation(STUDENT - 1), t.relation(TEACHER - 1), b),
    # each real token weighs the same
    "cosine": lambda s, t, b: (1 - F.cosine_similarity(s.states[-1], t.states[-1], dim=-1))[s.mask].mean(),
}
KNOWLEDGE = {
    "response": {"label": label, "soft": soft()},
    "warm response": {"label": label, "warm": soft(3.0)},
    "mse": {"label": label, "logits": WeightedTerm(logits.mean_squared_error, 0.7, "all")},
    "pkd": {"label": label, "soft": soft(), "patient": PATIENT},
    "tinybert": TINYBERT,
    "minilm": {"label": label, "soft": soft(), "at": MINILM["attention"], "values": MINILM["values"]},
    "distilbert": {"label": label, "warm": soft(3.0), "cosine": COSINE},
}


def assert_same(module: StudentModule, loss: torch.Tensor, wanted: torch.Tensor) -> None:
    """Loss and every gradient are the textbook's."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    wanted_grads = torch.autograd.grad(wanted, parameters, allow_unused=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
    assert any(g is not None and g.any() for g in wanted_grads)
    for name, g, w in zip(names, found, wanted_grads, strict=True):
        g, w = (torch.zeros(1) if x is None or not x.any() else x for x in (g, w))
        torch.testing.assert_close(g, w, rtol=2e-4, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("knowledge", KNOWLEDGE)
def test_loss_and_gradient_equal_the_textbook(family, knowledge):
    module, b = distiller(KNOWLEDGE[knowledge], family), batch()
    assert_same(module, module.loss(b), plainly(module, b))


@pytest.mark.parametrize("family", FAMILIES)
def test_regression_learns_numbers_and_the_teachers_number(family):
    module, b = distiller(KNOWLEDGE["response"], family, outputs=1), batch(regression=True)
    s, t = (
        m(input_ids=b.input_ids, attention_mask=b.attention_mask).logits[:, 0]
        for m in (module.student.model, module.teachers[-1].encoder.model)
    )
    assert_same(module, module.loss(b), 0.3 * F.mse_loss(s, b.labels) + 0.7 * F.mse_loss(s, t))


def test_what_a_row_learns_from_the_teacher_is_torchs_divergence_of_that_row():
    tau = 5.0
    module, b = distiller({"soft": WeightedTerm(soft(tau).term, 1.0, "all")}), batch()
    rows = []
    for row in range(ROWS):
        one = b.take(torch.tensor([row]))
        with torch.no_grad():
            s, t = (
                m(input_ids=one.input_ids, attention_mask=one.attention_mask).logits
                for m in (module.student.model, module.teachers[-1].encoder.model)
            )
        rows.append(tau**2 * F.kl_div(F.log_softmax(s / tau, -1), F.softmax(t / tau, -1), reduction="batchmean"))
        torch.testing.assert_close(module.loss(one).detach(), rows[-1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(module.loss(b).detach(), torch.stack(rows).mean(), rtol=1e-4, atol=1e-6)


def test_reduce_rows_is_the_mean_of_row_means():
    given = {"label": label, "soft": soft(), "cosine": COSINE}
    module, b = distiller(given, reduce="rows"), batch(hidden=(2,))
    s = Plain(module.student.model, b)
    with torch.no_grad():
        t = Plain(module.teachers[-1].encoder.model, b)
    apart = 1 - F.cosine_similarity(s.states[-1], t.states[-1], dim=-1)
    wanted = plainly(module, b, {"label": label, "soft": soft()}) + 2 * over_rows(lambda r, n: apart[r, :n].mean(), b)
    assert_same(module, module.loss(b), wanted)


# ---- hidden labels (augmented rows)


@pytest.mark.parametrize("regression", [False, True])
def test_rows_with_hidden_labels_learn_from_the_teacher_alone(regression):
    outputs = 1 if regression else CLASSES
    module = distiller(KNOWLEDGE["response"], outputs=outputs)
    b = batch(regression, hidden=(1, 4))
    known = torch.tensor([0, 2, 3, 5])
    labels = distiller({"label": WeightedTerm(logits.label_loss, 0.3)}, outputs=outputs)
    teacher = distiller({"soft": soft()}, outputs=outputs)
    wanted = labels.loss(b.take(known)) + teacher.loss(b)  # the label's mean is over four rows, the teacher's over six
    torch.testing.assert_close(module.loss(b).detach(), wanted.detach(), rtol=1e-5, atol=1e-6)
    assert module.ledger.totals()["teacher_queries"]["total"] == ROWS


@pytest.mark.parametrize("reduce", ["tokens", "rows"])
def test_a_batch_without_any_label_learns_from_the_teacher_alone(reduce):
    module, b = distiller(KNOWLEDGE["response"], reduce=reduce), batch(hidden=tuple(range(ROWS)))
    loss = module.loss(b)
    wanted = plainly(module, b, {"soft": soft()})
    assert_same(module, loss, wanted)
    assert float(module.losses["label"]) == 0


def test_rows_that_are_not_real_change_nothing():
    for knowledge in ("response", "tinybert", "distilbert"):
        module, b = distiller(KNOWLEDGE[knowledge]), batch()
        wanted = module.loss(b.take(torch.arange(4)))
        b.real[4:] = False
        torch.testing.assert_close(module.loss(b), wanted, rtol=1e-5, atol=1e-6)
        assert module.ledger.totals()["teacher_queries"]["total"] == 4 + 4


# ---- terms that train the head alone


@pytest.mark.parametrize("family", FAMILIES)
def test_a_term_may_train_the_head_without_a_gradient_into_the_layers(family):
    head = WeightedTerm(logits.label_loss, 1.5, head_only=True)
    with_head, without, b = distiller({**TINYBERT, "head": head}, family), distiller(TINYBERT, family), batch()
    with_head.loss(b).backward()
    without.loss(b).backward()
    model = with_head.student.model
    states = model.base_model(input_ids=b.input_ids, attention_mask=b.attention_mask).last_hidden_state.detach()
    own = with_head.student.head_parameters()
    plain = 1.5 * F.cross_entropy(with_head.student.project(states[:, 0]), b.labels)
    for parameter, grad in zip(own, torch.autograd.grad(plain, own), strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-6)
    names = {id(p) for p in own}
    for (name, mine), (_, theirs) in zip(
        model.named_parameters(), without.student.model.named_parameters(), strict=True
    ):
        if id(mine) not in names and theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_the_classifier_is_trained_while_tinybert_learns_intermediate_layers():
    """Entropy and AdaDS's observation read it: its logits change, beyond what the layers below do to them."""
    config = checked(composition(["+exp=adads_finetune", "knowledge=tinybert"])[0])
    module, b = distiller(components.terms(config.knowledge)), batch()
    optimizer = torch.optim.AdamW(at(module, 0).parameters(), lr=1e-3)
    classifier = module.student.model.classifier.weight
    before, losses = classifier.detach().clone(), []
    for _ in range(40):
        optimizer.zero_grad()
        module.loss(b).backward()
        optimizer.step()
        losses.append(float(module.losses["head"]))
    assert float((classifier.detach() - before).abs().max()) > 1e-3
    assert losses[-1] < 0.8 * losses[0]


def test_the_report_adds_up_to_the_loss():
    for knowledge, labels_on in (("pkd", "selected"), ("distilbert", "all")):
        module = distiller(KNOWLEDGE[knowledge], labels_on=labels_on)
        loss = module.loss(batch(), queried=torch.tensor([1, 3]) if labels_on == "all" else None)
        report = {name: float(value) for name, value in module.losses.items()}
        assert report["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)
        parts = sum(w.weight * report[name] for name, w in module.terms.items())
        assert parts == pytest.approx(float(loss.detach()), rel=1e-5)


# ---- labels_on: all


@pytest.mark.parametrize("knowledge", KNOWLEDGE)
@pytest.mark.parametrize("rows", [[0, 3, 5], [3, 4, 5]])  # the second: shorter than the batch
def test_labels_on_all_learns_labels_of_all_rows_and_the_teacher_on_the_chosen_ones(knowledge, rows):
    module, b, asked = distiller(KNOWLEDGE[knowledge], labels_on="all"), batch(hidden=(4,)), torch.tensor(rows)
    named = {k: w for k, w in module.terms.items() if k != "label"}
    wanted = plainly(module, b.take(asked), named)
    if "label" in module.terms:
        wanted = wanted + plainly(module, b, {"label": label})
    assert_same(module, module.loss(b, queried=asked), wanted)
    assert module.ledger.totals()["teacher_queries"]["total"] == len(rows)


def test_a_plan_that_keeps_every_row_equals_no_plan_under_labels_on_all():
    module, b = distiller(KNOWLEDGE["response"], labels_on="all"), batch()
    torch.testing.assert_close(module.loss(b, queried=torch.arange(ROWS)), module.loss(b))


def test_the_ledger_of_labels_on_all_is_fs_and_bs_of_all_and_ft_of_the_chosen():
    module, b = distiller(KNOWLEDGE["response"], labels_on="all"), batch(lengths=[12] * 6)
    module.loss(b, queried=torch.tensor([0, 2, 3]))
    found = module.ledger.totals()
    shapes = [flops.shape_of(m.config, CLASSES) for m in (module.student.model, module.teachers[-1].encoder.model)]
    fs, ft = (flops.forward(shape, 1, 12) for shape in shapes)
    spent, again = found["flops"], 3 * flops.classifier_head(shapes[0], 1, CLASSES)  # the chosen rows' soft loss
    assert spent["student_forward"] == 6 * fs + again and spent["student_backward"] == 2 * (6 * fs + again)
    assert spent["teacher_forward"] == 3 * ft
    # METHODS section 8: (Fs + Bs + r Ft) a row of the batch, and the head that runs for both losses
    assert spent["total"] == 6 * (fs + 2 * fs + 0.5 * ft) + 3 * again
    assert found["teacher_queries"]["per_teacher"]["teacher"]["total"] == 3


def test_an_idle_rank_asks_nothing_and_still_touches_all_parameters():
    module, b = distiller(KNOWLEDGE["response"], labels_on="all"), batch()
    loss = module.loss(b, queried=torch.zeros(0, dtype=torch.long))
    wanted = plainly(module, b, {"label": label})
    assert_same(module, loss, wanted)
    assert module.ledger.totals()["teacher_queries"]["total"] == 0


# ---- phases


def test_terms_count_from_since_to_before_until():
    given = {"hidden": WeightedTerm(hidden_states.hidden_mse, 0.8, "all", until=0.5), "soft": soft(since=0.5)}
    b = batch()
    for step in (0, 4, 5, 9):
        module = at(distiller(given), step)
        first = step < 5
        names = {"hidden": given["hidden"]} if first else {"soft": given["soft"]}
        assert_same(module, module.loss(b), plainly(module, b, names))
        assert set(module.losses) == {"loss", "hidden" if first else "soft"}


def test_a_step_without_teacher_terms_asks_no_teacher():
    given = {"label": WeightedTerm(logits.label_loss, 1.0, "labelled", until=0.5), "soft": soft(since=0.5)}
    module, b = distiller(given), batch()
    at(module, 0).loss(b)
    totals = module.ledger.totals()
    assert totals["teacher_queries"]["total"] == 0 and totals["flops"]["teacher_forward"] == 0
    at(module, 5).loss(b)
    totals = module.ledger.totals()
    assert totals["teacher_queries"]["total"] == ROWS and totals["flops"]["teacher_forward"] > 0


@pytest.mark.parametrize("total", [8, 10, 23, 100, 600, 601, 23 * 211])
def test_the_schedule_begins_anew_at_the_very_step_at_which_the_terms_change(total):
    share = 0.87
    given = {"hidden": WeightedTerm(hidden_states.hidden_mse, 1.0, "all", until=share), "soft": soft(since=share)}
    module = distiller(given)
    module.total_steps, settings = total, OptimizerSettings(lr=1.0, warmup=0.0, restarts=(share,))
    changed = next(
        step for step in range(total) if "soft" in module.distillation.active_terms(at(module, step).progress)
    )
    rates = [settings.factor(step, total) for step in range(total)]
    again = next(step for step in range(1, total) if rates[step] > rates[step - 1])
    assert changed == again


def test_a_training_too_short_for_a_phase_still_has_a_schedule():
    for share in (0.01, 0.5, 0.87, 0.99):
        optim = OptimizerSettings(lr=1.0, restarts=(share,))
        for total in range(1, 12):
            assert all(0 <= optim.factor(step, total) <= 1 for step in range(total + 1)), (share, total)


def test_every_phase_of_the_schedule_warms_up_and_decays_to_zero():
    optim = OptimizerSettings(lr=1.0, warmup=0.1, restarts=(0.6,))
    rates = [optim.factor(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 6) and rates[5] == 1.0 and rates[59] < 0.02  # 60 steps, 6 of warm-up
    assert rates[60] == pytest.approx(1 / 4) and rates[63] == 1.0 and rates[100] == 0.0  # 40 steps, 4 of warm-up


def test_every_phase_has_a_peak_of_its_own():
    """TinyBERT: 5e-5 for the intermediate layers, 2e-5 for the predictions."""
    optim = OptimizerSettings(lr=3e-5, warmup=0.1, restarts=(0.6,), phase_lrs=(5e-5, 2e-5))
    plain = OptimizerSettings(lr=1.0, warmup=0.1, restarts=(0.6,))
    for step in range(101):
        peak = 5e-5 if step < 60 else 2e-5
        assert 3e-5 * optim.factor(step, 100) == pytest.approx(peak * plain.factor(step, 100))
    assert max(3e-5 * optim.factor(step, 100) for step in range(60)) == pytest.approx(5e-5)
    assert max(3e-5 * optim.factor(step, 100) for step in range(60, 101)) == pytest.approx(2e-5)


# ---- widths that differ


def test_projections_carry_the_students_states_over():
    module, b = distiller({**TINYBERT, "patient": PATIENT, "cosine": COSINE}, width=16), batch()
    assert {name for name, _ in module.bridges["0"].named_children()} == {"states", "embeddings"}
    s, wide = Plain(module.student.model, b), module.bridges["0"]
    s.states = (wide["embeddings"](s.states[0]), *(wide["states"](state) for state in s.states[1:]))
    with torch.no_grad():
        t = Plain(module.teachers[-1].encoder.model, b)
    wanted = sum(w.weight * TEXTBOOK[name](s, t, b) for name, w in module.terms.items())
    assert_same(module, module.loss(b), wanted)


def test_projections_are_trained_and_saved_but_are_no_part_of_the_student():
    module, b = distiller({**TINYBERT, "soft": soft()}, width=16), batch()
    mine = {f"bridges.0.{which}.{name}" for which in ("states", "embeddings") for name in ("weight", "bias")}
    assert mine <= set(module.state_dict())
    assert not any("bridge" in name for name in module.student.model.state_dict())
    before = {name: p.clone() for name, p in module.bridges.named_parameters()}
    optimizer = at(module, 0).configure_optimizers()["optimizer"]
    module.loss(b).backward()
    assert all(p.grad is not None and p.grad.any() for p in module.bridges.parameters())
    optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in module.bridges.named_parameters())


def test_equal_widths_and_terms_on_logits_need_no_projection():
    assert not distiller(TINYBERT).bridges
    assert not distiller(KNOWLEDGE["response"], width=16).bridges


def test_projections_are_the_same_for_a_seed():
    one, two = (distiller(TINYBERT, width=16).bridges.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


# ---- what is shown to strategies, and the teacher's order of classes


@pytest.mark.parametrize("family", FAMILIES)
def test_evidence_is_the_models_own_logits_and_first_token(family):
    module, b = distiller({"soft": soft()}, family), batch()
    with torch.no_grad():
        whole = module.student.model(input_ids=b.input_ids, attention_mask=b.attention_mask, output_hidden_states=True)
        (part,) = module.evidence(b, module.encode(b))
    torch.testing.assert_close(part.logits, whole.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(part.features, whole.hidden_states[-1][:, 0], rtol=1e-5, atol=1e-5)
    assert torch.equal(part.labels, b.labels) and part.mask is None


def test_a_teacher_that_numbers_the_classes_otherwise_teaches_the_same():
    """The label-order trap: MNLI is entailment, neutral, contradiction in GLUE and the reverse in some checkpoints."""
    data = ("entailment", "neutral", "contradiction")
    theirs = ("contradiction", "neutral", "entailment")
    b = batch()
    b.labels = b.labels % 3
    losses = {}
    for name, permutation, order in (
        ("as the data", [0, 1, 2], None),
        ("reversed", [2, 1, 0], align(data, theirs)),
        ("reversed, taken by number", [2, 1, 0], None),
    ):
        model = classifier(outputs=3)
        with torch.no_grad():
            for p in model.classifier.parameters():
                p.copy_(p[permutation].clone())
        student = Encoder(classifier(layers=STUDENT, outputs=3, seed=1))
        teacher = Teacher("teacher", Encoder(model), order=order)
        given = {**KNOWLEDGE["response"], "logits": WeightedTerm(logits.mean_squared_error, 0.7, "all")}
        losses[name] = float(
            StudentModule(student, given, OptimizerSettings(lr=1e-3), 10, [teacher]).eval().loss(b).detach()
        )
    assert losses["reversed"] == pytest.approx(losses["as the data"], rel=1e-6)
    assert losses["reversed, taken by number"] != pytest.approx(losses["as the data"], rel=1e-2)  # the trap is real


def test_the_teacher_is_no_part_of_the_module():
    module = distiller(KNOWLEDGE["pkd"])
    assert not set(module.teachers[-1].encoder.parameters()) & set(module.parameters())
    assert len(module.state_dict()) == len(module.student.state_dict())


# ---- the published parts, as their files compose


def composed(knowledge: str, *more: str) -> dict[str, WeightedTerm]:
    from kdlab.stages.registry import stage_of

    own = ["+exp=adads_finetune", f"knowledge={knowledge}", *more]
    return stage_of(checked(composition(own)[0]), lambda line: None).inputs.terms()


@pytest.mark.parametrize("lambda_", [0.5, 0.2])
def test_response_is_one_minus_lambda_ce_plus_lambda_tau_squared_kl(lambda_):
    tau = 4.0
    more = [f"knowledge.terms.soft.weight={lambda_}", f"knowledge.terms.label.weight={1 - lambda_}",
            f"knowledge.terms.soft.term.temperature={tau}"]  # fmt: skip
    module, b = distiller(composed("response", *more)), batch()
    s, t = (
        m(input_ids=b.input_ids, attention_mask=b.attention_mask).logits
        for m in (module.student.model, module.teachers[-1].encoder.model)
    )
    wanted = (1 - lambda_) * F.cross_entropy(s, b.labels) + lambda_ * kl(t.detach(), s, tau).mean()
    assert_same(module, module.loss(b), wanted)


def test_attention_is_refused_where_the_numbers_of_heads_differ():
    config = tiny_config("bert", STUDENT)
    config.num_attention_heads, config.num_labels = 2, CLASSES
    student = Encoder(transformers.BertForSequenceClassification(config))
    teacher = Teacher("teacher", Encoder(classifier()))
    module = StudentModule(student, TINYBERT, OptimizerSettings(lr=1e-3), 10, [teacher]).eval()
    with pytest.raises(UserError, match="heads"):
        module.loss(batch())
