"""Guards: what code of the user's own raises, or returns in a wrong type or shape or with NaN, for every kind of code."""

from __future__ import annotations

import functools
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from torch import Tensor

from kdlab.data.text.sources import Mixture
from kdlab.errors import UserError
from kdlab.methods.knowledge.logits import soft_loss
from kdlab.methods.marks import marks_of
from kdlab.methods.selection.strategies import Ensemble, entropy
from kdlab.plugins import own_modules
from kdlab.plugins.guards import Guard, guarded
from kdlab.stages.components import build_target
from kdlab.stages.dry_run import check_own_strategies
from kdlab.types import Evidence, Outputs, WeighingContext

CODE = """
import math
import torch
from kdlab.data.tasks.rows import LabelledRow, TaskData
from kdlab.methods.marks import needs
from kdlab.ranges import Positive
from kdlab.types import TaskShape

@needs("logits", rowwise=True)
def strategy(evidence, does="", power: Positive = 1.0):
    return result(does, evidence.logits.sum(-1) ** power)

@needs("logits")
def term(student, teacher, does="", temperature: Positive = 1.0):
    return result(does, (student.logits - teacher.logits).abs().sum(-1) / temperature)

@needs("student")
def adoption(student, teachers, count, does=""):
    return result(does, student.new_ones(len(student), count))

@needs()
def weighing(context, terms, does=""):
    return result(does, torch.ones(len(terms)))

def result(does, right):
    if does == "raises":
        raise KeyError("lost")
    if does == "shape":
        return right.unsqueeze(-1)
    if does == "type":
        return right.tolist()
    if does == "ints":
        return right.long()
    if does == "nan":
        return right * math.nan
    if does == "negative":
        return -right
    if does == "detached":
        return right.detach()
    return right

class Policy:
    def __init__(self, arms, does=""):
        if does == "construction":
            raise ValueError("no arms")
        self.arms, self.does, self.q = arms, does, {}
    def choose(self, progress, rng):
        if self.does == "raises":
            raise KeyError("lost")
        return {"": self.arms[0], "shape": self.arms, "name": "nobody"}[self.does]
    def learn(self, arm, reward):
        self.q = {arm: reward / 0 if self.does == "learns" else reward}
    def state_dict(self):
        return {"q": self.q if self.does != "state" else lambda: 0}
    def load_state_dict(self, state):
        self.q = state["q"]

class Stateful:
    def __init__(self, does=""):
        self.does, self.count = does, 0
    def __call__(self, evidence):
        self.count += 1
        return result(self.does, evidence.logits.sum(-1))
    def state_dict(self):
        return {"count": self.count if self.does != "state" else lambda: 0}
    def load_state_dict(self, state):
        self.count = state["count"] if self.does != "load" else state["cuont"]

class Reward:
    def __init__(self, does=""):
        self.does = does
    def observe(self, value):
        return {"": (None, value), "nan": (None, math.nan), "shape": value}[self.does] if self.does != "raises" else {}[0]
    def restart(self): pass
    def state_dict(self): return {}
    def load_state_dict(self, state): pass

class Rows:
    def __init__(self, does=""):
        self.does = does
    def check(self):
        if self.does == "check":
            raise OSError("no disk")
    def fingerprint(self):
        return "1" if self.does != "fingerprint" else 1
    def read(self):
        if self.does == "raises":
            raise KeyError("lost")
        label = {"nan": math.nan, "label": 5}.get(self.does, 1)
        texts = {"texts": ["a"], "pairs": ("a", "b")}.get(self.does, ("a",))
        rows = [LabelledRow(texts, label)]
        data = TaskData(TaskShape(1, ("no", "yes"), ("accuracy",)), {"train": rows, "dev": rows})
        if self.does == "split":
            del data.splits["dev"]
        return data if self.does != "type" else rows

class Text:
    def __init__(self, does=""):
        self.does = does
    def check(self): pass
    def fingerprint(self): return "1"
    def size(self): return 3 if self.does != "size" else "big"
    def documents(self):
        yield "one"
        if self.does == "raises":
            raise KeyError("lost")
        yield "two" if self.does != "type" else None
        yield "three"

class Nothing:
    pass
"""


@pytest.fixture(autouse=True)
def _own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own_kinds.py").write_text(CODE)
    own_modules.load(["own_kinds.py"])
    yield
    own_modules.load([])


def built(name: str, kind: Any, does: str = "", tolerant: bool = False, **more: Any) -> Any:
    is_class = name[0].isupper()
    target = {"_target_": f"own_kinds.{name}", **({} if is_class else {"_partial_": True}), "does": does}
    return build_target(target, "the.key", kind, tolerant, **more)


LOGITS = torch.tensor([[1.0, 2.0], [0.5, 0.1], [3.0, 1.0]])
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "strategy": (Evidence(rows=torch.arange(3), logits=LOGITS),),
    "term": (Outputs(logits=LOGITS), Outputs(logits=LOGITS + 1)),
    "adoption": (torch.rand(3), None, 2),
    "weighing": (WeighingContext(uncertainty=torch.rand(3)), ("label", "soft")),
}
RIGHT = {"strategy": (3,), "term": (3,), "adoption": (3, 2), "weighing": (2,)}


