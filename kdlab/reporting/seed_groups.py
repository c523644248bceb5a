"""Read finished runs (without torch and Hydra) and group those that differ only in the seed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from kdlab.config.saved import read_config
from kdlab.errors import UserError
from kdlab.runs import finished, folders
from kdlab.runtime.progress import track

Facts = dict[str, Any]

# settings without influence on what a run learns
NEUTRAL = (
    "name", "seed", "artifacts", "no_kd_baseline", "scale", "exec", *folders.IRRELEVANT_KEYS, "trainer.evaluate_every",
    "trainer.checkpoint_every", "trainer.probes", "trainer.threads", "trainer.accelerator", "trainer.trace_every",
    "trainer.trace_rows", "trainer.on_nonfinite", "trainer.nonfinite_limit", "data.workers", "teachers.cache", "teachers.cache_fill",
    "teachers.cache_limit", "teachers.cache_over", "teachers.cache_trouble", "teachers.sanity", "suite",
)  # fmt: skip
_NEUTRAL_PARTS = tuple(f"{name}." for name in NEUTRAL)
AGAIN = "made again later"
_PARTS: dict[str, type] = {"seed": int, "select": dict, "data": dict, "metrics": dict, "ledger": dict}
_INNER: dict[str, type] = {
    "select.name": str, "select.ratio": Real, "metrics.student": dict, "ledger.teacher_queries.total": Real,
    "ledger.flops.total": Real, "ledger.seconds": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A finished run: its result.json, and its configuration as one flat dict of dotted keys."""

    folder: Path
    result: Mapping[str, Any]
    facts: Facts

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.result["seed"])

    @property
    def stage(self) -> str:
        """pretrain or finetune; old results without the field are of pretrain."""
        return str(self.result.get("stage", "pretrain"))

    @property
    def ratio(self) -> float:
        """Share of the rows that is selected."""
        return float(self.result["select"]["ratio"])

    @property
    def select(self) -> str:
        """Name of the selection; "all" at ratio 1."""
        return "all" if self.ratio == 1 else str(self.result["select"]["name"])

    @property
    def queries(self) -> int:
        """Teacher queries of the run (rows)."""
        return int(self.result["ledger"]["teacher_queries"]["total"])

    @property
    def task(self) -> str:
        """Name of the task, or of the folder or source of the data."""
        data = self.result["data"]
        return str(data.get("task") or (data.get("path") and Path(data["path"]).name) or data["source"])

    def learning_facts(self) -> Facts:
        """The facts that influence the training, without the seed."""
        return {k: v for k, v in self.facts.items() if k not in NEUTRAL and not k.startswith(_NEUTRAL_PARTS)}

    def seedless_facts(self) -> Facts:
        """`learning_facts`, made equal for all seeds of one command.

        At ratio 1 the settings of the selection mean nothing. A path may name the run's own seed (a student distilled
        from an assistant of the same seed)."""
        seed_in_path, facts = re.compile(rf"\bseed={self.seed}(?!\d)"), self.learning_facts()
        if self.ratio == 1:
            facts = {key: value for key, value in facts.items() if not _below(key, "select")}
            facts |= {"select.name": "all", "select.ratio": 1.0}
        return {
            key: seed_in_path.sub("seed=*", value) if isinstance(value, str) else value for key, value in facts.items()
        }

    @property
    def key(self) -> str:
        """Key of `seedless_facts`: equal for runs that differ in the seed alone, in any order of their settings."""
        return _key(self.seedless_facts())


@dataclass
class Group:
    """Runs that differ in the seed alone, by seed. `name`: the settings that differ from other groups of the task."""

    facts: Facts
    runs: dict[int, Run] = field(default_factory=dict)
    name: str = ""

    @property
    def key(self) -> str:
        """Key of the facts that the runs share."""
        return _key(self.facts)

    @property
    def one(self) -> Run:
        """Any of the runs, for what all of them share."""
        return next(iter(self.runs.values()))


