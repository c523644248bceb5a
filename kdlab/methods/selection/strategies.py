"""Selection strategies: one score for each of N rows; rows of higher scores are kept first, always.

A strategy is a function `Evidence -> (N,) float scores`. `@needs` (`kdlab.methods.marks`) declares the fields of
`Evidence` that it reads ("logits", "features", "labels"): the caller computes and passes only these. `rowwise=True`
declares that a row's score depends on that row alone, so a batch may be scored in chunks.

In masked-LM a row's score is the mean of the token scores over its P masked positions; a row that has none gets -inf
and is kept last. Strategies on logits raise UserError for one output (regression).
Scores are float64 (float32 on Apple's GPUs, which have no float64).
Sources: AdaDS section 4.1, Eq. 4-8. `scaled_entropy`: DeKD section 3.2.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from kdlab.errors import UserError
from kdlab.methods.marks import function_of, needs
from kdlab.methods.selection.clustering import kmeans
from kdlab.methods.selection.top_k import refuse_nan
from kdlab.ranges import Count
from kdlab.types import Evidence

Strategy = Callable[[Evidence], Tensor]

SLICE = 2**20  # logits scored at a time: 4 MB of float32 stay in the cache, twice as fast as 78 MB at once
FEW = 1024  # up to this many classes are scored in float64, at no cost that matters


@needs(rowwise=True)
def random(evidence: Evidence) -> Tensor:
    """(N,) uniform draws in [0, 1) from `evidence.rng`: the k best are a uniform choice without replacement."""
    rng = evidence.rng
    return _double(torch.rand(len(evidence), generator=rng, device=rng.device).to(_device(evidence)))


@needs("logits", rowwise=True)
def entropy(evidence: Evidence) -> Tensor:
    """(N,) -sum p log p in nats, from 0 (certain) to log C; 0 log 0 = 0. AdaDS Eq. 4."""
    return _uncertainty(evidence, _entropy)


@needs("logits", rowwise=True)
def scaled_entropy(evidence: Evidence) -> Tensor:
    """(N,) entropy / log C, in [0, 1]; ranks as `entropy` does. DeKD section 3.2."""
    return entropy(evidence) / math.log(_logits(evidence).shape[-1])


@needs("logits", rowwise=True)
def margin(evidence: Evidence) -> Tensor:
    """(N,) p2 - p1, the negated margin of the two largest probabilities, from -1 (certain) to 0.

    AdaDS Eq. 5 prints p1 - p2 and "top"; the uncertain rows are those of small margin, hence the sign.
    """
    return _uncertainty(evidence, _margin)


@needs("logits", rowwise=True)
def least_confidence(evidence: Evidence) -> Tensor:
    """(N,) 1 - p1, from 0 (certain) to 1 - 1/C. AdaDS Eq. 6."""
    return _uncertainty(evidence, _least_confidence)


@needs("logits", rowwise=True)
def certainty(evidence: Evidence) -> Tensor:
    """(N,) sum p log p, the negated entropy, from -log C to 0 (certain). AdaDS Eq. 7."""
    return _uncertainty(evidence, lambda logits: -_entropy(logits))


@needs("logits", "labels", rowwise=True)
def gradient_norm(evidence: Evidence) -> Tensor:
    """(N,) ||p - onehot(label)||, the norm of the cross-entropy's gradient in the logits, from 0 to sqrt(2); a row
    without a label gets -inf. EL2N (Paul et al. 2021, arXiv 2107.07075)."""
    if evidence.labels is None:
        raise ValueError("gradient_norm needs labels, found none in the evidence")
    return _uncertainty(evidence, _gradient_norm, evidence.labels)


@needs("features")
def density(evidence: Evidence) -> Tensor:
    """(N,) mean cosine similarity to the other N - 1 rows, in [-1, 1]; 0 for a zero vector or a row alone. AdaDS Eq. 8.

    O(N H): the product with the sum of the unit vectors is the sum of a row's similarities.
    """
    features = _features(evidence)
    norm = features.norm(dim=1)
    real = norm > 0
    scale = torch.where(real, norm, 1.0).reciprocal() * real
    similar = (features @ (scale @ features)) * scale
    return _double(similar - real.to(similar.dtype)) / max(len(features) - 1, 1)


@needs("features")
def cluster(evidence: Evidence, clusters: Count | None = None) -> Tensor:
    """(N,) closeness to the row's k-means++ centre, with the nearest row of each non-empty cluster before all others.

    The score is 1 / (1 + Euclidean distance), in (0, 1], plus 1 for the nearest row of each cluster. `clusters`:
    `evidence.keep` by default, else a tenth of the rows, rounded up. Deterministic for `evidence.rng`. AdaDS
    section 4.1.
    """
    features = _features(evidence)
    rows = len(features)
    if clusters is None:
        clusters = evidence.keep if evidence.keep is not None else -(-rows // 10)
    rng = evidence.rng
    seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
    centres, assignment, distance = kmeans(features, clusters, seed)
    # two rows alone are equally far from their mean: their order decides, not the last bit of a distance
    size = torch.bincount(assignment, minlength=len(centres))[assignment]
    total = distance.new_zeros(len(centres)).index_add(0, assignment, distance)[assignment]
    distance = torch.where(size == 2, total / 2, distance)
    order = distance.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(rows, device=order.device)
    first = torch.full((len(centres),), rows, device=order.device).scatter_reduce_(0, assignment, rank, "amin")
    scores = 1 / (1 + _double(distance))
    scores[order[first[first < rows]]] += 1
    return scores


class Ensemble:
    """Mean of the members' normalised ranks (AdaDS Table 5): 0 for the row a member keeps last, 1 for its first.

    Equal scores share their mean rank. `members` maps names to strategies (for a sequence, the functions' names). The
    caller may score members in chunks and `combine` the whole columns; ranks depend on all rows, so the ensemble itself
    is not rowwise. UserError for no member, or two of one name.
    """

    def __init__(self, strategies: Mapping[str, Strategy] | Sequence[Strategy]):
        if not isinstance(strategies, Mapping):
            names = [_name(strategy) for strategy in strategies]
            repeated = [name for name, count in Counter(names).items() if count > 1]
            if repeated:
                raise UserError(
                    f"two ensemble members are called {repeated[0]}: give a mapping from names to strategies"
                )
            strategies = dict(zip(names, strategies, strict=True))
        if not strategies:
            raise UserError("an ensemble needs at least one strategy, found none")
        self.members = dict(strategies)

    def __call__(self, evidence: Evidence) -> Tensor:
        return self.combine(torch.stack([_double(member(evidence)) for member in self.members.values()]))

    def combine(self, scores: Tensor) -> Tensor:
        """Mean (N,) of the normalised ranks of the members' scores (S, N). ValueError for NaN."""
        refuse_nan(scores)
        ordered = scores.sort(dim=1).values
        below = torch.searchsorted(ordered, scores.contiguous(), right=False)
        up_to = torch.searchsorted(ordered, scores.contiguous(), right=True)
        ranks = _double(below + up_to - 1) / 2  # mean rank of equal scores, counted from 0
        return (ranks / max(scores.shape[1] - 1, 1)).mean(dim=0)


def _entropy(logits: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    log_p.clamp_(min=torch.finfo(log_p.dtype).min)  # so that 0 * -inf is 0
    return -p.mul_(log_p).sum(-1)


def _margin(logits: Tensor) -> Tensor:
    first, second = (logits.topk(2).values - logits.logsumexp(-1, keepdim=True)).exp().unbind(-1)
    return second - first


def _least_confidence(logits: Tensor) -> Tensor:
    return -torch.expm1(logits.amax(-1) - logits.logsumexp(-1))


def _gradient_norm(logits: Tensor, labels: Tensor) -> Tensor:
    log_p, column = logits.log_softmax(-1), labels.clamp(min=0).unsqueeze(-1)
    difference = log_p.exp().scatter(-1, column, log_p.gather(-1, column).expm1())  # p_y - 1, exact where p_y is near 1
    return torch.where(labels >= 0, difference.norm(dim=-1), -torch.inf)


def _uncertainty(evidence: Evidence, token: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Row scores (N,) from `token`, which maps logits (U, C), and `inputs` (U,), to scores (U,): see the module's
    docstring."""
    logits = _logits(evidence)
    classes = logits.shape[-1]
    # With few classes in float64, or rows so certain that p1 rounds to 1 would tie under margin but not under entropy.
    cast = _double if classes <= FEW else torch.Tensor.float
    units, more = logits.flatten(0, -2), [values.flatten() for values in inputs]
    mask = evidence.mask if logits.ndim == 3 else None
    if mask is not None and mask.shape != logits.shape[:2]:
        raise ValueError(f"mask {tuple(mask.shape)} does not fit logits {tuple(logits.shape)}")
    size = max(1, SLICE // classes)
    if mask is None:
        parts = zip(units.split(size), *(values.split(size) for values in more), strict=True)
        scores = torch.cat([_double(token(cast(part), *rest)) for part, *rest in parts]).view(logits.shape[:-1])
        return scores if logits.ndim == 2 else _mean(scores, logits.shape[1])
    mask = mask.bool()
    scores = _double(torch.zeros(logits.shape[:2], device=logits.device))
    for index in mask.flatten().nonzero().squeeze(1).split(size):
        scores.view(-1)[index] = _double(token(cast(units[index]), *(values[index] for values in more)))
    return _mean(scores, mask.sum(1))


def _mean(scores: Tensor, count: Tensor | int) -> Tensor:
    """Sums of (N, P) over P, divided by `count`; -inf where that is 0."""
    total = scores.sum(1)
    count = torch.as_tensor(count, device=scores.device).expand_as(total)
    return torch.where(count > 0, total / count.clamp(min=1), -torch.inf)


def _logits(evidence: Evidence) -> Tensor:
    if evidence.logits is None:
        raise ValueError("this strategy needs the student's logits, found none in the evidence")
    if evidence.logits.ndim not in (2, 3):
        raise ValueError(f"logits must be (N, C) or (N, P, C), found shape {tuple(evidence.logits.shape)}")
    classes = evidence.logits.shape[-1]
    if classes < 2:
        raise UserError(
            f"uncertainty needs two classes or more, found {classes} output (a regression task): "
            "take random, cluster or density"
        )
    return evidence.logits


def _features(evidence: Evidence) -> Tensor:
    if evidence.features is None:
        raise ValueError("this strategy needs the student's features, found none in the evidence")
    return evidence.features.float()


def _double(values: Tensor) -> Tensor:
    return values.float() if values.device.type == "mps" else values.double()


def _device(evidence: Evidence) -> torch.device:
    values = (evidence.rows, evidence.logits, evidence.features, evidence.labels, evidence.mask)
    return next(value.device for value in values if value is not None)


def _name(strategy: Strategy) -> str:
    strategy = function_of(strategy)
    return getattr(strategy, "__name__", type(strategy).__name__.lower())
