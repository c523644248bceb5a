"""Contextual policies: LinUCB against its algorithm, and the facts of a run that make the context."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from kdlab.errors import UserError
from kdlab.methods.marks import needs
from kdlab.methods.selection.arm_selector import ArmSelector
from kdlab.methods.selection.credit import Credit
from kdlab.methods.selection.policies import UCB, LinUCB
from kdlab.methods.selection.rewards import LossDecay
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.methods.selection.run_facts import RunFacts
from kdlab.runtime.seeding import generator
from kdlab.types import Context

ARMS = ["entropy", "margin", "density"]


def contexts(count):
    numbers = np.random.default_rng(3).random((count, 4))
    return [Context(*map(float, row)) for row in numbers]


def test_linucb_follows_algorithm_1():
    """Li et al., Algorithm 1, lines 1 to 13, with the inverse written out; rewards in deviations of the last eight."""
    policy, rewards = LinUCB(ARMS, alpha=0.7, window=8), np.random.default_rng(1).normal(size=50)
    design, target = {arm: np.eye(5) for arm in ARMS}, {arm: np.zeros(5) for arm in ARMS}
    for step, (context, reward) in enumerate(zip(contexts(50), rewards, strict=True)):
        x = np.array([1, context.progress, context.loss, context.spread, context.balance])
        inverse = {arm: np.linalg.inv(design[arm]) for arm in ARMS}
        mean = {arm: (inverse[arm] @ target[arm]) @ x for arm in ARMS}
        bound = {arm: mean[arm] + 0.7 * math.sqrt(x @ inverse[arm] @ x) for arm in ARMS}
        chosen = policy.choose(context.progress, generator(step), context)
        assert bound[chosen] == pytest.approx(max(bound.values()))
        assert policy.q == pytest.approx(mean)
        policy.learn(chosen, reward)
        last = rewards[max(0, step - 7) : step + 1]
        design[chosen] += np.outer(x, x)
        target[chosen] += ((reward - last.mean()) / last.std() if step else 0.0) * x


def test_linucb_learns_what_the_context_says():
    """One arm pays where the loss is high, the other where it is low: no policy without a context can tell."""
    policy, right = LinUCB(["early", "late"], alpha=0.5), 0
    for step, context in enumerate(contexts(300)):
        arm = policy.choose(context.progress, generator(step), context)
        right += step >= 100 and (arm == "early") == (context.loss > 0.5)
        policy.learn(arm, context.loss if arm == "early" else 1 - context.loss)
    assert right > 180


def test_state_goes_on():
    first, second = LinUCB(ARMS), LinUCB(ARMS)
    for step, context in enumerate(contexts(20)):
        first.learn(first.choose(context.progress, generator(step), context), math.sin(step))
    state = json.loads(json.dumps(first.state_dict()))
    assert state == first.state_dict()
    second.load_state_dict(state)
    for step, context in enumerate(contexts(60)):
        arm = first.choose(context.progress, generator(step), context)
        assert second.choose(context.progress, generator(step), context) == arm
        first.learn(arm, math.cos(step))
        second.learn(arm, math.cos(step))
    assert second.state_dict() == first.state_dict() != state
    with pytest.raises(UserError, match=r"entropy, cluster.*density"):
        first.load_state_dict(LinUCB(["entropy", "cluster"]).state_dict())
    with pytest.raises(UserError, match="3 features, not 5"):
        first.load_state_dict({**state, "features": [1.0, 0.0, 0.0]})


def test_spread_is_that_of_numpys_quartiles():
    for scores in (np.random.default_rng(2).gamma(2.0, size=33), np.arange(5.0), np.array([0.0, 0, 0, 0, 1])):
        facts = RunFacts()
        facts.scored(torch.tensor(scores))
        assert facts.context(0.0).spread == pytest.approx(stats.iqr(scores) / np.ptp(scores), abs=1e-6)
    facts.scored(torch.ones(4))
    assert facts.context(0.0).spread == 0  # equal scores tell no rows apart
    facts.scored(None)
    assert facts.context(0.0).spread == 0  # an arm without a forward changes nothing


def test_balance_is_the_entropy_of_the_predicted_classes():
    facts, logits = RunFacts(), torch.eye(4)[[0, 0, 0, 1, 2, 0]]
    facts.predicted(logits[:2])
    facts.predicted(logits[2:], torch.tensor([True, True, True, False]))  # a row that is not real
    facts.scored(None)
    expected = stats.entropy([3, 1, 1]) / math.log(4)
    assert facts.context(0.0).balance == pytest.approx(expected, abs=1e-6)
    facts.predicted(torch.eye(9)[torch.tensor([[0, 1], [2, 3]])], torch.tensor([[True, True], [True, False]]))
    facts.scored(None)
    assert facts.context(0.0).balance == 1  # three positions, three words: as even as three can be
    facts.predicted(torch.zeros(5, 1))  # regression has no classes
    facts.scored(None)
    assert facts.context(0.0).balance == 1


def test_loss_is_a_share_of_the_first_of_the_same_loss():
    facts = RunFacts()
    found = []
    for loss in (2.0, 1.0, 9.0):
        facts.observed(loss)
        found.append(facts.context(0.25))
    assert [one.loss for one in found] == [1.0, 0.5, 2.0] and {one.progress for one in found} == {0.25}
    facts.restart()
    facts.observed(9.0)
    assert facts.context(0.0).loss == 1.0


@needs("logits", rowwise=True)
def least(evidence):
    return -evidence.logits.amax(-1)


@needs()
def drawn(evidence):
    return torch.rand(len(evidence), generator=evidence.rng)


class Recorded(LinUCB):
    def __init__(self, arms, seen, learnt=None):
        super().__init__(arms)
        self.seen, self.learnt = seen, [] if learnt is None else learnt

    def choose(self, progress, rng, context=None):
        self.seen.append(context)
        return super().choose(progress, rng, context)

    def learn(self, arm, reward, context=None):
        self.learnt.append((arm, reward, context))
        super().learn(arm, reward, context)


def played(cut=None):
    """The contexts of eight decisions of a loop of one's own; `cut`: resumed by another selector after so many steps."""
    seen, losses = [], [1.0, 0.9, 0.7, 0.6, 0.5, 0.45, 0.4, 0.38]

    def selector():
        arms = {"least": least, "drawn": drawn}
        return RowSelector(arms, Recorded(list(arms), seen), 0.25, 8, 1, LossDecay(2), lambda: losses[step], 1)

    now = selector()
    for step in range(8):
        if step == cut:
            saved, now = json.loads(json.dumps(now.state_dict())), selector()
            now.load_state_dict(saved)
        logits = torch.randn(16, 3, generator=generator(5, step))
        now.rows(step, logits=logits)
    return seen


