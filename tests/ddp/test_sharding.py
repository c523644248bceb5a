"""A teacher's layers over two ranks (gloo): memory of each, equal answers, unequal numbers of queries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.models.encoder import Encoder
from kdlab.models.student import transformer_layers
from kdlab.modules.evaluation import predictions
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch
from tests.conftest import tiny_config
from tests.support.ranks import results_of_two

LENGTHS = ([9, 2, 7], [3, 8])  # of each rank's rows
FAMILIES = {"packed": "bert", "bucketed": "distilbert", "padded": "electra", "varlen": "roberta"}


def model(family: str = "bert") -> Any:
    torch.manual_seed(0)
    config = tiny_config(family)
    config.num_labels = 3
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def batch(lengths: list[int]) -> Batch:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    ids = torch.arange(mask.numel()).view_as(mask) % 50 + 5
    rows = torch.arange(len(lengths))
    return Batch(rows, 0, ids * mask, mask, rows % 3, torch.ones(len(lengths), dtype=torch.bool))


def held(module: torch.nn.Module) -> int:
    """The number of parameter elements of a module that this rank stores."""
    return sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in module.parameters())


def on_rank(number: int) -> dict[str, Any]:
    wants = frozenset({"states"})
    found: dict[str, Any] = {}
    for execution, family in FAMILIES.items():
        teacher = Teacher("t", Encoder(model(family), execution), shared=True).to(torch.device("cpu"))
        layers = transformer_layers(teacher.encoder.model)
        found[f"held {family}"] = [held(layers), held(teacher.encoder.model)]
        mine = batch(LENGTHS[number])
        said = [teacher.answer(mine, needed=wants)] if number == 0 else []
        said += [teacher.answer(mine, needed=wants)]  # rank 1 only runs along with the second of rank 0
        if number == 1:
            teacher.catch_up()
        found[execution] = said[-1].outputs
        found[f"read {execution}"] = teacher.answer(mine).outputs.hidden
        # batches that only one rank has: scores are of all ranks' rows
        some = [mine, mine, mine] if number == 0 else []
        found["scored"] = predictions(teacher.encoder, teacher.over(some), None, lambda *_: None, teacher.project)[1]
        found[f"held {family}"].append(held(layers))
    half = Teacher("t", Encoder(model()), shared=True).hold("bf16-mixed").to(torch.device("cpu"))
    found["half"] = half.answer(batch(LENGTHS[number])).outputs.hidden
    if number == 0:
        half.query(batch(LENGTHS[number]))  # rank 1 runs along
    half.catch_up()
    found["held half"] = {str(p.dtype) for p in transformer_layers(half.encoder.model).parameters()}
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> list[dict[str, Any]]:
    return results_of_two(on_rank, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("family", FAMILIES.values())
def test_each_rank_holds_half_of_every_layer_and_the_rest_whole(family, both):
    whole = model(family)
    layers = sum(p.numel() for p in transformer_layers(whole).parameters())
    rest = sum(p.numel() for p in whole.parameters()) - layers
    parts = [found[f"held {family}"] for found in both]
    assert parts[0][0] + parts[1][0] == layers and parts[0][0] == layers // 2
    assert all(total == part + rest for part, total, _ in parts)
    assert [after for *_, after in parts] == [part for part, *_ in parts]  # gathered layers are let go


@pytest.mark.parametrize("execution", FAMILIES)
def test_answers_are_those_of_the_whole_teacher(execution, both):
    alone = Teacher("t", Encoder(model(FAMILIES[execution]), execution))
    for found, lengths in zip(both, LENGTHS, strict=True):
        shown, wanted = found[execution], alone.query(batch(lengths), needed=frozenset({"states"}))
        assert wanted.hidden is not None and wanted.states is not None
        assert torch.equal(shown.hidden, wanted.hidden)
        assert len(shown.states) == len(wanted.states) == alone.encoder.model.config.num_hidden_layers + 1
        assert all(torch.equal(a, b) for a, b in zip(shown.states, wanted.states, strict=True))
        read = alone.query(
            batch(lengths)
        ).hidden  # packed, the last layer runs for first tokens alone, shared out or not
        assert read is not None and torch.equal(found[f"read {execution}"], read)
        assert read.shape[1] == (1 if execution in ("packed", "varlen") else max(lengths))


def test_scores_are_of_all_rows_though_one_rank_has_none(both):
    assert torch.equal(both[0]["scored"], both[1]["scored"]) and len(both[0]["scored"]) == 3 * len(LENGTHS[0])


def test_in_bfloat16_it_is_the_frozen_copy(both):
    copy = Teacher("t", Encoder(model())).hold("bf16-mixed")
    for found, lengths in zip(both, LENGTHS, strict=True):
        assert found["held half"] == {"torch.bfloat16", "torch.float32"}  # matrices, norms
        wanted = copy.query(batch(lengths)).hidden
        assert wanted is not None and torch.equal(found["half"], wanted)


def test_one_process_keeps_the_teacher_whole():
    teacher = Teacher("t", Encoder(model()), shared=True).to(torch.device("cpu"))
    assert held(teacher.encoder.model) == sum(p.numel() for p in model().parameters())
    assert list(teacher.over([batch([4])]))[0].input_ids.shape == (1, 4)


def test_the_choice_composes_and_stands_on_ddp():
    config = checked(composition(["+exp=adads_finetune", "trainer=fsdp_teacher"])[0])
    assert config.trainer.shard_teacher and config.trainer.devices == 2
    assert not checked(composition(["+exp=adads_finetune", "trainer=ddp"])[0]).trainer.shard_teacher


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["trainer.devices=1"], "trainer.devices=1: give 2 or more"),
        (["weigh=ksm", "knowledge=ksm", "weigh.episodes=2"], "weigh.episodes=2: .*one process"),
    ],
)
def test_what_cannot_work_is_refused(given, told):
    with pytest.raises(UserError, match=told):
        checked(composition(["+exp=adads_finetune", "trainer=fsdp_teacher", *given])[0])
