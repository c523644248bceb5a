"""Settings that a run used: its configuration without keys that had no effect, and with what was read in their place.

Runs are of one group if these are equal. `data.path=X` beside an unused `data.source`, a teacher by another path to the same
weights, and a setting at its default or left out are equal; the fingerprint of the rows tells data apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from typing import Any, get_origin, get_type_hints

from kdlab.config.field_types import group_in
from kdlab.config.schema import Config
from kdlab.runs.finished import inside
from kdlab.runs.folders import IRRELEVANT_KEYS

Facts = dict[str, Any]

# what was read, and the settings that name it: the former decides, the latter are shown
ROWS, TEACHERS, STUDENT = "data.fingerprint", "teachers.weights", "student.weights"
NAMED_BY = {
    ROWS: ("data.path", "data.source", "data.columns", "data.label_column", "data.regression", "data.document", "data.teacher_column",
           "data.text_column", "data.group"),
    TEACHERS: ("teachers.path", "teachers.name", "teachers.revision"),
    STUDENT: ("student.path", "student.revision"),
}  # fmt: skip
# settings without influence on what a run learns
NEUTRAL = (
    "name", "seed", "artifacts", "no_kd_baseline", "scale", "exec", *IRRELEVANT_KEYS, "trainer.evaluate_every", "trainer.log_every", "budget.price_per_query", "budget.price_per_hour",
    "trainer.checkpoint_every", "trainer.probes", "trainer.measure_speed", "trainer.threads", "trainer.accelerator", "trainer.trace_every",
    "trainer.trace_rows", "trainer.on_nonfinite", "trainer.nonfinite_limit", "data.workers", "teachers.cache", "teachers.cache_fill",
    "student.gradient_checkpointing", "teachers.cache_limit", "teachers.cache_over", "teachers.cache_trouble", "teachers.sanity", "suite",
)  # fmt: skip
_OTHERS_STAGE = {
    "causal": ("task", "columns", "label_column", "regression", "train_rows", "augment", "max_unknown", "masking", "mask_probability"),
    "finetune": ("document", "text_column", "group", "min_length", "masking", "mask_probability", "heldout", "split_seed"),
    "pretrain": ("task", "columns", "label_column", "regression", "train_rows", "augment"),
}  # fmt: skip
BUDGETS = ("budget.queries", "budget.flops", "budget.seconds", "budget.price", "budget.like")
_EPISODES = ("weigh.phase", "weigh.reward", "weigh.reward_data", "weigh.reward_rows")


def flat(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested containers; lists without mappings are one value, and 1.0 is 1."""
    if isinstance(node, list) and any(isinstance(one, dict) for one in node):
        node = dict(enumerate(node))
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from flat(value, f"{where}.{key}" if where else str(key))
    else:
        yield where, str(_plain(node)) if isinstance(node, list | dict) else _plain(node)


def settings_used(config: Mapping[str, Any], result: Mapping[str, Any], taught: bool) -> Facts:
    """The settings of a configuration that had an effect, flat; `result`: of the finished run, `taught`: by a teacher."""
    facts = dict(flat(_whole(config, Config)))
    _data(facts, result)
    _teachers(facts, result, taught)
    _weigh(facts)
    _select(facts, result)
    _terms(facts)
    _student(facts, result)
    _budget(facts)
    _length_and_devices(facts, result)
    return facts


def learning(facts: Facts) -> Facts:
    """The settings among `facts` that influence what a run learns, without its seed."""
    return {key: value for key, value in facts.items() if not any(below(key, name) for name in NEUTRAL)}


def below(key: str, name: str) -> bool:
    """True if a dotted key is `name` or lies below it."""
    return key == name or key.startswith(f"{name}.")


def names_its_seed(value: Any, seed: int) -> bool:
    """True if a path names the seed of its run: such a model differs from seed to seed within one group."""
    return isinstance(value, str) and without_seed(value, seed) != value


def without_seed(path: str, seed: int) -> str:
    """A path with a star for the run's seed where it names that: `seed=1`, or the end of a job's folder, `.../random-r0.1-s1`."""
    job = rf"((?:^|/)(?:[^/]*-r[0-9.]+(?:-[^/]*)?|all(?:-[^/]*)?)-s){seed}(?=/|$)"
    return re.sub(job, r"\1*", re.sub(rf"\bseed={seed}(?!\d)", "seed=*", path))


