"""Decoders in two halves: logits, loss and gradients are transformers' own, and documents that share a row stay apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from kdlab.methods.knowledge.divergences import interpolated_kl, jensen_shannon
from kdlab.methods.knowledge.logits import label_cross_entropy, soft_cross_entropy
from kdlab.models import flops
from kdlab.models.encoder import Encoder
from kdlab.models.head import CAUSAL_LM
from kdlab.models.packing import CAUSAL
from kdlab.models.student import random_student, student_from, transformer_layers
from kdlab.modules.chunked_loss import chunked_loss
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.teachers.teacher import Teacher
from kdlab.testing.tiny import tiny_decoder_config
from kdlab.types import IGNORE, Batch

OTHERS = ["opt", "bloom"]  # families whose documents run apart
LENGTHS = [12, 3, 30, 7, 7, 5, 1, 16]
EXECUTIONS = ["padded", "bucketed", "packed"]
CASES = [(family, mode) for family in (*sorted(CAUSAL), *OTHERS) for mode in ("padded", "packed")] + [
    ("llama", "bucketed")
]
STATES = frozenset({"states"})


def decoder(family: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = tiny_decoder_config(family, layers=3)
    config.initializer_range = 0.3
    if getattr(config, "sliding_window", None):
        config.sliding_window = 6  # shorter than the rows
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def shifted(ids: torch.Tensor, mask: torch.Tensor, documents: torch.Tensor | None = None) -> torch.Tensor:
    """Labels by the contract of `Batch`, one position after the other."""
    labels = torch.full_like(ids, IGNORE)
    for row in range(len(ids)):
        for t in range(ids.shape[1] - 1):
            same = documents is None or documents[row, t] == documents[row, t + 1]
            if mask[row, t + 1] and same:
                labels[row, t] = ids[row, t + 1]
    return labels


def texts(lengths: list[int] = LENGTHS, vocabulary: int = 100) -> Batch:
    """Random rows, one document each; 7 stands at padding, a token as any other."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    ids = torch.randint(3, vocabulary, mask.shape, generator=torch.Generator().manual_seed(1)) * mask + 7 * (1 - mask)
    every = torch.arange(len(lengths))
    return Batch(every, 0, ids, mask, shifted(ids, mask), every >= 0)


def together(batch: Batch, groups: list[list[int]]) -> Batch:
    """The documents of `batch` in rows of several."""
    width = max(sum(LENGTHS[i] for i in group) for group in groups)
    ids, mask, documents = (torch.full((len(groups), width), fill) for fill in (7, 0, 0))
    for row, group in enumerate(groups):
        end = 0
        for number, i in enumerate(group):
            part = slice(end, end + LENGTHS[i])
            ids[row, part], mask[row, part], documents[row, end:] = batch.input_ids[i, : LENGTHS[i]], 1, number  # type: ignore
            end += LENGTHS[i]
    every = torch.arange(len(groups))
    return Batch(every, 0, ids, mask, shifted(ids, mask, documents), every >= 0, documents=documents)


def loss_of(encoder: Encoder, batch: Batch) -> torch.Tensor:
    """Our loss: the mean cross-entropy over units, a few logits at a time."""
    row, token = batch.labelled().nonzero(as_tuple=True)
    vectors, labels = encoder.vectors(encoder.encode(batch), row, token), batch.labels[row, token]

    def of(logits: torch.Tensor, part: slice) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, labels[part], reduction="sum") / len(labels)

    return chunked_loss(encoder.project, of, vectors, encoder.head_parameters(), 16, 5)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("family", "execution"), CASES)
def test_logits_loss_and_gradients_are_those_of_transformers(family, execution):
    batch, model = texts(), decoder(family)
    encoder = Encoder(model, execution)
    assert encoder.head is CAUSAL_LM and encoder.execution == (
        "bucketed" if execution == "packed" and family in OTHERS else execution
    )
    theirs: Any = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        labels=torch.where(batch.attention_mask.bool(), batch.input_ids, IGNORE),  # shifted inside
    )
    theirs.loss.backward()
    expected = gradients(model)
    model.zero_grad()
    ours = loss_of(encoder, batch)
    ours.backward()
    torch.testing.assert_close(ours, theirs.loss, rtol=1e-5, atol=1e-6)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    row, token = batch.labelled().nonzero(as_tuple=True)
    with torch.no_grad():
        logits = encoder.project(encoder.vectors(encoder.encode(batch), row, token))
    torch.testing.assert_close(logits, theirs.logits[row, token].detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "execution"), CASES)
