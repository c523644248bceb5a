"""Every number that a configuration can set declares a range, and every range is enforced: fields, and arguments of code."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from omegaconf import DictConfig, OmegaConf

from kdlab import ranges
from kdlab.config import arguments, documentation, schema
from kdlab.config.composition import composition
from kdlab.config.documentation import NAME
from kdlab.config.schema import Config, checked
from kdlab.errors import UserError
from kdlab.methods import adoption
from kdlab.methods.knowledge.layer_maps import MAPS, LayerMap
from kdlab.methods.marks import marks_of, needs
from kdlab.ranges import Probability, Range

CODE = sorted(arguments.code_names())
NEVER = [math.nan, math.inf, -math.inf, "text", True]
PLACES = {  # module: the place of its code in a configuration, and what the run needs beside it
    "methods.selection.strategies": "select.arms.mine",
    "methods.selection.policies": "select.policy",
    "methods.selection.rewards": "select.reward",
    "methods.adoption": "adopt.arms.mine",
    "methods.knowledge.weighing": "weigh.arms.mine",
    "methods.ksm.module": "weigh.arms.mine",
    "methods.knowledge": "knowledge.terms.soft.term",
    "data": "data.source",
}


def bounds(hint: Any) -> Iterator[tuple[Range, bool]]:
    """The ranges anywhere in an annotation, each with True for whole numbers."""
    if get_origin(hint) is Annotated:
        base, *declared = get_args(hint)
        for one in declared:
            yield from [(one, base is int)] if isinstance(one, Range) else bounds(one)
    else:
        for inner in get_args(hint):
            yield from bounds(inner)


def wrong_numbers(hint: Any) -> list[Any]:
    """Values outside of every range of an annotation: NaN, infinity, a text, numbers beyond its bounds."""
    found = list(NEVER)
    for one, whole in bounds(hint):
        found += [one.low - 1 if not one.above else one.low] if one.low is not None else []
        found += [one.high + max(1, abs(one.high)) if not one.below else one.high] if one.high is not None else []
        found += [0.5, 2**63] if whole else []
        found += [int(one.usual) + 1] if one.usual is not None else []
    # a count or a share: what is wrong for the one may be the other
    others = [(one, whole) for one, whole in bounds(hint) if one.usual is None]
    return [value for value in found if not any(one.contains(value, whole) for one, whole in others)]


def set_in(config: DictConfig, key: str, value: Any) -> DictConfig:
    changed = copy.deepcopy(config)
    OmegaConf.update(changed, key, value, force_add=True, merge=False)
    return changed


@pytest.fixture(scope="module")
def config() -> DictConfig:
    """A configuration with every optional group."""
    overrides = ["+exp=dekd", "+augment=tinybert", "select=adads", "teachers.path=here", "data.path=here"]
    return composition(
        [*overrides, "++teachers.prepare.max_steps=1", "++suite.tasks=[cola]", "+teachers.others.x.layers=2"]
    )[0]


@pytest.fixture(scope="module")
def whole(config) -> Config:
    return checked(config)


@contextmanager
def changed(config: Config, key: str, value: Any) -> Iterator[None]:
    """The configuration with another value at a dotted key, during the block."""
    *above, last = key.split(".")
    node: Any = config
    for part in above:
        node = node[part] if isinstance(node, dict) else getattr(node, part)
    values = node if isinstance(node, dict) else vars(node)
    before = dict(values)
    values[last] = value
    yield
    values.clear()
    values.update(before)


# ---- fields of the configuration

FIELDS = {
    key.name: get_type_hints(key.owner, include_extras=True)[key.name.rpartition(".")[2]]
    for key in documentation.keys().values()
}


@pytest.mark.parametrize("key", FIELDS)
def test_every_number_of_the_configuration_declares_a_range(key):
    assert not ranges.undeclared(FIELDS[key])


@pytest.mark.parametrize("key", [key for key, hint in FIELDS.items() if any(bounds(hint))])
def test_a_field_refuses_what_is_outside_of_its_range(key, whole):
    place = key.replace(f"others.{NAME}", "others.x").replace(f"terms.{NAME}", "terms.soft")
    listed = get_origin(FIELDS[key]) is list
    for value in wrong_numbers(FIELDS[key]):
        with (
            changed(whole, place, [value] if listed else value),
            pytest.raises(UserError, match=rf"^{place.replace('.', '[.]')}="),
        ):
            schema.check_ranges(whole)
    schema.check_ranges(whole)


@pytest.mark.parametrize("key", ["optim.lr", "data.augment.copies", "adopt.assistant.temperature", "trainer.devices"])
@pytest.mark.parametrize("value", [math.nan, -1, "text", 0])
def test_a_composed_configuration_is_refused(key, value, config):
    with pytest.raises(UserError, match=key):
        checked(set_in(config, key, value))


# ---- arguments of code


@pytest.mark.parametrize("target", CODE)
def test_every_number_of_an_argument_declares_a_range(target):
    for argument in arguments.arguments_of(target).values():
        assert not ranges.undeclared(argument.hint), f"{target}({argument.name}): annotate it (kdlab.ranges)"


def test_arguments_of_all_kinds_are_found():
    ranged = [(t, a.name) for t in CODE for a in arguments.arguments_of(t).values() if any(bounds(a.hint))]
    assert len(ranged) >= 25
    kinds = {place for target, _ in ranged for module, place in PLACES.items() if module in target}
    assert kinds == set(PLACES.values())


@pytest.mark.parametrize("target", CODE)
def test_an_argument_refuses_what_is_outside_of_its_range(target, whole):
    place = next(place for module, place in PLACES.items() if target.startswith(f"kdlab.{module}"))
    for argument in arguments.arguments_of(target).values():
        listed = get_origin(argument.hint) not in (Annotated, None) and "Sequence" in str(argument.hint)
        for value in wrong_numbers(argument.hint) if any(bounds(argument.hint)) else ():
            node = {"_target_": target, argument.name: [value] if listed and not isinstance(value, str) else value}
            with changed(whole, place, node), pytest.raises(UserError, match=rf"^{place}[.]{argument.name}="):
                arguments.check(whole)


@pytest.mark.parametrize(
    ("place", "node", "message"),
    [
        ("knowledge.terms.soft.term", {"_target_": "kdlab.methods.knowledge.logits.soft_loss", "temperatur": 2}, "did you mean temperature"),
        ("knowledge.terms.soft.term", {"_target_": "kdlab.methods.knowledge.logits.label_loss", "temperature": 2}, "it has none"),
        ("select.policy", {"_target_": "kdlab.methods.selection.policies.RandMix", "arms": ["a"]}, "the run gives it itself"),
        ("select.arms.mine", {"_target_": "kdlab.methods.selection.strategies.Ensemble", "strategies": {
            "a": {"_target_": "kdlab.methods.selection.strategies.cluster", "_partial_": True, "clusters": 0}}}, "select.arms.mine.strategies.a.clusters=0"),
    ],
)  # fmt: skip
def test_unknown_arguments_and_nested_code(place, node, message, config):
    with pytest.raises(UserError, match=message):
        arguments.check(checked(set_in(config, place, node)))


def test_code_of_a_user_is_checked_alike(config, monkeypatch):
    @needs("student")
    def threshold(student: Any, teachers: Any, count: int, at: Probability = 0.5, kind: str = "a") -> Any: ...

    @needs("student")
    def careless(student: Any, teachers: Any, count: int, at: float = 0.5) -> Any: ...

    for rule in (threshold, careless):
        monkeypatch.setattr(adoption, rule.__name__, rule, raising=False)
    own = checked(config)
    for name, value, message in [
        ("threshold", 0.7, None),
        ("threshold", 7, r"adopt.arms.mine.at=7: a number in \[0, 1\]"),
        ("threshold", math.nan, "at=nan"),
        ("careless", 0.7, "does not declare"),
    ]:
        own.adopt.arms = {"mine": {"_target_": f"kdlab.methods.adoption.{name}", "_partial_": True, "at": value}}
        if message is None:
            arguments.check(own)
            continue
        with pytest.raises(UserError, match=message):
            arguments.check(own)


def test_the_names_of_layer_maps_are_those_that_the_annotation_lists():
    assert set(get_args(get_args(LayerMap)[0])) == set(MAPS)


def test_confirmed_numbers_of_fields_and_arguments_pass(config):
    large = set_in(config, "trainer.max_steps", 10**18)
    with pytest.raises(UserError, match=r"confirm=\[trainer.max_steps\]"):
        checked(large)
    assert checked(set_in(large, "confirm", ["trainer.max_steps"])).trainer.max_steps == 10**18
    node = {"_target_": "kdlab.methods.selection.rewards.LossDecay", "window": 10**6}
    with pytest.raises(UserError, match=r"confirm=\[select.reward.window\]"):
        arguments.check(checked(set_in(config, "select.reward", node)))
    arguments.check(checked(set_in(set_in(config, "select.reward", node), "confirm", ["select.reward.window"])))


def test_a_term_keeps_its_marks_below_a_checked_constructor():
    from kdlab.methods.knowledge.joint import CommonFeatures

    assert marks_of(CommonFeatures()).joint
    with pytest.raises(UserError, match="width=0"):
        CommonFeatures(width=0)