# ---- groups


def _data(facts: Facts, result: Mapping[str, Any]) -> None:
    stage = str(result.get("stage", "pretrain"))
    _drop(facts, *(f"data.{name}" for name in _OTHERS_STAGE.get(stage, ())))
    if facts.get("data.path") is not None:
        _drop(facts, "data.source")
    rows = inside(result, "data.splits.train.rows")
    if rows is not None and facts.get("data.augment") is None and not _any(facts, "data.augment."):
        facts["data.train_rows"] = rows  # a limit above the number of rows is none
    if (length := inside(result, "data.max_length")) is not None:
        facts["data.max_length"] = _plain(length)  # chosen from the rows, or given
    _read(facts, ROWS, inside(result, ROWS), result)


def _teachers(facts: Facts, result: Mapping[str, Any], taught: bool) -> None:
    if facts.get("teachers.path") is not None:
        _drop(facts, "teachers.name", "teachers.revision")
    weights = list(dict.fromkeys(teacher.get("made_of") for teacher in result.get("teachers") or []))
    _read(facts, TEACHERS, ",".join(weights) if weights and None not in weights else None, result)
    if TEACHERS in facts:
        _drop(facts, *(k for k in facts if re.fullmatch(r"teachers\.others\.[^.]+\.(path|name|revision)", k)))
    if facts.get("teachers.cache") == "off" or facts.get("teachers.cache_vocabulary") == "full":
        _drop(facts, "teachers.cache_k")
    if not taught:
        _drop(facts, "teachers.cache_vocabulary", "teachers.cache_k", "teachers.others", "teachers.split", "adopt")
        if facts.get("student.start") != "teacher":
            _drop(facts, "teachers.finetune")
    if "preparation" in result:
        trained = [stage["what"] for stage in result["preparation"]]
        for end, group in ((", fine-tuned", "finetune"), (", prepared", "prepare")):
            if not any(what.endswith(end) for what in trained):
                _drop(facts, f"teachers.{group}")
    if not _any(facts, "adopt.arms."):
        _drop(facts, "adopt.policy")
    if facts.get("adopt.assistant.path") is not None:
        _drop(facts, "adopt.assistant.layers", "adopt.assistant.pick")


def _weigh(facts: Facts) -> None:
    if not _any(facts, "weigh.arms."):
        _drop(facts, "weigh.policy", "weigh.path", "weigh.episodes", *_EPISODES)
    elif facts.get("weigh.path") is not None:
        _drop(facts, "weigh.episodes", *_EPISODES)
    elif not facts.get("weigh.episodes"):
        _drop(facts, *_EPISODES)
    elif facts.get("weigh.reward_data") == "dev":
        _drop(facts, "weigh.reward_rows")


def _select(facts: Facts, result: Mapping[str, Any]) -> None:
    ratio, pool = result["select"]["ratio"], facts.get("select.pool")
    if isinstance(pool, int):
        facts["data.batch_size"] = pool  # a pool is a larger batch with the ratio that fills the old one
    _drop(facts, "select.pool")
    facts["select.ratio"] = _plain(ratio)
    if ratio == 1:
        _drop(facts, "select")
        facts |= {"select.name": "all", "select.ratio": 1}
        return
    if str(facts.get("select.policy._target_")).endswith(".Fixed"):
        _drop(facts, "select.interval", "select.observe", "select.evaluation_rows", "select.reward")
        _drop(facts, "select.credit_decay", "select.credit_delay")
    elif "observation" in result:
        seen = result["observation"] or {}  # none by a policy that learns from none
        budgeted = any(facts.get(key) is not None for key in BUDGETS)
        for name, key in (("interval", "select.interval"), ("rows", "select.evaluation_rows")):
            if seen and budgeted and facts.get(key) == "auto":
                continue  # follows from the steps that the budget allows, which differ from seed to seed
            _drop(facts, key)
            facts |= {key: _plain(seen[name])} if seen else {}
    if all(str(facts[key]).endswith(".random") for key in facts if re.fullmatch(r"select\.arms\.[^.]+\._target_", key)):
        _drop(facts, "select.look")  # nothing is scored
    unit = facts.get("select.unit", "row")
    _drop(facts, *{"row": ("select.per_row", "select.positions"), "position": ("select.positions",)}.get(unit, ()))
    for scoring, key in (("stale", "select.refresh"), ("early_exit", "select.exit_layer")):
        if facts.get("select.scoring") != scoring:
            _drop(facts, key)
    if facts.get("select.votes") == "exits":  # as before there were committees
        _drop(facts, "select.votes")
    _drop(facts, "select.probe_every")  # a measurement changes nothing
    if not str(facts.get("select.reward._target_")).endswith(".Probe"):
        _drop(facts, "select.probe_steps")
    if inside(result, "devices.world") == 1:
        _drop(facts, "select.scope")