def line_of(words: str) -> int:
    return 1 + CODE[: CODE.index(words)].count("\n")


def said(call: Any) -> str:
    with pytest.raises(UserError) as found:
        call()
    text = str(found.value)
    assert text.startswith("the.key: own_kinds.py:") and "\n" not in text
    return text.removeprefix("the.key: ")


@pytest.mark.parametrize("kind", list(ARGUMENTS))
def test_functions_of_every_kind(kind):
    here = f"own_kinds.py:{line_of(f'def {kind}(')} ({kind}) returned "
    arguments = ARGUMENTS[kind]
    assert built(kind, kind)(*arguments).shape == RIGHT[kind]
    assert said(lambda: built(kind, kind, "raises")(*arguments)) == (
        f"own_kinds.py:{line_of('raise KeyError')} in result: KeyError: 'lost'"
    )
    shape = f"a tensor of shape {(*RIGHT[kind], 1)}, not {RIGHT[kind]}"
    assert said(lambda: built(kind, kind, "shape")(*arguments)).startswith(here + shape)
    assert said(lambda: built(kind, kind, "type")(*arguments)).startswith(here + "a value of the type list")
    assert said(lambda: built(kind, kind, "ints")(*arguments)).startswith(here + "a tensor of int64")
    assert said(lambda: built(kind, kind, "nan")(*arguments)).startswith(here + "NaN for ")
    assert said(lambda: built(kind, kind)(*arguments, 1, 2, 3, 4)).startswith(
        f"own_kinds.py:{line_of(f'def {kind}(')} ({kind}): TypeError"
    )


def test_nan_of_inputs_that_are_not_finite_is_not_the_codes_own():
    logits = LOGITS.clone()
    logits[0, 0] = torch.nan
    assert built("strategy", "strategy")(Evidence(logits=logits)).isnan().sum() == 1
    assert built("term", "term")(Outputs(logits=logits), Outputs(logits=LOGITS)).isnan().sum() == 1


def test_terms_may_be_nan_where_such_steps_are_left_out():
    assert built("term", "term", "nan", tolerant=True)(*ARGUMENTS["term"]).isnan().all()


def test_a_term_without_a_gradient_is_refused_while_the_student_learns():
    student = Outputs(logits=LOGITS.clone().requires_grad_())
    assert "without a gradient" in said(lambda: built("term", "term", "detached")(student, Outputs(logits=LOGITS)))
    with torch.no_grad():
        built("term", "term", "detached")(student, Outputs(logits=LOGITS))


def test_adoption_weights_below_zero_are_refused():
    assert said(lambda: built("adoption", "adoption", "negative")(*ARGUMENTS["adoption"])).endswith("weights below 0")


def test_marks_arguments_and_results_stay_those_of_the_code():
    code, rule = get_object("own_kinds.term"), built("term", "term")
    assert marks_of(rule) == marks_of(code) and rule.__name__ == "term"
    warm = build_target({"_target_": "own_kinds.term", "_partial_": True, "temperature": 4.0}, "k", "term")
    assert inspect.signature(warm).parameters["temperature"].default == 4.0
    assert torch.equal(warm(*ARGUMENTS["term"]), code(*ARGUMENTS["term"], temperature=4.0))
    assert own_modules.is_own(warm)


def test_code_of_kdlab_is_left_as_it_is():
    assert guarded(entropy, Guard("k", "strategy")) is entropy
    part = functools.partial(entropy)
    assert guarded(part, Guard("k", "strategy")) is part


def test_members_of_an_ensemble_are_guarded():
    node = {"_target_": "own_kinds.strategy", "_partial_": True, "does": "shape"}
    ensemble = "kdlab.methods.selection.strategies.Ensemble"
    arm = build_target({"_target_": ensemble, "strategies": {"own": node}}, "the.key", "strategy")
    assert isinstance(arm, Ensemble)
    assert "a score for each row" in said(lambda: arm.members["own"](*ARGUMENTS["strategy"]))


def test_policies():
    policy = built("Policy", "policy", arms=["a", "b"])
    assert policy.choose(0.0, torch.Generator()) == "a"
    policy.learn("a", 2.0)
    assert policy.state_dict() == {"q": {"a": 2.0}} and policy.q == {"a": 2.0}

    def chosen(does: str) -> str:
        return said(lambda: built("Policy", "policy", does, arms=["a", "b"]).choose(0.0, torch.Generator()))

    here = f"own_kinds.py:{line_of('class Policy')} (Policy) returned "
    assert chosen("raises").endswith("in choose: KeyError: 'lost'")
    assert chosen("name") == f"{here}'nobody': known: a, b"
    assert chosen("shape") == f"{here}['a', 'b']: an arm was expected: a, b"
    assert said(lambda: built("Policy", "policy", "learns", arms=["a"]).learn("a", 1.0)).endswith(
        "in learn: ZeroDivisionError: float division by zero"
    )
    assert "as a checkpoint takes them" in said(lambda: built("Policy", "policy", "state", arms=["a"]).state_dict())
    assert said(lambda: built("Policy", "policy", "construction", arms=["a"])) == (
        f"own_kinds.py:{line_of('raise ValueError')} in __init__: ValueError: no arms"
    )
    with pytest.raises(UserError, match=r"own_kinds\.py:\d+ \(Nothing\) has no method choose; expected: choose, state"):
        build_target({"_target_": "own_kinds.Nothing"}, "the.key", "policy")


