"""KSM: each equation by hand numbers, what learns when, keeping and resuming, and a problem whose answer is known."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from kdlab.errors import UserError
from kdlab.methods.ksm.actor_critic import (
    estimated_rewards,
    hard_action,
    hard_bonus,
    phase_error,
    soft_bonus,
    step_error,
)
from kdlab.methods.ksm.module import KSM
from kdlab.methods.marks import marks_of
from kdlab.runtime.seeding import generator
from kdlab.types import WeighingContext

TERMS = ["labels", "soft", "patient"]


def make(**more):
    settings = {"terms": TERMS, "student_width": 6, "teacher_widths": [4, 5], "hidden": 12, "features": 3, **more}
    return KSM(**settings)


def situation(step, rows=5, widths=(4, 5), student=6):
    rng = generator("situation", step)
    return WeighingContext(
        student=torch.randn(rows, student, generator=rng),
        teachers=tuple(torch.randn(rows, width, generator=rng) for width in widths),
        teacher_weights=torch.rand(rows, len(widths), generator=rng),
        rng=rng,
    )


def train(ksm, start=0, phases=3, k=4, last=True):
    """Some phases of an episode, a learner's answers and its updates."""
    ksm.learning = True
    weights, updates = [], []
    for phase in range(start, start + phases):
        weights += [ksm(situation(step), TERMS) for step in range(k * phase, k * phase + k)]
        updates += ksm.learn(math.sin(phase), last=last and phase == start + phases - 1)
    return torch.stack(weights), updates


