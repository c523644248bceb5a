"""Waits of a training step for the device: none with all rows, one where scores choose some of them.

On the CPU a GPU is acted (`tests.support.acted_gpu`), with the numbers of the CPU; on a GPU torch reports its own waits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import transformers
from torch.utils.data import DataLoader

from kdlab.callbacks.adopt import Adopt
from kdlab.callbacks.cost import CostCallback
from kdlab.callbacks.nonfinite import NonFiniteGuard
from kdlab.callbacks.select import Select
from kdlab.callbacks.weigh import Weigh
from kdlab.methods import adoption
from kdlab.methods.knowledge import hidden_states, weighing
from kdlab.methods.knowledge.logits import label_cross_entropy, label_loss, soft_cross_entropy, soft_loss
from kdlab.methods.selection import strategies
from kdlab.methods.selection.arm_selector import ArmSelector
from kdlab.methods.selection.policies import Fixed
from kdlab.methods.selection.row_selector import RowSelector
from kdlab.models.encoder import Encoder
from kdlab.models.student import student_from
from kdlab.modules.lightning_options import PLAIN_TRAINER
from kdlab.modules.objective import WeightedTerm
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.teachers.cache.cache import AnswerCache
from kdlab.teachers.cache.codec import CacheSpec
from kdlab.teachers.cache.memory_store import MemoryStore
from kdlab.teachers.teacher import Teacher
from kdlab.types import Batch
from tests.conftest import tiny_config
from tests.support.acted_gpu import DEVICE, ActedGPU, Read, act, counted
from tests.support.causal import decoder
from tests.unit.callbacks.test_positions import rows as causal_batch
from tests.unit.modules.test_student import batch as text_batch
from tests.unit.modules.test_student_tasks import CLASSES, classifier
from tests.unit.modules.test_student_tasks import batch as task_batch

STEPS = 4
OPTIM = OptimizerSettings(lr=1e-3)
ROW_SPEC = CacheSpec(logits="row")
TEXT_SPEC = CacheSpec(logits="labelled", vocabulary="topk", k=4)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]


def task(execution: str = "packed", spec: CacheSpec | None = None, teachers: int = 1, **more: Any) -> StudentModule:
    terms = {"label": WeightedTerm(label_loss, 0.5), "soft": WeightedTerm(partial(soft_loss, temperature=2.0), 0.5)}
    student = Encoder(classifier("bert", 2, CLASSES, seed=1), execution)
    encoders = [Encoder(classifier("bert", 2 + i, CLASSES, seed=i), execution) for i in range(teachers)]
    return made(student, encoders, terms, len(task_batch()), spec, CLASSES, fixed=True, **more)


def text(execution: str = "packed", spec: CacheSpec | None = None, **more: Any) -> StudentModule:
    terms = {
        "label": WeightedTerm(label_cross_entropy, 0.5),
        "soft": WeightedTerm(soft_cross_entropy, 0.5),
        "cosine": WeightedTerm(hidden_states.cosine, 1.0, "tokens"),
    }
    if spec is not None:
        del terms["cosine"]
    torch.manual_seed(0)
    model = transformers.AutoModelForMaskedLM.from_config(tiny_config("bert"))
    student = Encoder(student_from(model, [0, 2]), execution)
    vocabulary = model.config.vocab_size
    return made(student, [Encoder(model, execution)], terms, len(text_batch()), spec, vocabulary, **more)


def causal(execution: str = "packed", spec: CacheSpec | None = None, **more: Any) -> StudentModule:
    terms = {"label": WeightedTerm(label_cross_entropy, 0.5), "soft": WeightedTerm(soft_cross_entropy, 0.5)}
    teacher, vocabulary = Encoder(decoder(2), execution), decoder(1).config.vocab_size
    return made(Encoder(decoder(1), execution), [teacher], terms, len(causal_batch()), spec, vocabulary, **more)


def made(
    student: Encoder, encoders: list[Encoder], terms: dict[str, WeightedTerm], rows: int, spec: CacheSpec | None,
    outputs: int, fixed: bool = False, **more: Any,
) -> StudentModule:  # fmt: skip
    """A module whose ledger counts everything, with a cache of `spec` if there is one."""
    ledger = Ledger(rows, fixed)
    teachers = [Teacher(f"teacher {i}", encoder, ledger.count_queries) for i, encoder in enumerate(encoders)]
    if spec is not None:
        teachers[-1].cache = AnswerCache(MemoryStore(), spec, outputs, "0123456789abcdef", fixed, ledger, notify=print)
    student.train()
    return StudentModule(student, terms, OPTIM, STEPS, teachers, ledger, **more)


def entropy(**more: Any) -> list[pl.Callback]:
    return [Select(RowSelector({"entropy": strategies.entropy}, Fixed(["entropy"]), 0.5, STEPS, 0), **more)]


def random() -> list[pl.Callback]:
    return [Select(RowSelector({"random": strategies.random}, Fixed(["random"]), 0.5, STEPS, 0))]


def adopting(rule: Any) -> list[pl.Callback]:
    return [Adopt(ArmSelector("adopt", {"by": rule}, Fixed(["by"]), STEPS, 1))]


def weighed() -> list[pl.Callback]:
    rule = partial(weighing.uncertainty, certain=["label"], uncertain=["soft"])
    return [Weigh(ArmSelector("weigh", {"by": rule}, Fixed(["by"]), STEPS, 1))]


BATCHES = {task: task_batch, text: text_batch, causal: causal_batch}
# module and its arguments, callbacks, reads of a step. More than one, or any with all rows: the reason stands beside
CASES: dict[str, tuple[Callable[..., StudentModule], dict[str, Any], Callable[[], list[pl.Callback]], int]] = {
    "task": (task, {}, list, 0),
    "text": (text, {}, list, 0),
    "text by rows": (text, {"reduce": "rows"}, list, 0),
    "causal": (causal, {}, list, 0),
    "causal padded": (causal, {"execution": "padded"}, list, 0),
    "task, answers from a cache": (task, {"spec": ROW_SPEC}, list, 0),
    "text, answers from a cache": (text, {"spec": TEXT_SPEC}, list, 0),
    "causal, answers from a cache": (causal, {"spec": TEXT_SPEC}, list, 0),
    "task, random rows": (task, {}, random, 0),
    "task, entropy": (task, {}, entropy, 1),
    "text, entropy": (text, {}, entropy, 1),
    "causal, entropy": (causal, {}, entropy, 1),
    "task, entropy, labels of all rows": (task, {"labels_on": "all"}, entropy, 1),
    # an answer that the cache lacks is copied to it: logits and their tokens
    "text, entropy, answers from a cache": (text, {"spec": TEXT_SPEC}, entropy, 3),
    "causal, entropy of positions": (causal, {}, partial(entropy, unit="position"), 1),
    "causal, entropy of rows, then of positions": (causal, {}, partial(entropy, unit="both", positions=0.5), 2),
    # an adoption rule decides on the device which rows query a teacher, and its weights are checked
    "two teachers, adoption": (task, {"teachers": 2}, partial(adopting, adoption.hard), 2),
    "two teachers, all": (task, {"teachers": 2}, partial(adopting, adoption.ensemble), 2),
    "weighed by uncertainty": (task, {}, weighed, 0),
    # transformers asks in each padded forward, of student and teacher, whether the mask hides a token
    "task padded": (task, {"execution": "padded"}, list, 2),
    "text padded": (text, {"execution": "padded"}, list, 2),
    "task padded, entropy": (task, {"execution": "padded"}, entropy, 4),
}


def trained(
    module: StudentModule, batch: Callable[[], Batch], callbacks: list[pl.Callback], trainer: Callable[..., pl.Trainer]
) -> StudentModule:
    """The module after some steps with the ledger's and the guard's callbacks."""
    assert module.ledger is not None
    every = [NonFiniteGuard(), CostCallback(module.ledger, STEPS, 0), *callbacks]
    rows: Any = [batch() for _ in range(STEPS)]
    loader: Any = DataLoader(rows, batch_size=None, pin_memory=torch.cuda.is_available())
    torch.manual_seed(0)
    trainer(accelerator="cpu", max_steps=STEPS, callbacks=every, **PLAIN_TRAINER).fit(module, loader)
    return module


@pytest.mark.parametrize("name", CASES)
def test_reads_of_a_step(name):
    make, arguments, callbacks, limit = CASES[name]
    steps: list[list[Read]] = []
    gpu = ActedGPU()
    module = trained(make(**arguments), BATCHES[make], callbacks(), act(pl.Trainer, gpu, steps))
    assert len(steps) == STEPS
    most = max(steps[1:], key=len)  # the first one builds what later ones use
    assert len(most) == limit, "\n".join(counted(most))
    plain = trained(make(**arguments), BATCHES[make], callbacks(), pl.Trainer)
    for own, other in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_reports_no_other_wait(name):
    make, arguments, callbacks, limit = CASES[name]
    found: list[int] = []

    def on_gpu(**options: Any) -> pl.Trainer:
        trainer = pl.Trainer(**{**options, "accelerator": "gpu", "devices": 1})
        loop: Any = trainer.fit_loop.epoch_loop
        advance = loop.advance

        def one(*args: Any) -> None:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("error" if len(found) and limit == 0 else "warn")
                try:
                    advance(*args)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            found.append(sum("synchronizing CUDA operation" in str(one.message) for one in caught))

        loop.advance = one
        return trainer

    trained(make(**arguments), BATCHES[make], callbacks(), on_gpu)
    assert len(found) == STEPS and max(found[1:]) <= limit


class TestTheActedGPU:
    """Each kind of wait is seen, with its line; what waits for nothing is not."""

    @pytest.mark.parametrize(
        ("waits", "operation"),
        [
            (lambda x: x.sum().item(), "_local_scalar_dense"),
            (lambda x: bool((x > 0).all()), "_local_scalar_dense"),
            (lambda x: range(x.sum().long()), "_local_scalar_dense"),
            (lambda x: x.tolist(), "tolist"),
            (lambda x: x.cpu(), "copy to the host"),
            (lambda x: x.to("cpu"), "copy to the host"),
            (lambda x: torch.zeros(3).copy_(x), "copy to the host"),
            (lambda x: x.nonzero(), "nonzero"),
            (lambda x: x[x > 0], "index with a mask"),
            (lambda x: x[torch.tensor([0, 1])], "index of the host"),
            (lambda x: x[[0, 1]], "index of the host"),
            (lambda x: x.long().bincount(), "bincount"),
            (lambda x: x.unique(), "_unique2"),
            (lambda x: torch.equal(x, x), "equal"),
            (lambda x: x.repeat_interleave(x.long().abs() + 1), "repeat_interleave"),
            (lambda x: torch.tensor([1.0, 2.0], device=x.device), "copy to the device"),
            (lambda x: torch.zeros(3).to(x.device), "copy to the device"),
        ],
    )
    def test_a_wait(self, waits, operation):
        with ActedGPU() as gpu:
            x = torch.tensor([1.0, 0.0, 2.0]).to(DEVICE, non_blocking=True)
            assert x.device == DEVICE and x.is_cuda and not gpu.reads
            waits(x)
        assert [read.operation for read in gpu.reads] == [operation] and "test_device_reads.py" in gpu.reads[0].line

    def test_what_waits_for_nothing(self):
        with ActedGPU() as gpu:
            x = torch.arange(3.0).to(DEVICE, non_blocking=True).requires_grad_()
            index = torch.tensor([2, 0]).to(x.device, non_blocking=True)
            y = torch.where(x > 1, x, 0.0)[index] * torch.ones(2, device=x.device) + x.new_zeros(2)
            y[torch.zeros(2, dtype=torch.bool, device=x.device)] = 1.0
            y.sum().backward()
            host = torch.tensor([1.0, 2.0])
            assert host.tolist() == [1.0, 2.0] and host[host > 1].item() == 2.0 and len(x) == 3
            assert gpu.holds(y) and gpu.holds(x.grad) and not gpu.holds(host)  # pyright: ignore
        assert not gpu.reads and x.grad.tolist() == [0.0, 0.0, 1.0]  # pyright: ignore[reportOptionalMemberAccess]

    def test_tensors_of_both_sides_do_not_meet(self):
        with ActedGPU(), pytest.raises(RuntimeError, match="meets one of the device"):
            torch.zeros(3).to(DEVICE, non_blocking=True).add(torch.ones(3))


class TestTheHostsCopy:
    """`Batch.host` of rows on a device: known without a read, and never out of date."""

    def test_rows_that_are_moved_and_taken_are_known(self):
        with ActedGPU() as gpu:
            batch = text_batch().to(DEVICE)
            taken = batch.take(torch.tensor([4, 5])).take(torch.tensor([1]))
            kept = batch.narrowed(batch.host.labelled() & (torch.arange(12) < 2))
            host = [taken.host, kept.host]
            assert not gpu.reads and gpu.holds(taken.input_ids) and not gpu.holds(host[0].input_ids)
            wanted = text_batch().take(torch.tensor([5]))
            assert torch.equal(host[0].input_ids, wanted.input_ids) and torch.equal(host[0].labels, wanted.labels)
            assert torch.equal(host[1].labels, kept.labels.cpu())

    @pytest.mark.parametrize("how", ["another tensor", "in place"])
    def test_a_change_is_read_anew(self, how):
        with ActedGPU() as gpu:
            batch = text_batch().to(DEVICE)
            if how == "in place":
                batch.real[0] = False
            else:
                batch.real = batch.real & torch.tensor(False)
            assert not gpu.reads
            assert batch.host.real.tolist() == ([False] + [True] * 5 if how == "in place" else [False] * 6)
            assert {read.operation for read in gpu.reads} == {"copy to the host"}
            before = len(gpu.reads)
            assert batch.host.real.tolist() and len(gpu.reads) == before

    def test_the_rows_it_came_from_may_change(self):
        with ActedGPU():
            of_host = text_batch()
            batch, wanted = of_host.to(DEVICE), of_host.labels.clone()
            of_host.labels.fill_(0)  # a buffer that is filled again
            assert torch.equal(batch.host.labels, wanted)
            of_host = text_batch()
            batch = of_host.to(DEVICE)
            of_host.labels = torch.zeros_like(of_host.labels)
            assert torch.equal(batch.host.labels, wanted)
            batch.epoch = 3
            assert batch.host.epoch == 3 and of_host.epoch == 0 and replace(batch, epoch=4).host.epoch == 4

    def test_in_inference_mode(self):
        """As in `pl.Trainer.validate`: torch counts no changes of a tensor there."""
        with ActedGPU():
            with torch.inference_mode():
                batch = text_batch().to(DEVICE)
                assert torch.equal(batch.host.labels, text_batch().labels)
                batch.labels.fill_(0)
                assert not batch.host.labels.any() and not batch.take(torch.tensor([0])).host.labels.any()
            assert not batch.host.labels.any()

    def test_on_the_host_it_is_the_batch_itself(self):
        batch = text_batch()
        assert batch.host is batch and batch.copied is None
