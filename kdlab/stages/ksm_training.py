"""Build the rules that weigh the knowledge terms (group `weigh`); train a KSM over episodes first if one is missing.

KSM (Wang et al. 2023), Algorithm 1: the first stage trains the module over episodes, each a whole training of a student
that starts anew; the second distils once with the module frozen. The module is an artifact, so other runs find it, and
`weigh.path=` takes it to other tasks.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from kdlab.callbacks.ksm_phases import KSMPhases, columns
from kdlab.config.spellings import ADDED
from kdlab.errors import UserError, nearest
from kdlab.methods.ksm.module import KSM
from kdlab.methods.marks import function_of, marks_of
from kdlab.methods.selection.policies import Fixed
from kdlab.modules.student import StudentModule
from kdlab.plugins import guards, own_modules
from kdlab.plugins.guards import Guard
from kdlab.runtime.ledger import Ledger
from kdlab.runtime.seeding import stable
from kdlab.stages.base import Stage
from kdlab.stages.components import Selection, build_target
from kdlab.stages.decision_callbacks import adopt_callback, select_callback, weigh_callback
from kdlab.stages.preparation import Saving, fit
from kdlab.stages.teachers import teacher_reading, unit_rules
from kdlab.storage import checkpoints
from kdlab.storage.files import atomic_write_json, read_json
from kdlab.storage.tables import Table
from kdlab.teachers.teacher import Teacher
from kdlab.types import WeighingContext

# (teachers, ledger, rows of the training set, identifier of the training) -> None
AttachCaches = Callable[[Sequence[Teacher], Ledger, int, str], None]

LOG = "ksm.csv"  # in the folder of a trained module: a row per phase
TRAINING = "training.json"  # in the same folder: the reward it learned from


def no_caches(teachers: Sequence[Teacher], ledger: Ledger, rows: int, run: str) -> None:
    """Attach no caches."""


def check(stage: Stage) -> None:
    """UserError for weighing rules that do not suit the terms, teachers or task. Loads configs only, trains nothing."""
    settings = stage.config.weigh
    arms = _arms(stage)
    modules = [name for name, arm in arms.items() if isinstance(arm, KSM)]
    for name, arm in arms.items():
        reads = marks_of(arm).needs
        if "uncertainty" in reads and stage.inputs.regression:
            raise UserError(f"weigh.arms.{name} goes by uncertainty, and this task is regression, which has none")
        if marks_of(arm).summary is not None:
            unit_rules.check(stage, name, arm)
        elif name not in modules:
            _dry_run(stage, name, arm)
    if modules and settings.path is None and settings.episodes == 0:
        raise UserError(
            f"weigh={settings.name}: {modules[0]} learns over episodes; give weigh.episodes= (2, for example), "
            "or weigh.path= of a trained one"
        )
    if not modules and (settings.path is not None or settings.episodes):
        raise UserError(
            f"weigh={settings.name} has nothing that learns: weigh.path and weigh.episodes belong to weigh=ksm"
        )
    if settings.path is not None:
        _loaded(stage, settings.path)
    elif modules and settings.reward not in stage.inputs.score.names:
        known = [name for name in stage.inputs.score.names if name in ("loss", "accuracy", "f1")]
        raise UserError(f"weigh.reward={settings.reward}: this task is scored by {nearest(settings.reward, known)}")
    _policy(stage, arms)


def weighing(
    stage: Stage, batches: int, world: int, attach_caches: AttachCaches = no_caches
) -> tuple[Selection | None, Path | None]:
    """The rules that weigh the terms with the policy that picks one, and the log of a module trained here.

    None without weighing rules; no log where no module was trained. Trains a missing module on one process, with as
    many rows per step as all `world` processes of the run together. `attach_caches`: for the teachers of that training.
    """
    settings = stage.config.weigh
    arms = _arms(stage)
    log = None
    for name, arm in arms.items():
        if isinstance(arm, KSM):
            if settings.path:
                folder = Path(settings.path)
                stage.inputs.prerequisites.record(folder, "KSM, of weigh.path")
            else:
                folder = _trained(stage, name, batches, world, attach_caches)
            arms[name], log = _loaded(stage, folder), folder / LOG
    return (Selection(arms, _policy(stage, arms)) if arms else None), log if log and log.is_file() else None


def untrained(stage: Stage) -> Selection | None:
    """The rules that weigh the terms, a module that learns with its first weights; None without weighing rules."""
    arms = _arms(stage)
    return Selection(arms, _policy(stage, arms)) if arms else None


def needed_fields(stage: Stage) -> frozenset[str]:
    """The parts of WeighingContext that the run's weighing rules need (`kdlab.methods.marks`)."""
    return frozenset().union(*(marks_of(arm).needs for arm in _arms(stage).values()))


def weighs_units(stage: Stage) -> bool:
    """True if a weighing rule of the run weighs single units, which runs both heads once more."""
    return any(marks_of(arm).summary is not None for arm in _arms(stage).values())


