"""A teacher held in half precision answers as under autocast, in half of the memory; a student never is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.utils.data import DataLoader

from kdlab.methods.knowledge.logits import label_loss, soft_loss
from kdlab.models.attention import capture
from kdlab.models.encoder import Encoder
from kdlab.models.student import student_from
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.stages.preparation import fit
from kdlab.teachers.teacher import Teacher, teacher_dtype
from kdlab.types import Batch
from tests.conftest import tiny_config
from tests.unit.models.test_packing import LARGE, texts

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (".*LeafSpec", ".*does not have many workers", ".*dataloader is not resumable")
]
HALF = "bf16-mixed"
FAMILIES = ["bert", "roberta", "distilbert", "electra", "mpnet", "deberta-v2", "modernbert"]
CAST: Any = LARGE
TEXT, TASK = transformers.AutoModelForMaskedLM, transformers.AutoModelForSequenceClassification


def model(family: str, auto: Any, seed: int = 0) -> transformers.PreTrainedModel:
    torch.manual_seed(seed)
    if family == "deberta-v2":
        config = transformers.DebertaV2Config(**CAST, relative_attention=True, pos_att_type=["p2c", "c2p"])
    elif family == "modernbert":
        ids: Any = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
        config = transformers.ModernBertConfig(**CAST, **ids, local_attention=8)
    else:
        config = transformers.MPNetConfig(**CAST) if family == "mpnet" else tiny_config(family)
    config.num_labels = 3
    config.initializer_range = 0.2
    return auto.from_config(config)


def teacher(family: str, auto: Any, execution: str = "padded", seed: int = 0) -> Teacher:
    return Teacher("t", Encoder(model(family, auto, seed), execution))


def said(who: Teacher, batch: Batch, wants: frozenset[str] = frozenset()) -> dict[str, Tensor]:
    """A teacher's outputs at real tokens, and its logits at each row's second token (a classifier's: of each row)."""
    shown = who.query(batch, needed=wants)
    row = torch.arange(len(batch))
    found = {"logits": who.project(who.encoder.vectors(shown, row, torch.zeros_like(row) + 1)), "hidden": shown.hidden}
    for name in wants:
        found |= {f"{name} {i}": layer for i, layer in enumerate(getattr(shown, name))}
    real = batch.attention_mask.bool()
    pairs = (real.unsqueeze(1) & real.unsqueeze(2)).unsqueeze(1)
    cut: dict[str, Callable[[Tensor], Tensor]] = {
        "logits": lambda x: x,
        "scores": lambda x: x.masked_fill(~pairs, 0),
        "values": lambda x: x * real[:, None, :, None],
    }
    return {name: cut.get(name.split()[0], lambda x: x * real.unsqueeze(-1))(x) for name, x in found.items()}


def assert_near(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Of one type, and within 2^-5 of its size: some roundings to bfloat16 (2^-9 each) in each of 2 to 4 layers."""
    assert mine.keys() == theirs.keys()
    for name, one in mine.items():
        assert one.dtype == theirs[name].dtype, name
        size = theirs[name].float().std()
        error = (one.float() - theirs[name].float()).square().mean().sqrt()
        assert error <= 2**-5 * size, f"{name}: {error / size}"


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def bytes_of(who: Teacher) -> int:
    return sum(p.numel() * p.element_size() for p in who.encoder.parameters())


@pytest.mark.parametrize("auto", [TEXT, TASK], ids=["text", "task"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_held_teacher_answers_as_under_autocast_in_half_of_the_memory(family, auto):
    batch, wants = texts([12, 4, 11, 9], segments=True), frozenset({"states"})
    plain, held = teacher(family, auto), teacher(family, auto).hold(HALF)
    with autocast():
        expected, found = said(plain, batch, wants), said(held, batch, wants)
    assert_near(found, expected)
    alone = said(held, batch, wants)  # where nobody has opened autocast
    assert all(torch.equal(alone[name], found[name]) for name in found)
    assert bytes_of(held) < 0.53 * bytes_of(plain)


@pytest.mark.parametrize("auto", [TEXT, TASK], ids=["text", "task"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_held_teacher_is_as_near_to_float32_as_autocast_is(family, auto):
    """Over several models: of one, a dozen logits would decide, and CPUs without bfloat16 units round elsewhere."""
    batch, errors = texts([12, 4, 11, 9], segments=True), torch.zeros(2, 2)
    for seed in range(8):
        plain, held = teacher(family, auto, seed=seed), teacher(family, auto, seed=seed).hold(HALF)
        exact = said(plain, batch)
        with autocast():
            half = said(held, batch), said(plain, batch)
        for i, name in enumerate(("hidden", "logits")):
            errors[i] += torch.stack([(one[name].float() - exact[name]).square().mean() for one in half])
    assert (errors[:, 0] <= 1.5**2 * errors[:, 1]).all(), (errors[:, 0] / errors[:, 1]).sqrt()


@pytest.mark.parametrize("execution", ["packed", "bucketed"])
@pytest.mark.parametrize("family", ["bert", "electra", "deberta-v2"])
def test_in_every_execution(family, execution):
    batch = texts([12, 4, 11, 9, 3])
    plain, held = teacher(family, TASK, execution), teacher(family, TASK, execution).hold(HALF)
    with autocast():
        assert_near(said(held, batch), said(plain, batch))
    assert held.encoder.weight_dtype == torch.bfloat16 and plain.encoder.weight_dtype is None


def test_attention_is_read_as_under_autocast():
    batch, wants = texts([12, 4, 11, 9]), frozenset({"scores", "values"})
    plain, held = teacher("bert", TASK, "packed"), teacher("bert", TASK, "packed").hold(HALF)
    for who in (plain, held):
        capture.prepare(who.encoder.model)
    with autocast():
        assert_near(said(held, batch, wants), said(plain, batch, wants))
    assert held.encoder.weight_dtype == torch.bfloat16 and plain.encoder.weight_dtype is None


@pytest.mark.parametrize("family", FAMILIES)
def test_what_autocast_does_not_round_stays_float32(family):
    """Norms' numbers, and the sums between layers."""
    held = teacher(family, TEXT).hold(HALF).encoder
    norms = [p for m in held.modules() if isinstance(m, torch.nn.LayerNorm) for p in m.parameters()]
    assert norms and all(p.dtype == torch.float32 for p in norms)
    large = [p for p in held.parameters() if p.ndim == 2]
    assert large and all(p.dtype == torch.bfloat16 for p in large)
    with autocast():
        expected = teacher(family, TEXT).encoder.encode(texts([5, 3])).hidden.dtype
    assert held.encode(texts([5, 3])).hidden.dtype == expected
    assert expected == torch.float32 or family == "electra"  # where a linear layer widens the embeddings
    tied = held.model.get_output_embeddings()
    assert tied is None or tied.weight is held.model.get_input_embeddings().weight  # one matrix as before


def test_which_precisions_hold():
    assert teacher_dtype("bf16-mixed") == torch.bfloat16
    assert teacher_dtype("16-mixed") is teacher_dtype("32-true") is None
    one = teacher("bert", TASK).hold("32-true").hold("16-mixed")
    assert all(p.dtype == torch.float32 for p in one.encoder.parameters()) and one.encoder.weight_dtype is None


class Rows:
    """Two batches to train on, of four rows each."""

    def train_dataloader(self) -> Any:
        found = []
        for start in (0, 4):
            one = texts([12, 4, 11, 9])
            one.rows = one.rows + start
            one.labels = one.rows % 3
            found.append(one)
        return DataLoader(found, batch_size=None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.filterwarnings("ignore:GPU available but not used")
def test_a_training_holds_its_teacher_and_never_what_it_trains(precision):
    student = Encoder(student_from(model("bert", TASK), [0, 1]).train())
    who, ledger = teacher("bert", TASK), Ledger(8, True)
    terms = {"label": WeightedTerm(label_loss, 0.5), "soft": WeightedTerm(soft_loss, 0.5)}
    module = StudentModule(student, terms, OptimizerSettings(lr=1e-3), 2, [who], ledger)
    before = [p.clone() for p in student.parameters()]
    fit(module, Rows(), 2, "test", accelerator="cpu", precision=precision)
    assert who.encoder.weight_dtype == (torch.bfloat16 if precision == HALF else None)
    assert {p.dtype for p in student.parameters()} == {torch.float32} and student.weight_dtype is None
    moved = [float((p.detach() - q.detach()).abs().max()) for p, q in zip(student.parameters(), before, strict=True)]
    assert max(moved) > 0
    assert {x.dtype for x in module.state_dict().values() if x.is_floating_point()} == {torch.float32}


def test_what_is_trained_is_not_cast():
    with pytest.raises(ValueError, match="trained"):
        Encoder(model("bert", TASK)).cast_weights(torch.bfloat16)