def _terms(facts: Facts) -> None:
    for key in [key for key in facts if re.fullmatch(r"knowledge\.terms\.[^.]+\.weight", key)]:
        if facts[key] == 0:
            _drop(facts, key.removesuffix(".weight"))
    for key, value in facts.items():
        if value == "masked" and re.fullmatch(r"knowledge\.terms\.[^.]+\.at", key):
            facts[key] = "labelled"  # two words for the same units
    if facts.get("data.stage") == "finetune":
        _drop(facts, "knowledge.ce_on")


def _student(facts: Facts, result: Mapping[str, Any]) -> None:
    if str(result.get("stage", "pretrain")) != "finetune":
        _drop(facts, "student.start")  # a student of text starts as its teacher, whatever it says
    if facts.get("student.path") is not None:
        _drop(facts, "student.layers", "student.hidden", "student.pick")
        _read(facts, STUDENT, inside(result, "student.made_of"), result)
        return
    _drop(facts, "student.revision")
    if type(facts.get("student.layers")) not in (int, float) or facts.get("student.hidden") is not None:
        _drop(facts, "student.pick")


def _budget(facts: Facts) -> None:
    limits = [key for key in BUDGETS if facts.get(key) is not None]
    if not limits:
        _drop(facts, "budget")
    if (like := facts.get("budget.like")) is not None:  # seeds cost as much as the same run of their own seed
        facts["budget.like"] = re.sub(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?(?=/|$)", "*", str(like).rstrip("/"))
    else:
        _drop(facts, "budget.by")


def _length_and_devices(facts: Facts, result: Mapping[str, Any]) -> None:
    # the steps that a budget allows differ from seed to seed: it stands for them
    if result.get("steps") and not _any(facts, "budget."):
        _drop(facts, "trainer.max_epochs")
        facts["trainer.max_steps"] = _plain(result["steps"])
    devices = result.get("devices") or {}
    if devices.get("world"):
        _drop(facts, "trainer.num_nodes")
        facts["trainer.devices"] = _plain(devices["world"])
    if devices.get("precision"):
        facts["trainer.precision"] = devices["precision"]


# ---- parts


def _read(facts: Facts, what: str, identity: str | None, result: Mapping[str, Any]) -> None:
    """Put what was read in place of the settings that name it; not where these name the run's own seed."""
    names = [key for key in facts if any(below(key, name) for name in NAMED_BY[what])]
    if identity and not any(names_its_seed(facts[key], result["seed"]) for key in names):
        _drop(facts, *names)
        facts[what] = identity


def _drop(facts: Facts, *names: str) -> None:
    for key in [key for key in facts if any(below(key, name) for name in names)]:
        del facts[key]


def _any(facts: Facts, start: str) -> bool:
    return any(key.startswith(start) for key in facts)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value


@cache
def _fields(group: type) -> dict[str, tuple[Any, type | None, bool]]:
    """For each field of a group its default in plain containers, the group of its value, and whether users name its keys."""
    hints, found = get_type_hints(group), {}
    for f in fields(group):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        plain = asdict(default) if is_dataclass(default) and not isinstance(default, type) else default
        found[f.name] = (plain, group_in(hints[f.name]), get_origin(hints[f.name]) is dict)
    return found


def _whole(node: Mapping[str, Any], group: type) -> dict[str, Any]:
    """A configuration with the defaults of all keys that it leaves out."""
    filled: dict[str, Any] = dict(node)
    for name, (default, inner, named) in _fields(group).items():
        value = filled.setdefault(name, default)
        if inner is None or not isinstance(value, dict):
            continue
        filled[name] = (
            {key: _whole(one, inner) if isinstance(one, dict) else one for key, one in value.items()}
            if named
            else _whole(value, inner)
        )
    return filled