def test_a_loop_of_ones_own_gives_the_context_and_a_resumed_one_the_same():
    whole = played()
    assert [one.progress for one in whole] == [step / 8 for step in range(8)]
    assert whole[3].loss == pytest.approx(0.6) and len({one.spread for one in whole}) > 2
    assert all(0 <= one.balance <= 1 for one in whole)
    for cut in (1, 4, 7):
        assert played(cut) == whole


def credited(delay, cut=None):
    """Choices (arm, context) and learnt rewards (arm, reward, context) of ten decisions, and the rows of selector.csv;
    `cut`: resumed by another selector."""
    seen, learnt, rows, step = [], [], [], 0

    def selector():
        return ArmSelector(
            "policy", {"a": None, "b": None}, Recorded(["a", "b"], seen, learnt), 50, 0, LossDecay(2), lambda: 2 / (1 + step) ** 0.5,
            5, rows.append, credit=Credit(0.0, delay),
        )  # fmt: skip

    now = selector()
    for step in range(50):
        if step == cut:
            saved, now = json.loads(json.dumps(now.state_dict())), selector()
            now.load_state_dict(saved)
        now.decide(step)
    assert list(rows[0]) == now.columns()[:-1]
    return [(row["arm"], context) for row, context in zip(rows, seen, strict=True)], learnt, rows


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_reward_is_learnt_with_the_context_of_the_choice_that_it_is_credited_to(delay):
    choices, learnt, rows = credited(delay)
    first = max(2, delay + 1)  # observations before the first reward
    assert [(arm, context) for arm, _, context in learnt] == choices[first - delay - 1 : len(choices) - delay - 1]
    assert len({context.progress for _, _, context in learnt}) == len(learnt) == 10 - first
    for cut in (11, 26, 49):
        assert credited(delay, cut)[1] == learnt
    if not delay:
        assert "credited_arm" not in rows[0]
        return
    written = [(row["credited_arm"], row["credited_reward"]) for row in rows if row["credited_arm"]]
    assert written == [(arm, reward) for arm, reward, _ in learnt]


def test_what_the_policy_learns_is_written_beside_the_reward_of_the_observation():
    rows, step = [], 0
    selector = ArmSelector(
        "policy", {"a": None, "b": None}, UCB(["a", "b"]), 40, 0, LossDecay(2), lambda: 2 / (1 + step) ** 0.5, 2, rows.append,
        credit=Credit(0.9),
    )  # fmt: skip
    for step in range(40):
        selector.decide(step)
    known = [row for row in rows if row["reward"] is not None]
    assert all(row["credited_arm"] in ("a", "b") for row in known) and len(known) == 18
    assert any(row["credited_reward"] != row["reward"] for row in known)
    assert all(row["credited_reward"] is None for row in rows if row["reward"] is None)
