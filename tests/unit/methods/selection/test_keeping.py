"""kdlab.methods.selection.keeping, against values by hand and enumerations of all samples."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from kdlab.errors import UserError
from kdlab.methods.selection.keeping import Keeping, balanced, label_class, normalised_ranks, predicted_class
from kdlab.runtime.seeding import generator
from kdlab.types import Evidence

INF = math.inf
COUNT = 400  # samples of a test: the probabilities of sets by 0.1, means by a fifth of their spread


def samples(keeping: Keeping, scores: list[float], ratio: float, count: int = COUNT):
    """What `keeping` keeps of rows of these scores, `count` times."""
    rng = generator("keeping")
    return [keeping.keep(torch.tensor(scores), ratio, rng) for _ in range(count)]


def shares(found, rows: int) -> list[float]:
    """How often each row is among the kept."""
    return (torch.bincount(torch.cat([kept.rows for kept in found]), minlength=rows) / len(found)).tolist()


def enumerated(weights: list[float], k: int) -> dict[tuple[int, ...], float]:
    """The probability of each set of k rows drawn one by one without replacement, a row by its weight among those left."""
    found: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(weights)), k):
        left, probability = sum(weights), 1.0
        for row in order:
            probability *= weights[row] / left
            left -= weights[row]
        found[tuple(sorted(order))] = found.get(tuple(sorted(order)), 0.0) + probability
    return found


def near(share: float, probability: float, count: int = COUNT) -> bool:
    return abs(share - probability) <= 4.5 * math.sqrt(probability * (1 - probability) / count) + 1e-9


def test_ranks_run_from_0_to_1_and_ties_share_theirs():
    assert normalised_ranks(torch.tensor([5.0, -1.0, 2.0])).tolist() == [1.0, 0.0, 0.5]
    assert normalised_ranks(torch.tensor([3.0, 1.0, 3.0, 0.0, 3.0])).tolist() == [0.75, 0.25, 0.75, 0.0, 0.75]
    assert normalised_ranks(torch.tensor([7.0])).tolist() == [0.0]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 50.0])
def test_samples_have_the_probabilities_of_drawing_one_by_one(temperature):
    """Efraimidis and Spirakis (2006), definition WRS-N-P, by enumeration: five rows, ranks 0, 1/4, ..., 1."""
    weights = [math.exp(rank / temperature) for rank in (0.5, 0.0, 1.0, 0.25, 0.75)]
    expected = enumerated(weights, 2)
    found = [tuple(kept.rows.tolist()) for kept in samples(Keeping(temperature=temperature), [3, 1, 9, 2, 4], 0.4)]
    for rows, probability in expected.items():
        assert near(found.count(rows) / len(found), probability), rows


def test_explored_rows_are_uniform_among_the_others():
    """Half of four rows by score, the other half of the six others, rows without a score among them."""
    found = samples(Keeping(explore=0.5), [5, 1, 2, 6, -INF, 0, 3, 4], 0.5)
    assert all(len(kept.rows) == 4 and {0, 3} <= set(kept.rows.tolist()) for kept in found)
    assert all(near(share, 2 / 6) for row, share in enumerate(shares(found, 8)) if row not in (0, 3))


def test_a_share_of_few_rows_is_exact_on_average():
    """30 % of 3 rows are 0.9 rows: the third best row is kept in a tenth of the batches, or at random in the others."""
    found = samples(Keeping(explore=0.3), [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 0.3)
    share = shares(found, 10)
    assert share[:2] == [1, 1] and near(share[2], 0.1 + 0.9 / 8) and all(near(one, 0.9 / 8) for one in share[3:])


def test_classes_keep_equally_many_and_small_ones_leave_theirs():
    """Seven rows of classes 0 (four), 1 (two), 2 (one): in turns, the best of each class first."""
    scores = torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 0.0])
    classes = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    kept = {k: Keeping(balance="label").keep(scores, k / 7, generator(0), classes).rows.tolist() for k in range(1, 8)}
    assert kept == {
        1: [0], 2: [0, 5], 3: [0, 5, 6], 4: [0, 1, 5, 6], 5: [0, 1, 4, 5, 6], 6: [0, 1, 2, 4, 5, 6], 7: list(range(7)),
    }  # fmt: skip


def test_rows_without_a_class_or_a_score_come_last():
    order, keys = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([5.0, 4.0, 3.0, 2.0, -INF])
    assert balanced(order, torch.tensor([-1, 0, 0, 1, 2]), keys).tolist() == [1, 3, 2, 0, 4]


def test_the_best_of_the_last_turn_are_kept():
    """Three rows of four classes: the three best of the classes' best."""
    scores, classes = torch.tensor([1.0, 4.0, 3.0, 2.0, 5.0]), torch.tensor([0, 1, 2, 3, 1])
    assert Keeping(balance="predicted").keep(scores, 0.6, generator(0), classes).rows.tolist() == [2, 3, 4]