def reward_data(stage: Stage) -> str | None:
    """Rows that a weighing module was rewarded on, "heldout" or "dev"; None if unknown or none was trained."""
    settings = stage.config.weigh
    if settings.path is None:
        return settings.reward_data if settings.episodes else None
    record = Path(settings.path) / TRAINING
    return read_json(record).get("reward_data") if record.is_file() else None


def _policy(stage: Stage, arms: dict[str, Any]) -> Any:
    """The policy that picks an arm; None without arms. UserError for one that learns."""
    if not arms:
        return None
    policy = build_target(stage.config.weigh.policy, "weigh.policy", "policy", arms=list(arms))
    if hasattr(policy, "learn"):
        raise UserError(f"weigh.policy: {type(policy).__name__} learns from rewards, and weighing gives arms none")
    return policy


def _widths(stage: Stage) -> tuple[int, list[int]]:
    """Hidden width of the student, and of each teacher."""
    members = stage.teacher_pool.members if stage.inputs.queries_teacher else []
    return stage.inputs.student_shape.width, [member.config.hidden_size for member in members]


def _arms(stage: Stage) -> dict[str, Any]:
    """The instantiated weighing rules by name; UserError for one that cannot be built."""
    arms = {}
    for name, target in stage.config.weigh.arms.items():
        where = f"weigh.arms.{name}"
        arm = build_target(target, where, "weighing")
        if "features" in marks_of(arm).needs and not stage.inputs.queries_teacher:
            raise UserError(
                f"weigh.arms.{name} reads the teachers, and knowledge={stage.config.knowledge.name} queries none"
            )
        if isinstance(function_of(arm), type):
            code, (student, teachers) = function_of(arm), _widths(stage)
            try:
                seed = {"seed": stage.config.seed} | getattr(arm, "keywords", {})
                arm = arm(
                    terms=list(stage.inputs.terms()), student_width=student, teacher_widths=teachers, seed=seed["seed"]
                )
            except Exception as error:
                if own_modules.is_own(code):
                    raise guards.call_error(error, where, code) from error
                if isinstance(error, TypeError):
                    raise UserError(f"{where}: {error}") from error
                raise
            arm = guards.guarded(arm, Guard(where, "weighing"))
        if not callable(arm):
            raise UserError(
                f"weigh.arms.{name} is no weighing rule (a function of a WeighingContext and the terms' names)"
            )
        arms[name] = arm
    return arms


def _dry_run(stage: Stage, name: str, arm: Any) -> None:
    """Evaluate a weighing rule on an example of 3 rows; UserError if it fails or returns a wrong shape."""
    student, teachers = _widths(stage)
    terms = tuple(stage.inputs.terms())
    rows = torch.full((3,), 0.5)
    context = WeighingContext(
        rows, torch.ones(3, student), tuple(torch.ones(3, w) for w in teachers), torch.ones(3, len(teachers))
    )
    try:
        weights = arm(context, terms)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"weigh.arms.{name} is no weighing rule: {str(error).splitlines()[0]}") from error
    shape = tuple(weights.shape) if isinstance(weights, torch.Tensor) else type(weights).__name__
    if shape not in ((len(terms),), (3, len(terms))):
        raise UserError(f"weigh.arms.{name}: of 3 rows and {len(terms)} terms it returned {shape}, not {(len(terms),)}")


def _loaded(stage: Stage, folder: str | Path) -> KSM:
    """The module in a folder; UserError if it does not suit the terms and widths of the run."""
    module = KSM.load(Path(folder))
    module.check(list(stage.inputs.terms()), *_widths(stage))
    return module


def _trained(stage: Stage, name: str, batches: int, world: int, attach_caches: AttachCaches) -> Path:
    """Folder of the trained module: the artifact of the same training, or a new one."""
    config = stage.config
    weigh = asdict(config.weigh)
    parts = {
        "rows": {**stage.inputs.rows_parts, "order": config.data.order},
        "teachers": [{**stage.teacher_pool.weights(m), "classes_known": m.classes} for m in stage.teacher_pool.members],
        "student": stage.student_parts,
        "knowledge": _without_later_keys(asdict(config.knowledge)),
        "select": _without_later_keys(asdict(config.select)),
        "adopt": _without_later_keys({key: value for key, value in asdict(config.adopt).items() if key != "assistant"}),
        "policy": {key: weigh[key] for key in ("episodes", "phase", "reward", "reward_data", "reward_rows")},
        **({} if config.data.teacher_column is None else {"teacher_column": config.data.teacher_column}),
        "arm": weigh["arms"][name],
        "optim": asdict(config.optim),
        "seed": config.seed,
        "batches": batches,
        "accumulate": config.trainer.accumulate,
        "batch_size": config.data.batch_size * world,
        "precision": stage.inputs.precision,
    }
    if config.select.ratio < 1 and config.select.scoring != "fresh":
        parts["scoring"] = "as the run"  # modules made before 2026-11-28 scored all rows afresh in their episodes
    episodes = [_episode_rows(stage, number, world, batches) for number in range(config.weigh.episodes)]
    lengths = [data.sampler().batches for data in episodes]
    if lengths != [batches] * len(episodes) or any(data.excludes_relatives for data in episodes):
        parts["episode_batches"] = lengths  # modules made before 2026-11-29 ignored the rows of the reward here
    return stage.inputs.prerequisites.get(
        "ksm",
        parts,
        lambda out: _train(stage, out, name, episodes, attach_caches),
        "the knowledge selection module, trained over episodes",
        f"KSM, {config.weigh.episodes} episodes",
    )