def parameters(ksm):
    return {name: value.clone() for name, value in ksm.networks.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def mlp(network, x):
    """A chain of linear layers with ReLU between, in numpy."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    for number, layer in enumerate(layers):
        x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        x = np.maximum(x, 0) if number < len(layers) - 1 else x
    return x


# ---- equations


@pytest.mark.parametrize(
    ("soft", "threshold", "hard"),
    [
        ([0.1, 0.3, 0.9], 0.3, [0, 1, 1]),  # at the threshold counts
        ([0.1, 0.2, 0.05], 0.3, [0, 1, 0]),  # none: the largest
        ([0.0, 0.0, 0.0], 0.3, [1, 0, 0]),  # none, all equal: one
        ([0.0, 0.2, 0.9], 0.0, [1, 1, 1]),
    ],
)
def test_hard_action(soft, threshold, hard):
    assert hard_action(torch.tensor(soft), threshold).tolist() == hard


def test_equation_11_divides_by_gamma_to_the_step_of_the_phase():
    values, following = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 3.0, 5.0])
    # -1 / 1, -1 / 0.5, -2 / 0.25
    assert estimated_rewards(values, following, 0.5).tolist() == [-1, -2, -8]


def test_equation_10_on_three_steps():
    values, following = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 3.0, 5.0])
    assert float(phase_error(4.0, values, following, 0.5)) == 15**2  # 4 - (-11)


def test_equation_10_learns_on_both_sides_and_equation_9_on_one():
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    following = torch.tensor([2.0, 5.0], requires_grad=True)
    phase_error(1.0, values, following, 0.5).backward()  # error 1 - (-1 - 6) = 8; d/dv_t = -2 * 8 / gamma^t
    assert values.grad.tolist() == [-16, -32] and following.grad.tolist() == [16, 32]
    values.grad = following.grad = None
    step_error(torch.zeros(2), values, following, 0.5).backward()
    assert values.grad.tolist() == [-1, -3]  # 2 (v - target) / 2
    assert following.grad is None


def test_equations_8_and_9():
    rewards, values, following = torch.tensor([4.0, 4.0]), torch.tensor([1.0, 2.0]), torch.tensor([0.5, 1.0])
    # targets 4 + 0.5 and 0.5 * 4 + 1; errors 3.5^2 and 1
    assert float(step_error(rewards, values, following, 0.5)) == pytest.approx((3.5**2 + 1) / 2)


def test_equation_12():
    previous = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    expected = 0.2 * (1 - (1 + 0 + 1 / math.sqrt(2)) / 3)
    assert float(soft_bonus(torch.tensor([0.5, 0.0]), previous, 0.2)) == pytest.approx(expected)


def test_equation_13():
    previous = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    bonus = [float(hard_bonus(torch.tensor(a), previous, 0.2)) for a in ([1.0, 0.0], [1.0, 1.0], [0.0, 0.0])]
    assert bonus == pytest.approx([0.1, 0.15, 0.2])


# ---- acting


def test_equations_2_and_3_with_the_mean_over_rows():
    ksm, seen = make(), situation(1)
    nets = ksm.networks
    heed = seen.teacher_weights.numpy() / seen.teacher_weights.numpy().sum(1, keepdims=True)
    each = [mlp(net, states.numpy()) for net, states in zip(nets["teachers"], seen.teachers, strict=True)]
    teacher = heed[:, :1] * each[0] + heed[:, 1:] * each[1]
    state = np.concatenate([mlp(nets["student"], seen.student.numpy()).mean(0), teacher.mean(0)])
    expected = 1 / (1 + np.exp(-mlp(nets["actor"], state)))
    weights = ksm(seen, TERMS)
    assert weights.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert weights.shape == (3,) and weights.dtype == torch.float32 and not weights.requires_grad
    assert len([layer for layer in nets["student"] if isinstance(layer, nn.Linear)]) == 2
    assert [len([x for x in nets[name] if isinstance(x, nn.Linear)]) for name in ("actor", "critic")] == [3, 3]


def test_rows_side_by_side_padded_with_zeros():
    ksm, seen = make(rows=7, teacher_widths=[4]), situation(1, widths=(4,))
    student, teacher = (mlp(net, x.numpy()) for net, x in ((ksm.networks["student"], seen.student), (ksm.networks["teachers"][0], seen.teachers[0])))  # fmt: skip
    nothing = np.zeros((2, 3))
    state = np.concatenate([student, nothing, teacher, nothing]).reshape(-1)
    expected = 1 / (1 + np.exp(-mlp(ksm.networks["actor"], state)))
    assert ksm(seen, TERMS).tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    with pytest.raises(UserError, match="holds 7 rows, the batch has 8"):
        ksm(situation(1, rows=8, widths=(4,)), TERMS)


def test_rows_that_heed_no_teacher():
    ksm, seen = make(), situation(1)
    seen.teacher_weights = torch.zeros(5, 2)
    state = np.concatenate([mlp(ksm.networks["student"], seen.student.numpy()).mean(0), np.zeros(3)])
    expected = 1 / (1 + np.exp(-mlp(ksm.networks["actor"], state)))
    assert ksm(seen, TERMS).tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_hard_actions_are_the_soft_ones_at_the_threshold():
    soft, hard = make(), make(action="hard", threshold=0.5)
    for step in range(20):
        assert torch.equal(hard(situation(step), TERMS), hard_action(soft(situation(step), TERMS), 0.5))


def test_it_is_marked_and_leaves_global_random_state_alone():
    before = torch.get_rng_state()
    ksm = make()
    train(ksm)
    assert torch.equal(before, torch.get_rng_state())
    assert marks_of(ksm).needs == {"features"}
    assert same(parameters(ksm), parameters(ksm))
    assert same(parameters(make()), parameters(make())) and not same(parameters(make()), parameters(make(seed=1)))


def test_frozen_it_never_changes():
    ksm = make()
    before, state = parameters(ksm), ksm.state_dict()
    first = [ksm(situation(step), TERMS) for step in range(5)]
    again = [ksm(situation(step), TERMS) for step in range(5)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert same(parameters(ksm), before)
    assert ksm.state_dict()["_steps"] == state["_steps"] == []
    with pytest.raises(ValueError, match="no steps"):
        ksm.learn(1.0)


# ---- learning


def constant(ksm, values):
    """Make the critic a stub: Q = the sum of the action's numbers, or nothing else."""

    class Stub(nn.Module):
        def forward(self, x):
            return values * x[:, -len(TERMS) :].sum(1, keepdim=True)

    ksm.networks["critic"] = Stub()


@pytest.mark.parametrize("last", [True, False])
def test_what_is_reported_of_a_phase(last):
    """With Q = the sum of the action: Eq. 10 by numpy; the successor counts with the actor's own answer."""
    ksm = make(gamma=0.5, noise=0.2, normalise=False)
    constant(ksm, 1.0)
    frozen = make(gamma=0.5)
    own = np.array([float(frozen(situation(step), TERMS).sum()) for step in range(4)])
    ksm.learning = True
    taken = np.array([float(ksm(situation(step), TERMS).sum()) for step in range(3)])
    assert (abs(taken - own[:3]) > 0.01).all()
    updates = ksm.learn(2.0, last=last)
    if not last:
        assert updates == []  # waits for its successor
        ksm(situation(3), TERMS)
        updates = ksm.learn(0.0)
    following = np.array([own[1], own[2], 0.0 if last else own[3]])
    expected = (2.0 - ((taken - following) / 0.5 ** np.arange(3)).sum()) ** 2
    (update,) = updates
    assert update["phase_error"] == pytest.approx(expected, rel=1e-4)
    assert update["objective"] == pytest.approx(own[:3].mean(), rel=1e-5)
    assert (update["phase"], update["reward"]) == (1, 2.0) and "exploration_error" not in update


@pytest.mark.parametrize("action", ["soft", "hard"])
def test_exploration_counts_from_the_second_phase(action):
    ksm = make(action=action, threshold=0.5, gamma=0.5, alpha=0.2)
    constant(ksm, 0.0)
    weights, (first, second) = train(ksm, phases=2)
    bonus = {"soft": soft_bonus, "hard": hard_bonus}[action]
    expected = [float(bonus(weights[4 + t], weights[:4], 0.2)) * 0.5**t for t in range(4)]
    assert second["exploration_error"] == pytest.approx(np.square(expected).mean())
    assert "exploration_error" not in first
    ksm.begin_episode()
    (again,) = train(ksm, phases=1)[1]
    assert "exploration_error" not in again and again["phase"] == 3


def moved(ksm, **rates):
    before = parameters(ksm)
    train(ksm, phases=2)
    after = parameters(ksm)
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_who_learns_with_whom():
    tiny = 1e-30
    assert moved(make(lr_critic=tiny)) == {"actor", "student"}
    assert moved(make(lr_actor=tiny)) == {"critic", "teachers"}
    assert moved(make()) == {"actor", "student", "critic", "teachers"}


def test_the_students_features_learn_through_the_action_alone():
    """With an actor whose last layer is zero, no gradient comes back to the features, though Q depends on the state."""
    ksm = make(restraint=0.0)
    before = parameters(ksm)
    with torch.no_grad():
        for parameter in ksm.networks["actor"][-1].parameters():
            parameter.zero_()
    train(ksm, phases=1)
    after = parameters(ksm)
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("student"))
    assert not torch.equal(before["critic.0.weight"], after["critic.0.weight"])