def read(paths: Sequence[Path]) -> tuple[list[Run], dict[Path, str]]:
    """The finished runs among `paths` and in the folders below them, and why which others are left out.

    Sorted within each path. Of runs that differ in nothing the last counts. UserError where there is none, or where a
    file cannot be read.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: there is no such folder; run folders, or folders with runs below, were expected")
        for folder in sorted(file.parent for file in path.rglob("result.json")):
            folders.setdefault(folder.resolve(), folder)
    left = {folder: why for folder in folders.values() if (why := _unfinished(folder))}
    whole = [folder for folder in folders.values() if folder not in left]
    results = {folder: finished.finished_result(folder) for folder in track(whole, "reading runs", "runs")}
    for folder, result in list(results.items()):
        if missing := sorted(_PARTS.keys() - result.keys()):
            del results[folder]
            if "ledger" in result:  # else it is of a suite of runs
                left[folder] = f"result.json without {' and '.join(missing)}"
        elif wrong := [name for name, kind in (_PARTS | _INNER).items() if not isinstance(_inside(result, name), kind)]:
            del results[folder]
            left[folder] = f"result.json whose {wrong[0]} is not as runs write it"
    runs = [Run(folder, result, _facts(folder)) for folder, result in results.items()]
    if not runs:
        others = f" ({len(left)} left out: {', '.join(dict.fromkeys(left.values()))})" if left else ""
        raise UserError(f"no finished run in {', '.join(map(str, paths))}{others}")
    last: dict[tuple[int, str], Run] = {}
    for run in runs:
        key = (run.seed, run.key)
        if key in last:
            left[last[key].folder] = AGAIN
        last[key] = run
    return list(last.values()), left


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The groups of the runs of one task, in the order of their first runs, each with a name of its own."""
    groups: dict[str, Group] = {}
    for run in runs:
        facts = run.seedless_facts()
        groups.setdefault(_key(facts), Group(facts)).runs[run.seed] = run
    members = list(groups.values())
    for group, name in zip(members, _names([group.facts for group in members]), strict=True):
        run = group.one
        group.name = name or f"select={run.select}" + (f" ratio={run.ratio:g}" if run.ratio < 1 else "")
        policy = run.result.get("policy")
        if isinstance(policy, dict) and policy.get("reward_data") == "dev":
            group.name += " [rewarded on dev]"  # it has learnt from what it is scored on
    return members


def distance(one: Group, other: Group) -> int:
    """Number of settings in which two groups differ, those of the selection excluded."""
    keys = [key for key in one.facts | other.facts if not _below(key, "select")]
    return sum(repr(one.facts.get(key)) != repr(other.facts.get(key)) for key in keys)


# ---- reading


def _unfinished(folder: Path) -> str:
    """Reason why a folder with a result.json holds no finished run; "" if it does."""
    status = folders.status(folder)
    if status is not None:
        return "" if status == "finished" else status
    try:
        (folder / "result.json").read_bytes()
    except OSError as error:
        raise UserError(f"{folder / 'result.json'} cannot be read: {error.strerror}") from error
    return "half-written"


def _inside(node: Any, name: str) -> Any:
    """The value at a dotted name; None if it is absent."""
    for part in name.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _facts(folder: Path) -> Facts:
    return dict(_flat(read_config(folder), ""))


def _flat(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, list) and any(isinstance(one, dict) for one in node):
        node = dict(enumerate(node))
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _flat(value, f"{where}.{key}" if where else str(key))
    else:
        yield where, str(node) if isinstance(node, list | dict) else node


def _key(facts: Facts) -> str:
    return repr(sorted(facts.items()))


def _below(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


# ---- names


def _names(members: Sequence[Facts]) -> list[str]:
    """For each group "key=value ...", of what differs between them: short, and no two the same.

    Where a part of the configuration has a name (select.name), that stands for all of the part, except for what
    differs between groups of the same name, and the ratio.
    """
    every = dict.fromkeys(key for facts in members for key in facts if not key.endswith("_partial_"))
    keys = [key for key in every if len({repr(facts.get(key)) for facts in members}) > 1]
    keys.sort(key=lambda key: (key != "select.name", key != "select.ratio"))
    named = {key.removesuffix(".name") for key in keys if key.endswith(".name") and key.count(".") == 1}

    def says(facts: Facts, key: str) -> bool:
        part = key.split(".")[0]
        if key == "select.ratio":
            return facts.get(key) != 1
        if part not in named or key == f"{part}.name":
            return True
        return len({repr(m.get(key)) for m in members if m.get(f"{part}.name") == facts.get(f"{part}.name")}) > 1

    told = [[key for key in keys if says(facts, key)] for facts in members]
    labels = {key: _label(key, every) for key in keys}
    values = {key: _values(key, [facts.get(key) for facts in members]) for key in keys}

    def name(i: int, absent: bool) -> str:
        return " ".join(f"{labels[key]}={values[key][i]}" for key in told[i] if absent or key in members[i])

    short = [name(i, absent=False) for i in range(len(members))]
    return short if len({*short}) == len(short) and "" not in short else [name(i, True) for i in range(len(members))]


def _label(key: str, every: Iterable[str]) -> str:
    """The shortest end of a dotted key that no other of the configuration has; `select` of `select.name`."""
    named = re.sub(r"\.(name|_target_)$", "", key).split(".")
    others = [other.split(".") for other in every if other != key]
    for size in range(2 if key.endswith("._target_") else 1, len(named)):
        if all(other[-size:] != named[-size:] for other in others):
            return ".".join(named[-size:])
    return ".".join(named)


def _values(key: str, values: Sequence[Any]) -> list[str]:
    """Values as text: of paths and code names only the last part, if these differ."""
    texts = ["null" if v is None else re.sub(r"\s+|\.0$", "", str(v)) for v in values]
    ends = [text.rsplit("." if key.endswith("_target_") else "/", 1)[-1] for text in texts]
    return ends if all(ends) and len({*ends}) == len({*texts}) else texts
