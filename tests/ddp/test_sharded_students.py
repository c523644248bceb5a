"""A student divided over two ranks (gloo): what each stores, and runs with trainer.shard_student=true against trainer=ddp."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertIntermediate

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.models.encoder import Encoder
from kdlab.models.sharding.trained import (
    HOOKS,
    clip_shards,
    gather,
    in_step,
    is_sharded,
    own_part,
    shard_student,
    whole_on_first,
)
from kdlab.stages import student_sharding
from kdlab.stages.registry import stage_of
from kdlab.storage import checkpoints
from kdlab.testing.tiny import write_decoder
from tests.ddp.test_sharding import LENGTHS, batch, held, model
from tests.ddp.test_two_ranks import TWO, compare
from tests.ddp.test_two_ranks_tasks import ADAM
from tests.ddp.test_two_ranks_teaching import SMALL
from tests.support.ranks import results_of_two
from tests.support.runs import KillAt, call, outcome, tiny_causal, tiny_task
from tests.unit.models.test_causal import decoder, texts

FAMILIES = {"bert": "packed", "distilbert": "padded", "gemma3_text": "packed"}  # of gemma the embeddings are the head
SHARDED = "trainer.shard_student=true"


def student_of(family: str) -> Encoder:
    return Encoder(decoder(family) if family == "gemma3_text" else model(family), FAMILIES[family])


def rows_of(family: str, rank: int) -> Any:
    return texts([5, 9, 2][rank:]) if family == "gemma3_text" else batch(LENGTHS[rank])


def loss_of(student: Encoder, projection: nn.Module, rows: Any) -> Tensor:
    outputs = student.encode(rows)
    every = torch.arange(len(rows))
    assert outputs.hidden is not None
    logits = student.project(student.vectors(outputs, every, every * 0))
    return logits.square().mean() + projection(outputs.hidden[:, 0]).square().mean()


def trained(student: Encoder, projections: nn.ModuleDict) -> list[nn.Parameter]:
    return [p for p in (*student.parameters(), *projections.parameters()) if p.requires_grad]


def projection_of(student: Encoder) -> nn.ModuleDict:
    torch.manual_seed(1)
    return nn.ModuleDict({"states": nn.Linear(student.model.config.hidden_size, 5)})


def alone(family: str) -> tuple[Encoder, nn.ModuleDict, Tensor]:
    """A step of one process on the rows of both ranks: the student, its projection, the norm of the gradient."""
    student = student_of(family)
    projections = projection_of(student)
    parameters = trained(student, projections)
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, eps=1e-3, fused=True)
    for rank in range(2):
        (loss_of(student, projections["states"], rows_of(family, rank)) / 2).backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    optimizer.step()
    return student, projections, norm


def stored(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the parameters of an optimizer, and of their moments, that this rank stores."""
    parts = [p for group in optimizer.param_groups for p in group["params"]]
    parts += [x for values in optimizer.state.values() for name, x in values.items() if name != "step"]
    return sum(own_part(part).nbytes for part in parts)


def on_rank(rank: int, family: str) -> dict[str, Any]:
    """The step of `alone` by one of two ranks, and what this rank finds of it."""
    student = student_of(family)
    projections = projection_of(student)
    keys = list(student.state_dict())
    if rank == 1:
        for p in student.parameters():
            p.data.add_(1.0)  # the values of rank 0 count
    shard_student(student, projections, torch.device("cpu"))
    parameters = trained(student, projections)
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, eps=1e-3, fused=True)
    with torch.no_grad():  # one rank has two batches to score, the other none
        scored = [student.encode(rows).hidden for rows in in_step(student, [rows_of(family, 0)] * 2 * rank)]
    loss_of(student, projections["states"], rows_of(family, rank)).backward()
    found = {
        "norm": clip_shards([p.grad for p in parameters if p.grad is not None], 0.5),
        "scored": len(scored),
    }
    before = [own_part(p.detach()).clone() for p in parameters]
    optimizer.found_inf = torch.ones(())  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()  # a step that is not finite somewhere
    found["skipped"] = all(map(torch.equal, before, [own_part(p.detach()) for p in parameters]))
    optimizer.found_inf = torch.zeros(())  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()
    found |= {"stored": stored(optimizer), "held": held(student)}
    whole = whole_on_first(optimizer.state_dict()["state"])
    if rank == 0:
        numbered = [p for group in optimizer.param_groups for p in group["params"]]
        assert all(whole[i]["exp_avg"].shape == p.shape for i, p in enumerate(numbered))
    else:
        assert whole[0]["exp_avg"] is None
    found["state"] = whole_on_first(student.state_dict(keep_vars=True))
    gather(nn.ModuleList([student, projections]))
    assert not is_sharded(student) and list(student.state_dict()) == keys
    found |= {"weights": student.state_dict(), "projection": projections.state_dict()}
    kinds = {type(module).__name__ for module in student.modules()}
    hooks = [h for m in student.modules() for kind in HOOKS for h in getattr(m, kind).values()]
    found |= {"plain": not any(kind.startswith("FSDP") for kind in kinds), "hooks": len(hooks)}
    found["again"] = float(loss_of(student, projections["states"], rows_of(family, 0)).detach()) if rank == 0 else 0.0
    return found