def test_documents_that_share_a_row_give_what_each_gives_alone(family, execution):
    alone, model = texts(), decoder(family)
    groups = [[3, 2], [0, 6, 1, 7], [4, 5]]
    batch = together(alone, groups)
    encoder = Encoder(model, execution)
    with torch.no_grad():
        outputs = encoder.encode(batch, STATES)
        assert outputs.documents is batch.documents and outputs.states is not None
        for row, group in enumerate(groups):
            end = 0
            for i in group:
                one: Any = model.base_model(
                    input_ids=alone.input_ids[i : i + 1, : LENGTHS[i]], output_hidden_states=True
                )
                part = slice(end, end + LENGTHS[i])
                for mine, its in zip(
                    (outputs.hidden, *outputs.states), (one.last_hidden_state, *one.hidden_states), strict=True
                ):  # type: ignore
                    torch.testing.assert_close(mine[row, part], its[0], rtol=1e-4, atol=1e-4)
                end += LENGTHS[i]
    a, b = loss_of(encoder, batch), loss_of(Encoder(model), alone)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_no_token_reads_a_later_one(execution):
    encoder, batch = Encoder(decoder("llama"), execution), texts()
    with torch.no_grad():
        before = encoder.encode(batch).hidden
        batch.input_ids[2, 11] += 1
        after = encoder.encode(batch).hidden
    assert before is not None and after is not None
    changed = (before - after).abs().amax(-1) > 1e-6
    assert changed[2, 11:30].all() and not changed[2, :11].any() and not changed[[0, 1, 3, 4, 5, 6, 7]].any()


def test_an_off_by_one_is_noticed():
    """The comparison with transformers fails for labels that stand at their own token, or one further on."""
    model, batch = decoder("llama"), texts()
    theirs: Any = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        labels=torch.where(batch.attention_mask.bool(), batch.input_ids, IGNORE),
    )
    for wrong in (batch.input_ids, batch.labels.roll(-1, 1)):
        batch.labels = torch.where(batch.attention_mask.bool(), wrong, IGNORE)
        assert abs(float((loss_of(Encoder(model), batch) - theirs.loss).detach())) > 1e-3


@pytest.mark.parametrize("family", [*sorted(CAUSAL), "opt", "bloom"])
@pytest.mark.filterwarnings("ignore:FLOPs of model type")
def test_flops_are_those_of_torchs_counter(family):
    model = decoder(family)
    model.set_attn_implementation("eager")
    length = 16
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.full((3, length), 5), use_cache=False)
    # a matrix per layer or two that models make of positions are no products of weights or tokens
    ours = flops.forward(flops.shape_of(model.config), 3, length, 3 * length)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.01 if family in CAUSAL else 0.3)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "gpt2", "gpt_neox"])
def test_students_are_layers_of_the_teacher_or_narrower_and_tied_as_it_is(family):
    teacher = decoder(family)
    student = student_from(teacher, [0, 2])
    assert student.config.num_hidden_layers == 2 == len(transformer_layers(student))
    tied = teacher.get_output_embeddings().weight is teacher.get_input_embeddings().weight  # type: ignore[union-attr]
    assert tied == (family not in ("gpt_neox", "llama", "qwen3"))
    narrow = random_student(teacher, 2, 16)
    for model in (student, narrow):
        same = model.get_output_embeddings().weight is model.get_input_embeddings().weight  # type: ignore[union-attr]
        assert same == tied
    batch = texts()
    assert loss_of(Encoder(narrow), batch).isfinite()
    with torch.no_grad():
        for param in transformer_layers(teacher)[1].parameters():
            param.zero_()  # a layer that adds nothing to the residual stream
        hidden = [Encoder(one).encode(batch).hidden for one in (teacher, student)]
    if family in ("llama", "qwen3", "gpt2", "gpt_neox"):
        torch.testing.assert_close(*hidden, rtol=1e-4, atol=1e-4)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor):
                self.found = max(self.found, one.numel())
        return made


@pytest.mark.parametrize(
    ("term", "rows", "length"),
    [
        (jensen_shannon, 8, 128),  # the one with the most tensors; the others run each night
        pytest.param(soft_cross_entropy, 8, 128, marks=pytest.mark.nightly),
        pytest.param(interpolated_kl, 8, 128, marks=pytest.mark.nightly),
        pytest.param(soft_cross_entropy, 32, 512, marks=pytest.mark.nightly),
    ],
)
def test_no_tensor_of_rows_times_length_times_vocabulary_is_made(term, rows, length):
    vocabulary = 49_152
    config = tiny_decoder_config("llama", layers=1, vocabulary=vocabulary)
    config.tie_word_embeddings = True
    student, teacher = (Encoder(transformers.AutoModelForCausalLM.from_config(config), "packed") for _ in range(2))
    terms = {"label": WeightedTerm(label_cross_entropy, 0.5), "soft": WeightedTerm(term, 0.5)}
    module = StudentModule(student, terms, OptimizerSettings(lr=1e-3), 1, [Teacher("teacher", teacher)])
    batch = texts([length] * rows, vocabulary)
    with Largest() as largest:
        module.loss(batch, local=True).backward()
    assert largest.found <= 256 * vocabulary  # the logits of a chunk, at most a quarter of all
    assert student.model.get_input_embeddings().weight.grad.abs().sum() > 0  # type: ignore[union-attr]
