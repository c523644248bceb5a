"""Build the rules that weigh the knowledge terms (group `weigh`); train a KSM over episodes first if one is missing.

KSM (Wang et al. 2023), Algorithm 1: the first stage trains the module over episodes, each a whole training of a student
that starts anew; the second distils once with the module frozen. The module is an artifact, so other runs find it, and
`weigh.path=` takes it to other tasks.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdlab.callbacks.ksm_phases import KSMPhases, columns
from kdlab.errors import UserError, nearest
from kdlab.methods.ksm.module import KSM
from kdlab.methods.marks import function_of, marks_of
from kdlab.methods.selection.policies import Fixed
from kdlab.modules.student import StudentModule
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.seeding import stable
from kdlab.stages.base import Stage
from kdlab.stages.components import Selection, made
from kdlab.stages.decision_callbacks import adopt_callback, select_callback, weigh_callback
from kdlab.stages.preparation import fit
from kdlab.storage.files import atomic_write_json, read_json
from kdlab.storage.tables import Table
from kdlab.teachers.teacher import Teacher
from kdlab.types import WeighingContext

Remember = Callable[
    [Sequence[Teacher], Ledger, int, str], None
]  # of so many training rows, for a training of that name

LOG = "ksm.csv"  # in a trained module's folder: a row for each phase
TRAINING = "training.json"  # and how it was rewarded


def forget(teachers: Sequence[Teacher], ledger: Ledger, rows: int, run: str) -> None:
    """Teachers that remember nothing."""


def check(stage: Stage) -> None:
    """UserError for weighing that the terms, teachers or task cannot bear. Reads little, makes nothing."""
    given = stage.config.weigh
    arms = _arms(stage)
    modules = [name for name, arm in arms.items() if isinstance(arm, KSM)]
    for name, arm in arms.items():
        reads = marks_of(arm).needs
        if "uncertainty" in reads and stage.inputs.regression:
            raise UserError(f"weigh.arms.{name} goes by uncertainty, and this task is regression, which has none")
        if name not in modules:
            _rehearse(stage, name, arm)
    if modules and given.path is None and given.episodes == 0:
        raise UserError(
            f"weigh={given.name}: {modules[0]} learns over episodes; give weigh.episodes= (2, for example), or weigh.path= of a trained one"
        )
    if not modules and (given.path is not None or given.episodes):
        raise UserError(
            f"weigh={given.name} has nothing that learns: weigh.path and weigh.episodes belong to weigh=ksm"
        )
    if given.path is not None:
        _loaded(stage, given.path)
    elif modules and given.reward not in stage.inputs.score.names:
        known = [name for name in stage.inputs.score.names if name in ("loss", "accuracy", "f1")]
        raise UserError(f"weigh.reward={given.reward}: this task is scored by {nearest(given.reward, known)}")
    _policy(stage, arms)


def weighing(
    stage: Stage, batches: int, world: int, remember: Remember = forget
) -> tuple[Selection | None, Path | None]:
    """The rules that weigh the terms and the policy that picks one, and the log of a trained module's learning.

    None where the terms keep their weights; where no module was trained here. Trains a module that is missing: on one process, with as many rows a step as all `world` of the run have together.
    `remember` gives its teachers their caches.
    """
    given = stage.config.weigh
    arms = _arms(stage)
    log = None
    for name, arm in arms.items():
        if isinstance(arm, KSM):
            folder = Path(given.path) if given.path else _trained(stage, name, batches, world, remember)
            arms[name], log = _loaded(stage, folder), folder / LOG
    return (Selection(arms, _policy(stage, arms)) if arms else None), log if log and log.is_file() else None


def looks(stage: Stage) -> frozenset[str]:
    """The parts of WeighingContext that the run's weighing rules need (`kdlab.methods.marks`)."""
    return frozenset().union(*(marks_of(arm).needs for arm in _arms(stage).values()))


def reward_data(stage: Stage) -> str | None:
    """What a module that weighs was rewarded on, "heldout" or "dev"; None where nothing learnt, or nobody wrote it down."""
    given = stage.config.weigh
    if given.path is None:
        return given.reward_data if given.episodes else None
    told = Path(given.path) / TRAINING
    return read_json(told).get("reward_data") if told.is_file() else None


def _policy(stage: Stage, arms: dict[str, Any]) -> Any:
    if not arms:
        return None
    policy = made(stage.config.weigh.policy, "weigh.policy", arms=list(arms))
    if hasattr(policy, "learn"):
        raise UserError(f"weigh.policy: {type(policy).__name__} learns from rewards, and weighing gives arms none")
    return policy


def _widths(stage: Stage) -> tuple[int, list[int]]:
    members = stage.teacher_pool.members if stage.inputs.queries_teacher else []
    return stage.inputs.student_shape.width, [member.config.hidden_size for member in members]


def _arms(stage: Stage) -> dict[str, Any]:
    arms = {}
    for name, target in stage.config.weigh.arms.items():
        arm = made(target, f"weigh.arms.{name}")
        if "features" in marks_of(arm).needs and not stage.inputs.queries_teacher:
            raise UserError(
                f"weigh.arms.{name} looks at teachers, and knowledge={stage.config.knowledge.name} asks none"
            )
        if isinstance(function_of(arm), type):
            student, teachers = _widths(stage)
            try:
                arm = arm(
                    terms=list(stage.inputs.terms()),
                    student_width=student,
                    teacher_widths=teachers,
                    seed=stage.config.seed,
                )
            except TypeError as error:
                raise UserError(f"weigh.arms.{name}: {error}") from error
        if not callable(arm):
            raise UserError(f"weigh.arms.{name} is no weighing rule (a function of a Situation and the terms' names)")
        arms[name] = arm
    return arms