@pytest.mark.parametrize("explore", [0.0, 0.5, 0.3, 1.0])
def test_weights_make_the_kept_rows_stand_for_all(explore):
    """The mean of the estimates is that of all rows, in 4.5 standard errors, rows without a score among them."""
    scores = [-INF, 1.0, -INF, 4.0, 2.0, 3.0]
    found = samples(Keeping(explore=explore, temperature=0.4, importance=True), scores, 0.5)
    assert all(kept.weights is not None and len(kept.weights) == 3 for kept in found)
    for values in ([1.0, 2, 4, 8, 16, 32], [3.0, 1, 1, 0, 0, 2], [0.0, 5, 0, 0, 0, 0], [1.0, 1, 1, 1, 1, 1]):
        f = torch.tensor(values, dtype=torch.float64)
        estimates = torch.stack([(kept.weights * f[kept.rows]).sum() / len(f) for kept in found])  # pyright: ignore
        error = float(estimates.std()) / math.sqrt(len(found))
        assert abs(float(estimates.mean()) - float(f.mean())) <= 4.5 * error + 1e-12


def test_weights_by_hand():
    """One of two equal rows: with threshold g, the other's Gumbel, w = 1 / (1 - exp(-exp(-g))); all rows count once."""
    kept = Keeping(temperature=1.0, importance=True).keep(torch.zeros(2), 0.5, generator(3))
    gumbel = -torch.empty(2, dtype=torch.float64).exponential_(generator=generator(3)).log()
    assert kept.rows.tolist() == [int(gumbel.argmax())] and kept.weights is not None
    rank = 0.5  # that of two equal rows
    inclusion = 1 - math.exp(-math.exp(rank - float(gumbel.min() + rank)))
    assert kept.weights.tolist() == pytest.approx([1 / inclusion])
    every = Keeping(temperature=1.0, importance=True).keep(torch.tensor([1.0, 2.0]), 1.0, generator(0))
    assert every.rows.tolist() == [0, 1] and every.weights is not None and every.weights.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"explore": 1.5}, "explore=1.5"), ({"explore": -0.1}, "explore=-0.1"), ({"explore": float("nan")}, "explore=nan"),
        ({"temperature": 0}, "temperature=0"), ({"temperature": -1.0}, "temperature=-1.0"),
        ({"balance": "rows"}, "balance=rows"), ({"importance": True}, "temperature=null"),
        ({"importance": True, "temperature": 1.0, "balance": "label"}, "balance=label"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Keeping(**settings)


def test_the_classes_of_rows():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    assert predicted_class(Evidence(logits=logits)).tolist() == [1, 0]
    assert label_class(Evidence(labels=torch.tensor([2, -100, 0]))).tolist() == [2, -1, 0]


@pytest.mark.parametrize(
    ("given", "function"),
    [
        (Evidence(logits=torch.zeros(2, 3, 4)), predicted_class), (Evidence(logits=torch.zeros(2, 1)), predicted_class),
        (Evidence(labels=torch.zeros(2, 3).long()), label_class), (Evidence(labels=torch.zeros(2)), label_class),
        (Evidence(labels=torch.tensor([-100, -100])), label_class),
    ],
)  # fmt: skip
def test_rows_without_classes_are_refused(given, function):
    with pytest.raises(UserError, match="balance="):
        function(given)
