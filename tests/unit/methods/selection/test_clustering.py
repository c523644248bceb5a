"""Both back ends, faiss and torch, against scikit-learn and NumPy."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from kdlab.errors import UserError
from kdlab.methods.selection import clustering
from kdlab.methods.selection.clustering import kmeans


@pytest.fixture(params=["faiss", "torch"])
def backend(request, monkeypatch):
    """faiss, or a process in which it cannot be imported."""
    clustering._faiss.cache_clear()
    if request.param == "faiss":
        pytest.importorskip("faiss")
    else:
        monkeypatch.setitem(sys.modules, "faiss", None)
        with pytest.warns(UserWarning, match="faiss is not installed"):
            assert clustering._faiss() is None
    yield request.param
    clustering._faiss.cache_clear()


def blobs(rows=300, width=8, offset=0.0):
    points, truth = make_blobs(rows, width, centers=6, cluster_std=0.3, random_state=0)
    return torch.as_tensor(points + offset, dtype=torch.float32), truth


@pytest.mark.parametrize("offset", [0.0, 1000.0])  # a common offset must not cost the distances their digits
def test_separated_blobs_give_the_inertia_of_scikit_learn(backend, offset):
    points, _ = blobs(offset=offset)
    reference = KMeans(6, n_init=10, random_state=0).fit(points.numpy())
    best = min(float(kmeans(points, 6, seed)[2].double().square().sum()) for seed in range(5))
    assert best == pytest.approx(reference.inertia_, rel=1e-3)


def test_assignment_and_distance_are_those_of_the_nearest_centre(backend):
    points = torch.as_tensor(np.random.default_rng(0).normal(size=(200, 12)), dtype=torch.float32)
    centres, assignment, distance = kmeans(points, 17, seed=3)
    every = np.linalg.norm(points.numpy()[:, None].astype(float) - centres.numpy()[None].astype(float), axis=2)
    assert centres.shape == (17, 12)
    assert assignment.tolist() == every.argmin(1).tolist()
    np.testing.assert_allclose(distance, every.min(1), rtol=1e-4, atol=1e-6)


def test_centres_are_the_means_at_convergence(backend):
    points, _ = blobs()
    centres, assignment, _ = kmeans(points, 6, seed=1)
    for number in assignment.unique().tolist():
        np.testing.assert_allclose(centres[number], points[assignment == number].mean(0), rtol=1e-4, atol=1e-4)


def test_the_seed_decides(backend):
    points = torch.as_tensor(np.random.default_rng(0).normal(size=(200, 12)), dtype=torch.float32)
    first, again, other = kmeans(points, 9, 2**62 + 1), kmeans(points, 9, 2**62 + 1), kmeans(points, 9, 4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_seeding_spreads_over_separated_blobs(backend):
    """D^2 sampling finds nearly all of six far blobs at once; uniform sampling 4 on average (6 - 6 (5/6)^6)."""
    points, truth = blobs()
    found = []
    for seed in range(10):
        _, assignment, _ = kmeans(points, 6, seed, niter=1)
        found.append(len({truth[(assignment == number).numpy()][0] for number in assignment.unique().tolist()}))
    assert np.mean(found) > 5.2


def test_fewer_distinct_points_than_clusters(backend):
    distinct = torch.tensor([[0.0, 0], [5, 0], [0, 7]])
    points = distinct.repeat_interleave(torch.tensor([4, 2, 6]), dim=0)
    centres, assignment, distance = kmeans(points, 7, seed=0)
    assert centres.isfinite().all()
    np.testing.assert_allclose(distance, 0, atol=1e-5)
    np.testing.assert_allclose(centres[assignment], points, atol=1e-5)
    assert len(centres) == len(assignment.unique()) == 3


def test_equal_points(backend):
    centres, assignment, distance = kmeans(torch.ones(9, 3), 4, seed=0)
    np.testing.assert_allclose(centres[assignment], 1)
    assert distance.tolist() == [0] * 9


@pytest.mark.parametrize("clusters", [4, 5, 100])
def test_no_more_clusters_than_rows(backend, clusters):
    points = torch.tensor([[0.0], [1], [3], [10]])
    centres, assignment, distance = kmeans(points, clusters, seed=0)
    np.testing.assert_allclose(centres, points, rtol=1e-6, atol=1e-6)
    assert assignment.tolist() == [0, 1, 2, 3]
    assert distance.tolist() == [0] * 4


def test_half_precision_and_gradients_are_taken(backend):
    points = blobs()[0].to(torch.bfloat16).requires_grad_()
    centres, _, distance = kmeans(points, 3, seed=0)
    assert centres.dtype == distance.dtype == torch.float32
    assert not centres.requires_grad


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(backend, bad):
    points = torch.zeros(5, 2)
    points[3, 1] = bad
    with pytest.raises(ValueError, match=r"rows \[3\]"):
        kmeans(points, 2, seed=0)


def test_wrong_arguments(backend):
    with pytest.raises(UserError, match="at least 1"):
        kmeans(torch.zeros(5, 2), 0, seed=0)
    for shape in ((5,), (0, 3)):
        with pytest.raises(ValueError, match="shape"):
            kmeans(torch.zeros(shape), 2, seed=0)


def test_missing_faiss_is_said_once(monkeypatch):
    clustering._faiss.cache_clear()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(3):
            kmeans(blobs()[0], 2, seed)
    clustering._faiss.cache_clear()
    assert [str(w.message) for w in caught if "faiss" in str(w.message)] == [str(caught[0].message)]


def test_a_faiss_without_kmeans_plus_plus_is_passed_over(monkeypatch):
    faiss = pytest.importorskip("faiss")
    clustering._faiss.cache_clear()
    monkeypatch.delattr(faiss, "ClusteringInitMethod_KMEANS_PLUS_PLUS")
    with pytest.warns(UserWarning, match="has no k-means"):
        assert clustering._faiss() is None
    clustering._faiss.cache_clear()


def test_each_gpu_gets_an_index_of_its_own(monkeypatch):
    """No GPU here: faiss's GPU classes are replaced by recorders of their calls."""
    faiss = pytest.importorskip("faiss")
    asked = []

    class Resources:
        def setTempMemory(self, size):
            asked.append(size)

    class Config:
        device = 0

    monkeypatch.setattr(faiss, "StandardGpuResources", Resources, raising=False)
    monkeypatch.setattr(faiss, "GpuIndexFlatConfig", Config, raising=False)
    monkeypatch.setattr(faiss, "GpuIndexFlatL2", lambda r, d, c: (type(r), d, c.device), raising=False)
    clustering._resources.cache_clear()
    assert clustering._index(faiss, 7, torch.device("cuda", 1)) == (Resources, 7, 1)
    assert clustering._index(faiss, 7, torch.device("cuda", 1)) == (Resources, 7, 1)
    assert asked == [64 * 2**20]  # scratch memory is taken once a GPU
    assert isinstance(clustering._index(faiss, 7, torch.device("cpu")), faiss.IndexFlatL2)
    clustering._resources.cache_clear()


def test_large_numbers_cluster_as_small_ones_do_and_do_not_end_the_process():
    """1e30 is a finite float32 and its square is not; by powers of 10 the groups stay the same."""
    points = torch.cat([torch.randn(5, 3, generator=torch.Generator().manual_seed(1)) + 20 * i for i in range(3)])
    _, wanted, near = kmeans(points, 3, 0)
    _, found, distance = kmeans(points * 1e30, 3, 0)
    assert (found[:, None] == found).equal(wanted[:, None] == wanted)
    torch.testing.assert_close(distance / 1e30, near, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="too large"):
        kmeans(torch.tensor([[3e38], [3e38], [-3e38], [1.0]]), 2, 0)
