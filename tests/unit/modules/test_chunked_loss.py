"""Chunked losses against the same loss computed whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kdlab.modules.chunked_loss import chunked_loss


def case(dtype=torch.float64):
    torch.manual_seed(0)
    vectors = torch.randn(10, 6, dtype=dtype, requires_grad=True)
    weight = torch.randn(17, 6, dtype=dtype, requires_grad=True)
    unused = torch.randn(3, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 17, (10,))
    share = torch.rand(10, dtype=dtype)

    def project(v):
        return v @ weight.T

    def loss_of(logits, part):
        return (F.cross_entropy(logits.to(dtype), labels[part], reduction="none") * share[part]).sum()

    return vectors, weight, unused, project, loss_of


@pytest.mark.parametrize("piece", [1, 2, 64])
@pytest.mark.parametrize("size", [1, 3, 10, 64])
def test_value_and_gradients_equal_the_whole(size, piece):
    vectors, weight, unused, project, loss_of = case()
    whole = loss_of(project(vectors), slice(0, 10)) * 0.5
    wanted = torch.autograd.grad(whole, (vectors, weight))
    loss = chunked_loss(project, loss_of, vectors, [weight, unused], size, piece) * 0.5
    loss.backward()
    torch.testing.assert_close(loss.double(), whole)
    torch.testing.assert_close(vectors.grad, wanted[0])
    torch.testing.assert_close(weight.grad, wanted[1])
    assert unused.grad is None


def test_without_gradient_the_value_is_the_same():
    vectors, weight, unused, project, loss_of = case()
    with torch.no_grad():
        found = chunked_loss(project, loss_of, vectors, [weight, unused], 4)
    torch.testing.assert_close(found.double(), loss_of(project(vectors), slice(0, 10)).detach())


def test_no_unit_at_all_gives_zero_and_no_gradient():
    vectors, weight, unused, project, loss_of = case()
    loss = chunked_loss(project, loss_of, vectors[:0], [weight, unused], 4)
    loss.backward()
    assert float(loss.detach()) == 0 and weight.grad is None and float(vectors.grad.abs().sum()) == 0


def test_no_unit_gives_a_gradient_of_zero_to_the_parameters_in_use_where_ranks_reduce_them():
    vectors, weight, unused, project, loss_of = case()
    chunked_loss(project, loss_of, vectors[:0], [weight, unused], 4, always=True).backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight)) and unused.grad is None
    weight.grad = None
    chunked_loss(project, loss_of, vectors, [weight, unused], 4, always=True).backward()
    torch.testing.assert_close(weight.grad, torch.autograd.grad(loss_of(project(vectors), slice(0, 10)), weight)[0])


def test_under_autocast_every_chunk_sees_the_gradient_of_the_weight():
    vectors, weight, unused, project, loss_of = case(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        chunked_loss(project, loss_of, vectors, [weight, unused], 3).backward()
    wanted = torch.autograd.grad(loss_of(project(vectors), slice(0, 10)), weight)[0]
    assert torch.nn.functional.cosine_similarity(weight.grad.flatten(), wanted.flatten(), dim=0) > 0.999
    assert 0.97 < float(weight.grad.norm() / wanted.norm()) < 1.03
