"""DFA and CFL: the terms of several teachers at once, against NumPy."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from kdlab.errors import UserError
from kdlab.methods.knowledge import joint, logits
from kdlab.types import Outputs
from tests.support.student_views import LENGTH, MASK, ROWS, assert_agrees, shown, unit

STUDENT, TEACHERS = 4, (6, 3)  # widths
KINDS = {
    "dfa": joint.FeatureAlignment,
    "cfl": functools.partial(joint.CommonFeatures, width=5, reconstruction=0.5),
}


def joined(own: list[float], theirs: list[tuple[list[float], list[int] | None]], temperature: float) -> float:
    """`joined_soft_loss` of one unit."""
    teachers = [Outputs(logits=torch.tensor([values]), classes=classes) for values, classes in theirs]
    return float(joint.joined_soft_loss(Outputs(logits=torch.tensor([own])), teachers, temperature))


def test_joined_logits_are_one_distribution_over_all_classes():
    """By hand: logits ln 1, ln 2 of classes 0, 2 and ln 3, ln 4 of 1, 3 are 0.1, 0.3, 0.2, 0.4 over all four."""
    first, second = np.log([1.0, 2.0]).tolist(), np.log([3.0, 4.0]).tolist()
    own = [0.0, 0.0, 0.0, 0.0]
    p = np.array([0.1, 0.3, 0.2, 0.4])
    found = joined(own, [(first, [0, 2]), (second, [1, 3])], 1.0)
    assert found == pytest.approx(np.sum(p * np.log(p / 0.25)), rel=1e-5)
    # tau 2: square roots of the odds, and the factor 4
    q = np.sqrt([1.0, 3.0, 2.0, 4.0]) / np.sqrt([1.0, 3.0, 2.0, 4.0]).sum()
    found = joined(own, [(first, [0, 2]), (second, [1, 3])], 2.0)
    assert found == pytest.approx(4 * np.sum(q * np.log(q / 0.25)), rel=1e-5)


def test_joined_logits_are_not_uhcs_parts():
    """A student that agrees with each teacher over its own classes has no loss by UHC, and one by joined logits."""
    own, theirs = [0.0, 1.0, 5.0, 7.0], [([0.0, 1.0], [0, 1]), ([0.0, 2.0], [2, 3])]
    uhc = sum(
        float(logits.soft_loss(Outputs(logits=torch.tensor([own])[:, classes]), Outputs(logits=torch.tensor([values]))))
        for values, classes in theirs
    )
    assert uhc == pytest.approx(0, abs=1e-6)
    t, s = np.exp([0.0, 1.0, 0.0, 2.0]), np.exp(own)
    t, s = t / t.sum(), s / s.sum()
    assert joined(own, theirs, 1.0) == pytest.approx(np.sum(t * np.log(t / s)), rel=1e-5)


def test_teachers_of_all_classes_are_joined_by_their_mean_and_regression_too():
    found = joined([0.0, 0.0], [([1.0, 3.0], None), ([3.0, 1.0], None)], 1.0)
    assert found == pytest.approx(0, abs=1e-6)  # the mean is 2, 2
    assert joined([1.0], [([2.0], None), ([6.0], None)], 5.0) == pytest.approx((4 - 1) ** 2)


def made(name: str, seed: int = 0) -> torch.nn.Module:
    term = KINDS[name]()
    term.build(STUDENT, TEACHERS, seed)
    return term


def models() -> tuple[Outputs, list[Outputs]]:
    return shown(2, width=STUDENT), [shown(4, width=width) for width in TEACHERS]


def feature(outputs: Outputs, row: int) -> np.ndarray:
    assert outputs.hidden is not None
    return outputs.hidden[row, 0].numpy().astype(np.float64)


def through(projection: torch.nn.Module, vector: np.ndarray) -> np.ndarray:
    found = {name: p.detach().numpy().astype(np.float64) for name, p in projection.named_parameters()}
    return found["weight"] @ vector + found.get("bias", 0)


def test_feature_alignment_is_the_mean_over_teachers_of_squared_errors_of_projected_features():
    term, (student, teachers) = made("dfa"), models()
    wanted = [
        np.mean([
            np.mean((through(p, feature(student, i)) - feature(t, i)) ** 2)
            for p, t in zip(term.projections, teachers, strict=True)
        ])
        for i in range(ROWS)
    ]  # fmt: skip
    assert_agrees(term(student, teachers), wanted)


def test_common_features_are_matched_as_unit_vectors_and_read_back():
    term, (student, teachers) = made("cfl"), models()
    wanted = []
    for i in range(ROWS):
        each = []
        for into, back, teacher in zip(term.theirs, term.back, teachers, strict=True):
            common = through(into, feature(teacher, i))
            apart = np.sum((unit(through(term.own[0], feature(student, i))) - unit(common)) ** 2)
            each.append(apart + 0.5 * np.mean((through(back, common) - feature(teacher, i)) ** 2))
        wanted.append(np.mean(each))
    assert_agrees(term(student, teachers), wanted)


@pytest.mark.parametrize("name", KINDS)
def test_projections_have_the_widths_and_hang_on_the_seed_alone(name):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = made(name), made(name), made(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)  # the run's own stream is untouched
    states = [term.state_dict() for term in (one, same, other)]
    assert len(states[0]) == {"dfa": 4, "cfl": 1 + 2 + 4}[name]
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]) and not torch.equal(value, states[2][key])
        inputs = states[0][key.removesuffix("bias") + "weight" if key.endswith("bias") else key].shape[1]
        assert 0 < value.abs().max() <= inputs**-0.5 and value.dtype == torch.float32


@pytest.mark.parametrize("name", KINDS)
def test_gradient_reaches_the_students_first_token_and_every_projection_and_no_teacher(name):
    term, (student, teachers) = made(name), models()
    for outputs in (student, *teachers):
        outputs.hidden.requires_grad_()
    term(student, teachers).sum().backward()
    grad = student.hidden.grad
    assert (grad[:, 0].abs().amax(-1) > 0).all() and float(grad[:, 1:].abs().sum()) == 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in term.parameters())
    assert all(teacher.hidden.grad is None for teacher in teachers)


@pytest.mark.parametrize("name", KINDS)
def test_padding_changes_nothing_and_rows_do_not_hang_on_each_other(name):
    term, (student, teachers) = made(name), models()
    every = term(student, teachers)
    assert every.shape == (ROWS,)
    for index in ([2, 0, 1], [1], []):
        some = torch.tensor(index, dtype=torch.long)
        found = term(student.take(some, LENGTH), [t.take(some, LENGTH) for t in teachers])
        assert found.shape == (len(index),)
        torch.testing.assert_close(found, every[some], rtol=1e-6, atol=1e-7)
    for outputs in (student, *teachers):
        outputs.hidden[torch.tensor(MASK) == 0] = 777.0
    assert torch.equal(term(student, teachers), every)


@pytest.mark.parametrize("name", KINDS)
def test_teachers_may_come_in_any_order_with_their_projections(name):
    term, (student, teachers) = made(name), models()
    found = term(student, teachers)
    for part in ("projections", "theirs", "back"):
        if hasattr(term, part):
            setattr(term, part, torch.nn.ModuleList(reversed(list(getattr(term, part)))))
    torch.testing.assert_close(term(student, teachers[::-1]), found)


@pytest.mark.parametrize("name", KINDS)
def test_half_precision_is_computed_in_float32(name):
    term, (student, teachers) = made(name), models()
    for outputs in (student, *teachers):
        outputs.hidden = outputs.hidden.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = term(student, teachers)
    for outputs in (student, *teachers):
        outputs.hidden = outputs.hidden.float()
    assert low.dtype == torch.float32
    assert torch.equal(low, term(student, teachers))


def test_a_student_that_holds_its_teachers_features_has_nothing_to_learn():
    teachers = [shown(4, width=width) for width in TEACHERS]
    student = Outputs(hidden=torch.cat([teacher.hidden for teacher in teachers], -1))
    term = joint.FeatureAlignment()
    term.build(sum(TEACHERS), TEACHERS, 0)
    parts = torch.eye(sum(TEACHERS)).split(TEACHERS)
    with torch.no_grad():
        for projection, part in zip(term.projections, parts, strict=True):
            projection.weight.copy_(part)
            projection.bias.zero_()
    assert term(student, teachers).tolist() == [0.0] * ROWS


def test_a_common_space_that_holds_the_features_has_nothing_to_learn():
    teacher = shown(4, width=STUDENT)
    term = joint.CommonFeatures(width=STUDENT)
    term.build(STUDENT, (STUDENT, STUDENT), 0)
    with torch.no_grad():
        for projection in (*term.own, *term.theirs, *term.back):
            projection.weight.copy_(torch.eye(STUDENT))
            if projection.bias is not None:
                projection.bias.zero_()
    np.testing.assert_allclose(term(teacher, [teacher, teacher]).detach(), np.zeros(ROWS), atol=1e-12)


def test_a_collapsed_common_space_costs_at_least_the_features_spread():
    term, (student, teachers) = made("cfl"), models()
    spread = []
    with torch.no_grad():
        for projection in (*term.own, *term.theirs, *term.back):
            projection.weight.zero_()  # everyone is mapped to one point
        for back, teacher in zip(term.back, teachers, strict=True):
            back.bias.copy_(teacher.hidden[:, 0].mean(0))  # the best that can be read back from it
            spread.append(float(teacher.hidden[:, 0].var(0, unbiased=False).mean()))
    np.testing.assert_allclose(float(term(student, teachers).detach().mean()), 0.5 * np.mean(spread), rtol=1e-5)
    assert min(spread) > 0.1


def test_shrinking_the_common_space_does_not_make_it_match():
    term, (student, teachers) = made("cfl"), models()
    before = term(student, teachers)
    with torch.no_grad():
        for projection in (*term.own, *term.theirs):
            projection.weight.mul_(1e-3)
        for projection in term.back:
            projection.weight.mul_(1e3)
    torch.testing.assert_close(term(student, teachers), before, rtol=1e-4, atol=1e-6)


def test_training_on_common_features_brings_the_student_near_and_keeps_the_teachers_apart():
    torch.manual_seed(0)
    teachers = [Outputs(hidden=torch.randn(32, 1, width)) for width in TEACHERS]
    own = torch.nn.Parameter(torch.randn(32, 1, STUDENT))
    term = joint.CommonFeatures(width=12)
    term.build(STUDENT, TEACHERS, 0)
    optimizer = torch.optim.Adam([own, *term.parameters()], lr=1e-2)
    losses = []
    for _ in range(250):
        loss = term(Outputs(hidden=own), teachers).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    back = [
        term.back[i](term.theirs[i](teacher.hidden[:, 0])).sub(teacher.hidden[:, 0]).square().mean()
        for i, teacher in enumerate(teachers)
    ]
    assert float(max(back).detach()) < 0.1  # of features of variance 1: nothing has collapsed


def test_what_would_collapse_or_hold_nothing_is_refused_in_one_line():
    for given in ({"width": 0}, {"reconstruction": 0.0}, {"reconstruction": -1.0}, {"reconstruction": float("inf")}):
        (name,) = given
        with pytest.raises(UserError, match=name) as error:
            joint.CommonFeatures(**given)
        assert "\n" not in str(error.value)