def _rehearse(stage: Stage, name: str, arm: Any) -> None:
    student, teachers = _widths(stage)
    terms = tuple(stage.inputs.terms())
    rows = torch.full((3,), 0.5)
    seen = WeighingContext(
        rows, torch.ones(3, student), tuple(torch.ones(3, w) for w in teachers), torch.ones(3, len(teachers))
    )
    try:
        found = arm(seen, terms)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"weigh.arms.{name} is no weighing rule: {str(error).splitlines()[0]}") from error
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    if shape not in ((len(terms),), (3, len(terms))):
        raise UserError(f"weigh.arms.{name}: of 3 rows and {len(terms)} terms it made {shape}, not {(len(terms),)}")


def _loaded(stage: Stage, folder: str | Path) -> KSM:
    module = KSM.load(Path(folder))
    module.check(list(stage.inputs.terms()), *_widths(stage))
    return module


def _trained(stage: Stage, name: str, batches: int, world: int, remember: Remember) -> Path:
    """The folder of the module, trained if the artifact store has none that was trained in the same way."""
    config = stage.config
    given = asdict(config.weigh)
    parts = {
        "rows": {**stage.inputs.rows_parts, "order": config.data.order},
        "teachers": [{**stage.teacher_pool.weights(m), "classes_known": m.classes} for m in stage.teacher_pool.members],
        "student": stage.student_parts,
        "knowledge": asdict(config.knowledge),
        "select": asdict(config.select),
        "adopt": {key: value for key, value in asdict(config.adopt).items() if key != "assistant"},
        "policy": {key: given[key] for key in ("episodes", "phase", "reward", "reward_data", "reward_rows")},
        "arm": given["arms"][name],
        "optim": asdict(config.optim),
        "seed": config.seed,
        "batches": batches,
        "accumulate": config.trainer.accumulate,
        "batch_size": config.data.batch_size * world,
        "precision": stage.inputs.precision,
    }
    if config.select.ratio < 1 and config.select.scoring != "fresh":
        parts["scoring"] = "as the run"  # modules made before 2026-11-28 scored all rows afresh in their episodes
    return stage.inputs.prerequisites.get(
        "ksm",
        parts,
        lambda out: _train(stage, out, name, batches, world, remember),
        "the knowledge selection module, trained over episodes",
        f"KSM, {config.weigh.episodes} episodes",
    )


def _train(stage: Stage, out: Path, name: str, batches: int, world: int, remember: Remember) -> dict[str, Any]:
    """Algorithm 2: the student is reset for each episode; rows, order and dropout are other ones each time."""
    config, given = stage.config, stage.config.weigh
    steps = -(-batches // config.trainer.accumulate)
    module = _arms(stage)[name]
    module.learning = True
    table = Table(out / LOG, ["episode", *columns(module)])
    cost: dict[str, Any] = {}
    seconds = 0.0
    ledger, teachers = None, []
    for episode in range(given.episodes):
        seed = stable("episode", config.seed, episode) % 2**31
        data = stage.inputs.data_module(batches, None, seed, config.data.batch_size * world)
        if given.reward_data == "heldout":
            data.set_aside(given.reward_rows)
        if ledger is None:
            ledger = Ledger(len(data.train), stage.inputs.fixed_inputs)
            teachers = stage.teachers(ledger)
            if stage.inputs.fixed_inputs:  # text is masked otherwise in each episode
                remember(teachers, ledger, len(data.train), uuid.uuid4().hex)
        student = stage.student(*teachers)
        student_module = stage.student_module(student, teachers, ledger, steps, seed)
        write = partial(_write, table, episode + 1)
        phases = KSMPhases(module, given.phase, steps, _measure(stage, student_module, data), write)
        decisions = (
            select_callback(stage.selection(), config.select, student_module, data, steps, seed),
            adopt_callback(stage.adoption(), steps, seed),
            weigh_callback(Selection({name: module}, Fixed([name])), steps, seed),
        )
        callbacks = [callback for callback in decisions if callback is not None]
        what = f"KSM, episode {episode + 1} of {given.episodes}"
        cost = fit(
            student_module, data, steps, what, *callbacks, phases,
            accelerator=config.trainer.accelerator, accumulate=config.trainer.accumulate, precision=stage.inputs.precision,
        )  # fmt: skip
        seconds += cost["seconds"]
    module.learning = False
    module.save(out)
    atomic_write_json(out / TRAINING, {name: getattr(given, name) for name in ("reward", "reward_data", "episodes")})
    return {**cost, "steps": steps * given.episodes, "seconds": seconds}


def _write(table: Table, episode: int, row: dict[str, Any]) -> None:
    table.write({"episode": episode, **row})


def _measure(stage: Stage, student_module: StudentModule, data: Any) -> Callable[[], float]:
    """A function that evaluates the student on rows it is not trained on: its loss, or minus its accuracy or F1."""
    given = stage.config.weigh
    sign = 1.0 if given.reward == "loss" else -1.0
    held: list[Any] = []

    def measure() -> float:
        if not held:
            batches = data.aside_batches() if given.reward_data == "heldout" else data.heldout_splits(final=True)[""]
            held.extend(batch.to(student_module.device) for batch in batches)
        with student_module.timed("observation"):
            return sign * student_module.evaluate(held, part="observation")[given.reward]

    return measure