def on_each(rank: int) -> dict[str, Any]:
    return {family: on_rank(rank, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> list[dict[str, Any]]:
    return results_of_two(on_each, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_that_of_one_process(family, both):
    student, projections, norm = alone(family)
    for found in (each[family] for each in both):
        assert float(found["norm"]) == pytest.approx(float(norm), rel=1e-5) and float(norm) > 0.5
        assert found["skipped"]  # by all ranks, as in one process
        for name, wanted in student.state_dict().items():
            torch.testing.assert_close(found["weights"][name], wanted, atol=2e-5, rtol=0, msg=name)
        for name, wanted in projections.state_dict().items():
            torch.testing.assert_close(found["projection"][name], wanted, atol=2e-5, rtol=0, msg=name)
    again = loss_of(student, projections["states"], rows_of(family, 0))  # the gathered student runs by itself
    assert both[0][family]["again"] == pytest.approx(float(again.detach()), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_rank_stores_half_of_weights_and_moments(family, both):
    student = student_of(family)
    whole = sum(p.nbytes for p in student.parameters())
    numbers = 3 * (whole + sum(p.nbytes for p in projection_of(student).parameters()))
    parts = [each[family]["stored"] for each in both]
    assert sum(parts) == numbers
    assert parts[0] / numbers == pytest.approx(0.5, abs=0.02)  # rows of odd matrices fall to one rank
    assert sum(4 * each[family]["held"] for each in both) == whole  # nothing stays gathered after a step


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_whole_in_checkpoints_and_plain_at_the_end(family, both):
    first, second = (each[family] for each in both)
    assert first["scored"] == 0 and second["scored"] == 2
    assert all(torch.equal(first["state"][name], x) for name, x in first["weights"].items())
    assert all(second["state"][name] is None for name, _ in student_of(family).named_parameters())
    assert first["plain"] and second["plain"] and first["hooks"] == second["hooks"] == 0
    tied = {x.data_ptr() for x in first["state"].values()}
    assert len(tied) == len({x.data_ptr() for x in student_of(family).state_dict().values()})


def same_checkpoints(folder: Path) -> None:
    """The newest checkpoints of two/ and ddp/ have the same content, but for the last bits."""
    ours, theirs = (
        checkpoints.load(sorted((folder / name / "checkpoints").glob("*.ckpt"))[-1]) for name in ("two", "ddp")
    )
    assert list(ours["state_dict"]) == list(theirs["state_dict"])
    for name, wanted in theirs["state_dict"].items():
        np.testing.assert_allclose(ours["state_dict"][name], wanted, atol=2e-4, err_msg=name)
    (one,), (other,) = ours["optimizer_states"], theirs["optimizer_states"]
    assert one["param_groups"] == other["param_groups"] and one["state"].keys() == other["state"].keys()
    for number, values in other["state"].items():
        for name, wanted in values.items():
            np.testing.assert_allclose(one["state"][number][name], wanted, atol=2e-4, err_msg=name)


def check_each_way(common: list[str], folder: Path) -> list[str]:
    """The same run as one/ by one process, as ddp/ and two/ by two ranks; compared. The command of the ranks."""
    ranks = [*(o for o in common if not o.startswith("data.batch_size")), *TWO]
    for name, given, count in (("one", common, 1), ("ddp", ranks, 2), ("two", [*ranks, SHARDED], 2)):
        done = call([*given, f"hydra.run.dir={name}"], folder, ranks=count)
        assert done.code == 0, done.output
    compare(folder)
    same_checkpoints(folder)
    return ranks


SHORT = ["trainer.accelerator=cpu", "trainer.max_steps=5", "trainer.evaluate_every=2", "select=entropy", ADAM]


def test_a_classifier_is_that_of_ddp_and_of_one_process(tmp_path, teacher_folder, task_folder):
    """Of 60 rows of dev in batches of 8 one rank scores one batch more; a step on all rows is timed too."""
    more = ["trainer.probes=1", "trainer.accumulate=2", "data.heldout_rows=null"]
    check_each_way(tiny_task(teacher_folder, task_folder, *SHORT, *more), tmp_path)


def test_a_decoder_is_that_of_ddp_and_goes_on_where_it_was_killed(tmp_path, text_folder):
    """Of few positions of a batch one rank has none at some steps. A killed run goes on bit for bit, and as ddp within rounding."""
    teacher = write_decoder(tmp_path / "teacher")
    few = ["select.unit=position", "select.ratio=0.01", "select.per_row=false", "trainer.probes=0"]
    ranks = check_each_way(tiny_causal(teacher, text_folder, *SHORT, *few), tmp_path)
    killed = [*ranks, SHARDED, "hydra.run.dir=killed"]
    assert call(killed, tmp_path, KillAt(4, "start"), ranks=2).code == -9
    shutil.copytree(tmp_path / "killed", tmp_path / "crossed")
    config = tmp_path / "crossed" / "config.yaml"
    config.write_text(config.read_text().replace("shard_student: true", "shard_student: false"))
    for name, given in (("killed", killed), ("crossed", [*ranks, "hydra.run.dir=crossed"])):
        again = call(given, tmp_path, ranks=2)
        assert again.code == 0 and "resuming the unfinished run" in again.output, again.output
        if name == "killed":
            whole, found = outcome(tmp_path / "two"), outcome(tmp_path / name)
            assert all(found[part] == whole[part] for part in whole), [p for p in whole if found[p] != whole[p]]
    shutil.rmtree(tmp_path / "two")
    shutil.move(tmp_path / "crossed", tmp_path / "two")
    compare(tmp_path)


class MemoryIsFull:
    """An error within a layer of the student, in the training forward of the third step: its weights are whole then."""

    def __call__(self) -> None:
        forward, calls = BertIntermediate.forward, itertools.count()

        def failing(layer: BertIntermediate, states: Tensor) -> Tensor:
            if layer.training and next(calls) == 2 * 2:  # the student has two layers
                raise torch.OutOfMemoryError("memory is full")
            return forward(layer, states)

        BertIntermediate.forward = failing  # pyright: ignore[reportAttributeAccessIssue]


def test_a_failure_within_a_step_is_told_by_its_name(tmp_path, teacher_folder, task_folder):
    """Lightning moves the module to the CPU after it, which FSDP2 cannot do with weights that are whole."""
    given = tiny_task(teacher_folder, task_folder, *SHORT, *TWO, SHARDED, "select=all", "hydra.run.dir=run")
    done = call(given, tmp_path, MemoryIsFull(), ranks=2, grace=5)
    # -9: the other rank did not see that its peer is gone, and was ended as torchrun and trainer.devices=2 end it
    assert done.code in (1, -9) and "OutOfMemoryError: memory is full" in done.output, done.output
    assert "AttributeError" not in done.output, done.output


REFUSED = {
    "one process": (["trainer.devices=1"], "trainer.shard_student=true: .* trainer.devices=1: give 2 or more"),
    "old scores": (["select.scoring=stale"], "select.scoring=stale: .*; select.scoring=fresh select.look=0.3"),
    "first layers": (["select.scoring=early_exit"], "select.scoring=early_exit: .* whole student; select.scoring=fresh"),
    "each rank's own": (["select.scope=local"], "select.scope=local: .*; select.scope=global"),
    "probes": (["select=adads", "select.probe_every=2"], "select.probe_every or select.reward=probe: .* whole student"),
    "traces": (["trainer.trace_every=2"], "trainer.trace_every=2: .*; trainer.trace_every=null"),
    "buckets": (["exec=bucketed"], "exec=bucketed: .* buckets .*; exec=packed or exec=padded"),
    "adapters": (["student.lora.rank=4"], "student.lora.rank=4: adapters"),
    "float16": (["trainer.precision=16-mixed"], "trainer.precision=16-mixed: .*; trainer.precision=bf16-mixed or 32-true"),
    "a module to train": (["weigh=ksm", "knowledge=ksm", "weigh.episodes=2"], "weigh.episodes=2: .* weigh.path="),
    "projections to several teachers": (
        [SMALL, "adopt=hard", "knowledge=minilm", "student.hidden=16"], "with 2 teachers: knowledge.terms.* or one teacher"
    ),
    "joint projections": ([SMALL, "adopt=every", "knowledge=cfl"], "with 2 teachers: knowledge.terms.common"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused(case, teacher_folder, task_folder):
    given, told = REFUSED[case]
    overrides = tiny_task(teacher_folder, task_folder, "select=entropy", *TWO, SHARDED, *given)
    with pytest.raises(UserError, match=told) as error:
        student_sharding.check(stage_of(checked(composition(overrides)[0]), lambda line: None))
    assert "\n" not in str(error.value)


def test_a_family_that_runs_in_buckets_is_refused_before_anything_is_written(tmp_path, text_folder):
    teacher = write_decoder(tmp_path / "teacher", "opt")
    given = tiny_causal(teacher, text_folder, *SHORT, *TWO, SHARDED, "hydra.run.dir=run")
    done = call(given, tmp_path)
    assert (
        done.code == 2 and "exec=packed: opt models cannot run packed" in done.output and "exec=padded" in done.output
    )
    assert not (tmp_path / "run").exists() and not (tmp_path / "artifacts").exists()


def test_the_choices_compose():
    for name, teacher in (("fsdp_student", False), ("fsdp", True)):
        trainer = checked(composition(["+exp=adads_finetune", f"trainer={name}"])[0]).trainer
        assert trainer.shard_student and trainer.devices == 2 and trainer.shard_teacher == teacher