def _without_later_keys(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` without keys that modules trained before 2026-11-30 had not, where they have their defaults."""
    later = {"phase_lrs": [], "mc_dropout": 0, "teacher": "adopted", "trains": "all", "ratios": None}
    later |= {key.removeprefix("select."): value for key, value in ADDED.items() if key.startswith("select.")}
    kept = {key: value for key, value in settings.items() if key not in later or value != later[key]}
    return {key: _without_later_keys(value) if isinstance(value, dict) else value for key, value in kept.items()}


def _episode_rows(stage: Stage, episode: int, world: int, batches: int) -> Any:
    """The rows of an episode, as many passes or steps as the run has, or as its budget allows (`batches`), without those of the reward; in an order of its own."""
    config, trainer = stage.config, stage.config.trainer
    seed = stable("episode", config.seed, episode) % 2**31
    limit = trainer.max_steps * trainer.accumulate if trainer.max_steps else None
    epochs = trainer.max_epochs
    if config.budget.given:
        limit, epochs = batches, None
    data = stage.inputs.data_module(limit, epochs, seed, config.data.batch_size * world)
    if config.weigh.reward_data == "heldout":
        data.set_aside(config.weigh.reward_rows)
    return data


def _train(stage: Stage, out: Path, name: str, episodes: Sequence[Any], attach_caches: AttachCaches) -> dict[str, Any]:
    """Algorithm 2: reset the student for each episode, with other rows, order and dropout. Returns the cost.

    A training that was killed goes on in the episode of its last checkpoint.
    """
    config, settings = stage.config, stage.config.weigh
    module = _arms(stage)[name]
    module.learning = True
    log: list[dict[str, Any]] = []
    cost: dict[str, Any] = {}
    all_steps = 0
    saving = [_saving(stage, out, episode) for episode in range(len(episodes))]
    first = max((n for n, one in enumerate(saving) if checkpoints.newest_valid(one.folder, one.notify)), default=0)
    rows = len(episodes[0].train)
    ledger = Ledger(rows, stage.inputs.fixed_inputs)
    teachers = stage.teachers(ledger)
    if stage.inputs.fixed_inputs:  # text is masked otherwise in each episode
        attach_caches(teachers, ledger, rows, uuid.uuid4().hex)
    reference = teacher_reading.reference(stage.inputs)
    for episode, data in enumerate(episodes):
        seed = data.seed
        steps = -(-data.sampler().batches // config.trainer.accumulate)
        all_steps += steps
        if episode < first:
            continue
        ledger.begin_training()
        student = stage.student(*teachers)
        student_module = stage.student_module(student, teachers, ledger, steps, seed)
        measure = _measure(stage, student_module, data)
        phases = KSMPhases(module, settings.phase, steps, measure, log, {"episode": episode + 1})
        decisions = (
            select_callback(stage.selection(), config.select, student_module, data, steps, seed, reference=reference),
            adopt_callback(stage.adoption(), steps, seed),
            weigh_callback(Selection({name: module}, Fixed([name])), steps, seed),
        )
        callbacks = [callback for callback in decisions if callback is not None]
        title = f"KSM, episode {episode + 1} of {settings.episodes}"
        cost = fit(
            student_module, data, steps, title, *callbacks, phases,
            accelerator=config.trainer.accelerator, accumulate=config.trainer.accumulate, precision=stage.inputs.precision,
            saving=saving[episode],
        )  # fmt: skip
    module.learning = False
    module.save(out)
    table = Table(out / LOG, ["episode", *columns(module)])
    for row in log:
        table.write(row)
    atomic_write_json(out / TRAINING, {name: getattr(settings, name) for name in ("reward", "reward_data", "episodes")})
    return {**cost, "steps": all_steps, "seconds": ledger.elapsed()}


def _saving(stage: Stage, out: Path, episode: int) -> Saving:
    """The checkpoints of an episode of the module that is made in `out`."""
    whole = stage.inputs.saving(out)
    return replace(whole, folder=whole.folder / f"episode-{episode + 1}")


def _measure(stage: Stage, student_module: StudentModule, data: Any) -> Callable[[], float]:
    """A function that evaluates the student on held-out rows: its loss, or minus its accuracy or F1."""
    settings = stage.config.weigh
    sign = 1.0 if settings.reward == "loss" else -1.0
    heldout: list[Any] = []

    def measure() -> float:
        if not heldout:
            batches = data.aside_batches() if settings.reward_data == "heldout" else data.heldout_splits(final=True)[""]
            heldout.extend(batch.to(student_module.device) for batch in batches)
        with student_module.timed("observation"):
            return sign * student_module.evaluate(heldout, part="observation")[settings.reward]

    return measure
