"""k-means++ for the cluster strategy: faiss where it is installed, plain torch where it is not.

Source: Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007 (AdaDS section 4.1).
"""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from kdlab.errors import UserError

LARGE = 1e15  # largest number whose squares are summed in float32


def kmeans(features: Tensor, clusters: int, seed: int, niter: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    """k-means of `features` (N, H) with k-means++ seeding: centres (K, H), assignment (N,) int64, distance (N,).

    K = `clusters`, or the number of distinct rows if that is smaller; a cluster may be empty. `assignment` is the
    nearest centre, `distance` the Euclidean distance to it, float32 as the centres; all on the features' device. The
    same seed gives the same result on the same back end. UserError for clusters < 1, ValueError for features
    that are not (N, H) with N >= 1 or not finite.
    """
    if clusters < 1:
        raise UserError(f"the number of clusters must be at least 1, found {clusters}")
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"features must be (N, H) with at least one row, found shape {tuple(features.shape)}")
    features = features.detach().float()
    finite = features.isfinite().all(1)
    if not finite.all():
        raise ValueError(f"features are not finite in rows {(~finite).nonzero().flatten().tolist()[:10]}")
    # Distances are |x|^2 - 2xc + |c|^2; a large common offset, usual in BERT's states, would cost digits.
    offset = features.mean(0)
    points = features - offset
    # squares of larger numbers overflow, and faiss then ends the process
    scale = (points.abs().max() / LARGE).clamp(min=1)
    points = points / scale
    if not points.isfinite().all():
        raise ValueError("features are too large for distances between rows")
    # unique(dim=0) is slow: called only if there are few distinct norms, of which there are at most as many as rows
    few = len(points.square().sum(1).unique()) <= clusters
    distinct = points.unique(dim=0) if few else points
    if clusters >= len(distinct):
        centres = distinct
    elif (faiss := _faiss()) is None:
        centres = _lloyd(points, _plus_plus(points, clusters, seed), niter)
    else:
        centres = _faiss_centres(faiss, points, clusters, seed, niter)
    assignment = _nearest(points, centres)
    return centres * scale + offset, assignment, (points - centres[assignment]).norm(dim=1) * scale


@functools.cache
def _faiss():
    """The faiss module if it has k-means++, else None with one warning a process."""
    try:
        import faiss
    except ImportError:
        warnings.warn("faiss is not installed (extra cpu or gpu): clustering with torch, which is slower", stacklevel=2)
        return None
    if not hasattr(faiss, "ClusteringInitMethod_KMEANS_PLUS_PLUS"):
        warnings.warn(f"faiss {faiss.__version__} has no k-means++: clustering with torch (slower)", stacklevel=2)
        return None
    return faiss


def _faiss_centres(faiss, features: Tensor, clusters: int, seed: int, niter: int) -> Tensor:
    points = features.cpu().contiguous().numpy()  # faiss trains on host memory and copies to the index's device
    settings = faiss.ClusteringParameters()
    settings.niter = niter
    settings.seed = seed % 2**31
    settings.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    settings.min_points_per_centroid = 1
    settings.max_points_per_centroid = len(points)  # train on all rows, not on a sample of them
    training = faiss.Clustering(points.shape[1], clusters, settings)
    training.train(points, _index(faiss, points.shape[1], features.device))
    centres = faiss.vector_to_array(training.centroids).reshape(clusters, -1)
    return torch.from_numpy(centres).to(features.device)


def _index(faiss, width: int, device: torch.device):
    """A flat index on the GPU that holds the features, if faiss was built for GPUs, else on the CPU."""
    if device.type != "cuda" or not hasattr(faiss, "StandardGpuResources"):
        return faiss.IndexFlatL2(width)
    number = torch.cuda.current_device() if device.index is None else device.index
    config = faiss.GpuIndexFlatConfig()
    config.device = number
    return faiss.GpuIndexFlatL2(_resources(number), width, config)


@functools.cache
def _resources(number: int):
    """faiss's scratch memory on GPU `number`, allocated once: the default takes 1.5 GB away from the model."""
    import faiss

    resources = faiss.StandardGpuResources()
    resources.setTempMemory(64 * 2**20)
    return resources


def _plus_plus(features: Tensor, clusters: int, seed: int) -> Tensor:
    """Centres (K, H) drawn one by one, each with probability proportional to its squared distance from those before."""
    draws = torch.rand(clusters, generator=torch.Generator().manual_seed(seed)).to(features.device)
    square = features.square().sum(1)
    weight = torch.ones_like(square)
    chosen = []
    for step in range(clusters):
        sums = weight.cumsum(0)
        pick = torch.searchsorted(sums, draws[step : step + 1] * sums[-1:], right=True).clamp(max=len(features) - 1)
        chosen.append(pick)
        centre = features[pick]
        squared = (square - 2 * (features @ centre[0]) + square[pick]).clamp(min=0)
        squared[pick] = 0  # exactly: rounding would let a point be drawn twice
        weight = squared if step == 0 else torch.minimum(weight, squared)
    return features[torch.cat(chosen)]


def _lloyd(features: Tensor, centres: Tensor, niter: int) -> Tensor:
    assignment = _nearest(features, centres)
    for _ in range(niter):
        centres = _means(features, assignment, centres)
        moved = _nearest(features, centres)
        if torch.equal(moved, assignment):
            break
        assignment = moved
    return centres


def _nearest(features: Tensor, centres: Tensor) -> Tensor:
    """(N,) index of the nearest centre, the first of equals; |x|^2 is the same for all centres and left out."""
    return torch.addmm(centres.square().sum(1), features, centres.T, alpha=-2).argmin(1)


def _means(features: Tensor, assignment: Tensor, centres: Tensor) -> Tensor:
    """(K, H) means of the points of each cluster; an empty cluster keeps its centre.

    By a product with the one-hot assignment: scatter-adds are not deterministic on GPUs.
    """
    member = torch.nn.functional.one_hot(assignment, len(centres)).to(features.dtype)
    count = member.sum(0)
    means = (member.T @ features) / count.clamp(min=1)[:, None]
    return torch.where(count[:, None] > 0, means, centres)