def test_strategies_with_a_state():
    given = ARGUMENTS["strategy"][0]
    strategy, again = built("Stateful", "strategy"), built("Stateful", "strategy")
    assert strategy(given).shape == (3,)
    again.load_state_dict(strategy.state_dict())
    assert again.count == 1
    assert "as a checkpoint takes them" in said(built("Stateful", "strategy", "state").state_dict)
    assert said(lambda: built("Stateful", "strategy", "load").load_state_dict({})).endswith("KeyError: 'cuont'")
    arms = {name: {"own": built("Stateful", "strategy", "load")} for name in ("used", "fresh")}
    assert "KeyError" in said(
        lambda: check_own_strategies(arms["used"], arms["fresh"], 3, torch.zeros(1).long(), 4, True)
    )


def test_rewards():
    assert built("Reward", "reward").observe(1.0) == (None, 1.0)
    for does in ("nan", "shape"):
        assert "not a pair (speed, reward)" in said(lambda does=does: built("Reward", "reward", does).observe(1.0))
    assert said(lambda: built("Reward", "reward", "raises").observe(1.0)).endswith("in observe: KeyError: 0")


def test_sources_of_rows():
    source = built("Rows", "rows")
    assert source.read().splits.keys() == {"train", "dev"}
    before = source.fingerprint()
    Path("own_kinds.py").write_text(CODE + "\n")
    own_modules.load(["own_kinds.py"])
    assert built("Rows", "rows").fingerprint() != before  # other code reads other rows
    expected = {
        "raises": "in read: KeyError: 'lost'",
        "type": "(Rows) returned a value of the type list, not kdlab.data.tasks.rows.TaskData",
        "split": "(Rows) returned no rows of the split dev; it has train",
        "nan": "row 0 of train with the label nan, not the index of one of 2 classes",
        "label": "row 0 of train with the label 5, not the index of one of 2 classes",
        "texts": "row 0 of train with the texts ['a'], not a tuple of 1",
        "pairs": "row 0 of train with the texts ('a', 'b'), not a tuple of 1",
    }
    for does, text in expected.items():
        assert said(lambda does=does: built("Rows", "rows", does).read()).endswith(text)
    assert said(lambda: built("Rows", "rows", "check").check()).endswith("in check: OSError: no disk")
    assert "not a text that identifies" in said(lambda: built("Rows", "rows", "fingerprint").fingerprint())


def test_sources_of_text():
    source = built("Text", "text")
    assert list(source.documents()) == ["one", "two", "three"] and source.size() == 3
    assert said(lambda: list(built("Text", "text", "raises").documents())).endswith("in documents: KeyError: 'lost'")
    assert said(lambda: list(built("Text", "text", "type").documents())).endswith(
        "None among its documents, not a text"
    )
    assert "not a number of bytes" in said(lambda: built("Text", "text", "size").size())
    node = {"_target_": "own_kinds.Text", "does": "size"}
    mixture = build_target({"_target_": "kdlab.data.text.sources.Mixture", "sources": [node]}, "the.key", "text")
    assert isinstance(mixture, Mixture) and "not a number of bytes" in said(mixture.size)


def test_objects_that_are_called_are_guarded_too():
    Path("own_object.py").write_text(
        "import torch\nfrom kdlab.methods.marks import needs\n\n@needs('logits')\nclass Score(torch.nn.Module):\n"
        "    def forward(self, evidence):\n        return evidence.logits\n"
    )
    own_modules.load(["own_object.py"])
    arm = build_target({"_target_": "own_object.Score"}, "k", "strategy")
    assert marks_of(arm).needs == {"logits"}
    with pytest.raises(UserError, match=re.escape("k: own_object.py:5 (Score) returned a tensor of shape (3, 2)")):
        arm(*ARGUMENTS["strategy"])


def test_a_tensor_of_scores_passes_as_it_is():
    scores = built("strategy", "strategy")(*ARGUMENTS["strategy"])
    assert isinstance(scores, Tensor) and torch.equal(scores, LOGITS.sum(-1))


def test_a_partial_of_kdlabs_own_is_a_plain_one():
    """Hydra's would check its target anew in each call."""
    target = {"_target_": "kdlab.methods.knowledge.logits.soft_loss", "_partial_": True, "temperature": 3.0}
    built = build_target(target, "the.key", "term")
    assert type(built) is functools.partial and built.func is soft_loss and built.keywords == {"temperature": 3.0}
