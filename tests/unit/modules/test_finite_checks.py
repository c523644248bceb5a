"""Finite checks on the host against those by tensors, which several ranks and GPUs share."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch

from kdlab.modules import finite_checks
from kdlab.modules.finite_checks import StepHealth

NAN, INF = math.nan, math.inf


def judged(losses: list[float], norm: float, scaled: bool, answers: list[dict[str, bool]], by_tensors: bool):
    """The report of a step, and if its optimizer skips it."""
    health, weight = StepHealth(), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    health.wants_checkpoint = True
    for i, loss in enumerate(losses):
        found = {name: torch.tensor(finite) for name, finite in answers[i].items()} if answers else None
        health.note(torch.tensor(loss), torch.tensor([i]), torch.tensor([True]), found)
    with mock.patch.object(finite_checks.distributed, "world", return_value=2 if by_tensors else 1):
        health.judge(torch.tensor(norm), optimizer, 5, scaled)
    (report,) = health.read()
    weight.grad = torch.ones(2)
    optimizer.step()
    numbers = (report.step, report.loss, report.bad_loss, report.bad_gradient, report.signum, report.wants_checkpoint)
    return *numbers, report.teachers, report.rows(), weight.tolist(), optimizer.state[weight]["step"].item()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("norm", [1.5, INF, NAN])
@pytest.mark.parametrize("losses", [[0.3], [NAN], [INF], [0.1, 0.2, 0.7], [0.1, NAN, 0.7, 3.0], [-INF, NAN]])
@pytest.mark.parametrize("answers", [[], ["a", "b"]])
def test_the_host_judges_a_step_as_tensors_do(losses, norm, scaled, answers):
    finite = [{name: bool(i % 2) or name == "b" for name in answers} for i in range(len(losses))] if answers else []
    found, wanted = (judged(losses, norm, scaled, finite, by_tensors) for by_tensors in (False, True))
    assert found == wanted
    skips = any(not math.isfinite(loss) for loss in losses) or (not scaled and not math.isfinite(norm))
    assert (found[-1] == 0) == skips and found[6] == (("a",) if answers else ())


def test_a_step_after_one_that_was_skipped_is_taken():
    health, weight = StepHealth(), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    for step, norm in enumerate((NAN, 1.0)):
        health.note(torch.tensor(0.5), torch.tensor([0]), torch.tensor([True]))
        health.judge(torch.tensor(norm), optimizer, step, False)
        weight.grad = torch.ones(2)
        optimizer.step()
        assert (weight[0].item() == 1.0) == (step == 0)