def test_it_learns_where_gradients_are_off():
    first, second = make(), make()
    train(first)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        train(second)
    assert same(parameters(first), parameters(second))


def test_rewards_are_normalised_by_those_so_far():
    rewards = np.array([math.sin(phase) for phase in range(4)])
    updates = train(make(), phases=4)[1]
    expected = [0.0] + [(rewards[n] - rewards[: n + 1].mean()) / rewards[: n + 1].std() for n in range(1, 4)]
    assert [update["reward"] for update in updates] == pytest.approx(expected)
    assert [update["reward"] for update in train(make(normalise=False), phases=4)[1]] == pytest.approx(rewards)


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_not_taken(reward):
    ksm, other = make(), make()
    for one in (ksm, other):
        one.learning = True
        one(situation(0), TERMS)
    with pytest.raises(ValueError, match="finite"):
        ksm.learn(reward)
    assert ksm.learn(1.0, last=True) == other.learn(1.0, last=True)
    assert same(parameters(ksm), parameters(other))


def test_an_episode_begins_with_an_empty_record_and_the_same_networks():
    ksm = make()
    train(ksm, last=False)
    before = parameters(ksm)
    ksm.begin_episode()
    assert same(parameters(ksm), before)
    state = ksm.state_dict()
    assert state["_steps"] == state["_due"] == [] and state["_previous"] is None


# ---- a problem whose right weights are known


def play(ksm, phases, k=4, episode=100):
    """Two contexts at random; a phase earns the right knowledge's weight less the wrong one's."""
    centre = torch.tensor([[1.0, 1, 1, -1, -1, -1], [-1.0, -1, -1, 1, 1, 1]])

    def see(context, *key):
        rng = generator("seen", *key)
        states = centre[context] + 0.3 * torch.randn(4, 6, generator=rng)
        return WeighingContext(student=states, teachers=(states.flip(1),), teacher_weights=torch.ones(4, 1), rng=rng)

    ksm.learning = True
    for phase in range(phases):
        if phase % episode == 0:
            ksm.begin_episode()
        contexts = torch.randint(2, (k,), generator=generator("contexts", phase)).tolist()
        weights = [ksm(see(context, phase, step), TERMS[:2]) for step, context in enumerate(contexts)]
        earned = sum(float(w[c] - w[1 - c]) for w, c in zip(weights, contexts, strict=True))
        ksm.learn(0.1 + 0.01 * earned, last=(phase + 1) % episode == 0)
    ksm.learning = False
    return [torch.stack([ksm(see(context, "after", n), TERMS[:2]) for n in range(20)]).mean(0) for context in (0, 1)]


def test_the_actor_critic_solves_a_problem_whose_right_weights_are_known():
    first, second = play(KSM(TERMS[:2], 6, [6]), phases=300)
    assert first[0] > 0.8 and first[1] < 0.3
    assert second[1] > 0.8 and second[0] < 0.3


# ---- keeping


def reloaded(state):
    """The state as a checkpoint gives it back."""
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


