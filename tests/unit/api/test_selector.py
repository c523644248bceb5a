"""`kdlab.Selector`: strategies by name, as functions, or several; one line for each mistake."""

from __future__ import annotations

import pytest
import torch

import kdlab
from kdlab.config import choices
from kdlab.methods.selection.policies import Fixed, Online

GIVEN = {
    "logits": torch.randn(8, 3, generator=torch.Generator().manual_seed(0)),
    "features": torch.randn(8, 4, generator=torch.Generator().manual_seed(1)),
    "labels": torch.arange(8) % 3,
    "votes": torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(2)),
    "rows": torch.arange(8) + 20,
    "teacher": torch.randn(8, 3, generator=torch.Generator().manual_seed(2)),
    "reference_loss": torch.rand(8, generator=torch.Generator().manual_seed(3)),
}


@pytest.mark.parametrize("name", sorted(set(choices.groups()["select"]) - {"all"}))
def test_every_choice_of_the_configuration_selects_rows(name):
    selector = kdlab.Selector(name, ratio=0.25, total_steps=10, observe=lambda: 1.0)
    read = {field: value for field, value in GIVEN.items() if field in {*selector.needs, "labels"}}
    found = selector.rows(0, **read)
    assert found.tolist() == sorted(set(found.tolist())) and len(found) == 2


def test_a_function_and_several_functions_are_strategies():
    assert kdlab.Selector(kdlab.strategies.entropy, total_steps=3).arms == {"entropy": kdlab.strategies.entropy}
    several = kdlab.Selector({"a": kdlab.strategies.entropy, "b": kdlab.strategies.random}, total_steps=3)
    assert isinstance(several.policy, Online) and several.reward is not None
    fixed = kdlab.Selector({"a": kdlab.strategies.entropy}, total_steps=3, policy=Fixed(["a"]))
    assert fixed.reward is None and fixed.rows(0, logits=GIVEN["logits"]).shape == (1,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "entropi"}, "strategy=entropi: there is no such choice; did you mean entropy"),
        ({"strategy": 3}, "strategy=3: the name of a choice, a strategy"),
        ({"strategy": {}}, "the name of a choice, a strategy"),
        ({"total_steps": 0}, "total_steps=0: a whole number of optimizer steps"),
        ({"interval": 2.5}, "interval=2.5: a whole number"),
        ({"ratio": 1.5}, r"selection ratio must be a number in \(0, 1\], found 1.5"),
        ({"observe": 3.0}, "observe=3.0: a function"),
        ({"policy": Fixed(["entropy"]), "strategy": {"a": kdlab.strategies.entropy}}, "the policy chooses 'entropy'"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message):
    with pytest.raises(kdlab.UserError, match=message):
        kdlab.Selector(**{"strategy": kdlab.strategies.entropy, "total_steps": 3, **arguments})


def test_an_observation_is_a_number():
    selector = kdlab.Selector("adads", total_steps=3, observe=lambda: [1.0])  # pyright: ignore[reportArgumentType]
    with pytest.raises(kdlab.UserError, match=r"observe\(\) returned list; a loss is expected"):
        selector.rows(0, **GIVEN)


def test_the_global_state_of_hydra_stays():
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    kdlab.Selector("entropy", total_steps=3)
    assert GlobalHydra.instance().hydra is before
