"""Early exit is a model of the first layers; a memory gives back what it was given until that is too old."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from kdlab.callbacks import select
from kdlab.callbacks.scoring.score_memory import ScoreMemory
from kdlab.config.groups.select import SelectConfig
from kdlab.errors import UserError
from kdlab.methods.selection import strategies
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.models.attention import capture
from kdlab.models.encoder import Encoder
from kdlab.models.student import set_dropout, student_from, transformer_layers
from kdlab.modules.early_exit import exits, first_layers
from kdlab.stages import components
from kdlab.types import Evidence, Outputs
from tests.unit.models.test_packing import model, texts


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_the_first_layers_are_those_of_a_model_that_has_no_more(family):
    whole, batch = model(family), texts()
    depth = whole.config.num_hidden_layers
    for layers in range(1, depth + 1):
        known = student_from(whole, list(range(layers))).eval()
        with torch.no_grad():
            mine = Encoder(first_layers(whole, layers), "packed").encode(batch).hidden
            theirs = Encoder(known, "packed").encode(batch).hidden
        assert torch.equal(mine, theirs)  # pyright: ignore
    assert len(transformer_layers(whole)) == depth  # the model itself keeps its layers


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "deberta-v2", "modernbert"])
def test_the_exits_of_one_forward_are_models_of_the_first_layers(family):
    whole, batch = model(family), texts()
    encoder = Encoder(whole, "packed")
    with torch.no_grad():
        found = exits(whole, encoder.encode(batch, frozenset({"states"})))
        assert len(found) == whole.config.num_hidden_layers - 1
        for layers, outputs in enumerate(found, 1):
            known = Encoder(first_layers(whole, layers), encoder.execution).encode(batch, frozenset({"hidden"}))
            real = batch.attention_mask.bool()
            torch.testing.assert_close(outputs.hidden[real], known.hidden[real])  # pyright: ignore


def test_the_first_layers_learn_with_the_model_and_have_no_dropout():
    whole, batch = model("bert"), texts()
    set_dropout(whole, 0.5)
    shallow = Encoder(first_layers(whole, 1))
    with torch.no_grad():
        before = shallow.encode(batch).hidden
        transformer_layers(whole)[0].output.dense.bias += 1.0  # pyright: ignore
        after = shallow.encode(batch).hidden
        assert torch.equal(after, shallow.encode(batch).hidden)  # pyright: ignore
    assert not torch.allclose(before, after)  # pyright: ignore


def test_the_first_layers_leave_attention_readable_that_is_read():
    whole, batch = model("bert"), texts()
    encoder = Encoder(whole, "varlen")
    capture.prepare(whole)
    Encoder(first_layers(whole, 1), encoder.execution).encode(batch)
    scores = encoder.encode(batch, frozenset({"scores"})).scores
    assert scores is not None and len(scores) == whole.config.num_hidden_layers


def test_an_ensemble_remembers_what_looks_and_draws_the_rest_anew():
    batch, logits = texts(), torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    looked = []

    def evidence(some, shown, part, units):
        assert not units
        looked.append(some.rows.tolist())
        yield Evidence(logits=logits[some.rows])

    still = contextlib.nullcontext
    module = SimpleNamespace(progress=0.0, timed=lambda part: still(), inference_mode=still, evidence=evidence)
    arm = strategies.Ensemble([strategies.random, strategies.entropy])
    chooser = RowSelector({"both": arm}, Fixed(["both"]), 0.5, 10, 0)
    chooser.decide(0)
    chosen = select.Select(chooser, forward=lambda *given: Outputs(), memory=ScoreMemory(9, 9))  # pyright: ignore
    for seed in (1, 2):
        expected = arm(Evidence(logits=logits, rng=torch.Generator().manual_seed(seed)))
        found = chosen._scores(module, batch, False, batch.rows, torch.Generator().manual_seed(seed), 4, None)  # pyright: ignore
        assert torch.equal(found, expected)
    assert looked == [list(range(9))]


def test_scores_are_given_back_until_they_are_as_old_as_refresh():
    memory = ScoreMemory(rows=6, refresh=2)
    rows = torch.tensor([4, 1])
    assert memory.due(["a"], rows, 0).tolist() == [True, True]
    memory.store("a", rows, 0, torch.tensor([0.5, 0.25]))
    memory.store("a", torch.tensor([1]), 1, torch.tensor([7.0]))
    assert memory.recall("a", torch.tensor([1, 4])).tolist() == [7.0, 0.5]
    assert memory.due(["a"], rows, 1).tolist() == [False, False]
    assert memory.due(["a"], rows, 2).tolist() == [True, False]  # row 4 was looked at in epoch 0, row 1 in epoch 1
    assert memory.due(["a", "b"], rows, 1).tolist() == [True, True]  # by b never

    again = ScoreMemory(rows=6, refresh=2)
    again.load_state_dict(memory.state_dict())
    assert again.due(["a"], rows, 2).tolist() == [True, False]
    assert again.recall("a", rows).tolist() == [0.5, 7.0]


def test_half_of_the_layers_look_unless_it_is_said_how_many():
    assert [components.exit_layer(SelectConfig(), depth) for depth in (1, 2, 3, 6)] == [1, 1, 2, 3]
    assert components.exit_layer(SelectConfig(exit_layer=3), 3) == 3
    with pytest.raises(UserError, match="the student has 3 layers"):
        components.exit_layer(SelectConfig(exit_layer=4), 3)