@pytest.mark.parametrize("at", [2, 4, 5, 9])  # in an episode's first phase, between reward and successor, after
@pytest.mark.parametrize("settings", [{}, {"action": "hard", "threshold": 0.5, "rows": 6}])
def test_a_resumed_run_goes_on_bit_for_bit(at, settings):
    def steps(ksm, start, end):
        found = []
        for step in range(start, end):
            found.append(ksm(situation(step), TERMS).tolist())
            if step % 4 == 3:
                found.append(ksm.learn(math.sin(step), last=step == 15))
        return found

    whole, first, second = make(**settings), make(**settings), make(**settings)
    whole.learning = first.learning = True
    expected = steps(whole, 0, 16)
    before = steps(first, 0, at)
    state = first.state_dict()
    kept = reloaded(state)
    steps(first, at, 16)  # changes nothing of the state that was taken
    second.load_state_dict(kept)
    assert before + steps(second, at, 16) == expected
    assert same(parameters(second), parameters(whole))
    third = make(**settings)
    third.load_state_dict(state)
    assert before + steps(third, at, 16) == expected


def test_state_of_another_ksm_is_refused():
    with pytest.raises(UserError, match="hidden 12, the configured one has 13"):
        make(hidden=13).load_state_dict(reloaded(make().state_dict()))


def test_saved_and_loaded(tmp_path):
    ksm = make(action="hard", threshold=0.5)
    train(ksm)
    ksm.learning = False
    ksm.save(tmp_path / "new" / "ksm")
    loaded = KSM.load(tmp_path / "new" / "ksm")
    assert same(parameters(loaded), parameters(ksm))
    assert loaded.settings == ksm.settings and not loaded.learning
    assert all(torch.equal(loaded(situation(n), TERMS), ksm(situation(n), TERMS)) for n in range(10))
    assert sorted(file.name for file in (tmp_path / "new" / "ksm").iterdir()) == ["ksm.json", "ksm.safetensors"]


def cut(folder):
    file = folder / "ksm.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def not_finite(folder):
    ksm = KSM.load(folder)
    with torch.no_grad():
        ksm.networks["actor"][0].weight[0, 0] = math.nan
    ksm.save(folder)


def other_width(folder):
    found = json.loads((folder / "ksm.json").read_text())
    (folder / "ksm.json").write_text(json.dumps({**found, "student_width": 7}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "ksm.json").unlink(), "ksm.json is missing"),
        (lambda folder: (folder / "ksm.safetensors").unlink(), "ksm.safetensors is missing"),
        (lambda folder: (folder / "ksm.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "ksm.json").write_text("[]"), "damaged"),
        (lambda folder: (folder / "ksm.json").write_bytes(b"\xff"), "damaged"),
        (lambda folder: (folder / "ksm.json").write_text('{"unknown": 1}'), "damaged"),
        (lambda folder: (folder / "ksm.safetensors").write_bytes(b""), "damaged"),
        (cut, "damaged"),
        (other_width, "damaged"),
        (not_finite, "not finite"),
    ],
)
def test_a_folder_without_a_whole_ksm(tmp_path, damage, message):
    make().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        KSM.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_it_is_made_for_terms_and_widths():
    ksm = make()
    ksm.check(TERMS, 6, [4, 5])
    for terms, student, teachers, message in [
        (TERMS[::-1], 6, [4, 5], "weighs labels, soft, patient, the knowledge is patient"),
        (TERMS, 7, [4, 5], "student 6 wide"),
        (TERMS, 6, [4], r"teachers \[4, 5\], these are 6 and \[4\]"),
    ]:
        with pytest.raises(UserError, match=message):
            ksm.check(terms, student, teachers)
    with pytest.raises(UserError, match="the knowledge is labels"):
        ksm(situation(0), ["labels"])
    with pytest.raises(UserError, match=r"\[CLS\]"):
        ksm(WeighingContext(), TERMS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"terms": []}, "one knowledge term or more"),
        ({"terms": ["a", "a"]}, "all different"),
        ({"terms": "soft"}, "list"),
        ({"teacher_widths": []}, "no teacher"),
        ({"action": "sof"}, "action=sof: did you mean soft"),
        ({"threshold": 1.5}, r"threshold=1.5: a number in \[0, 1\]"),
        ({"gamma": 0.0}, r"gamma=0.0: a number in \(0, 1\]"),
        ({"gamma": math.nan}, r"gamma=nan: a number in \(0, 1\]"),
        ({"alpha": -1.0}, "alpha=-1.0: a number, at least 0"),
        ({"noise": math.inf}, "noise=inf: a number, at least 0"),
        ({"restraint": -1.0}, "restraint=-1.0: a number, at least 0"),
        ({"lr_actor": 0.0}, "lr_actor.*above 0"),
        ({"hidden": 0}, "hidden=0: a whole number, at least 1"),
        ({"rows": 0}, "rows=0: a whole number, at least 1"),
    ],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(UserError, match=message):
        make(**wrong)
