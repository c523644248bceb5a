"""Read finished runs (without torch and Hydra) and group those that differ only in the seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from kdlab.config.saved import read_config
from kdlab.data.names import name_in
from kdlab.errors import UserError
from kdlab.reporting.group_names import joined, names_of
from kdlab.runs.closing import costs, scores
from kdlab.runs.closing.costs import RunCost
from kdlab.runs.closing.result_schema import LARGEST, LONGEST
from kdlab.runs.finished import read_result
from kdlab.runs.settings_used import NAMED_BY, ROWS, Facts, below, flat, learning, settings_used, without_seed
from kdlab.runtime.progress import track
from kdlab.storage.escaping import shortened

AGAIN = "made again later"


@dataclass(frozen=True)
class Run:
    """A finished run: its result.json, its configuration as one flat dict of dotted keys, and those of it that it `used`.

    `task`: name of the task, or of the folder or source of the data; of runs on other rows another name.
    """

    folder: Path
    result: Mapping[str, Any]
    facts: Facts
    used: Facts
    task: str

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.result["seed"])

    @property
    def stage(self) -> str:
        """pretrain or finetune; old results without the field are of pretrain."""
        return str(self.result.get("stage", "pretrain"))

    @property
    def chosen(self) -> dict[str, Any]:
        """Amount that the run selected, of rows or of positions: the entry `select` of result.json without the name."""
        return {key: value for key, value in self.result["select"].items() if key != "name"}

    @property
    def ratio(self) -> float:
        """Share of the rows that is selected."""
        return float(self.result["select"]["ratio"])

    @property
    def select(self) -> str:
        """Name of the selection; "all" at ratio 1."""
        return "all" if self.ratio == 1 else str(self.result["select"]["name"])

    @property
    def taught(self) -> bool:
        """True if the run has a teacher, by its configuration: also where a cache answered for it and no row was a query."""
        return scores.taught(self.result)

    @property
    def own(self) -> RunCost:
        """Cost of the run itself."""
        return costs.own(self.result)

    @property
    def total(self) -> RunCost:
        """Cost of the run with its preparation: teachers, assistants, knowledge selection modules."""
        return costs.total(self.result)

    def learning_facts(self) -> Facts:
        """The settings used that influence the training, without the seed."""
        return learning(self.used)

    def seedless_facts(self) -> Facts:
        """`learning_facts`, made equal for all seeds of one command.

        A path may name the run's own seed (a student distilled from an assistant of the same seed)."""
        return self._seedless(self.learning_facts())

    def named_by(self, what: str) -> Facts:
        """The settings that name the rows or models `what` (a key of `NAMED_BY`), made equal for all seeds."""
        return self._seedless({k: v for k, v in self.facts.items() if any(below(k, name) for name in NAMED_BY[what])})

    def _seedless(self, facts: Facts) -> Facts:
        return {k: without_seed(value, self.seed) if isinstance(value, str) else value for k, value in facts.items()}

    @property
    def key(self) -> str:
        """Key of `seedless_facts`: equal for runs that differ in the seed alone, in any order of their settings."""
        return _key(self.seedless_facts())


@dataclass
class Group:
    """Runs that differ in the seed alone, by seed. `settings`: those that differ from other groups of the task, by their
    shortest names; `name`: the same as one text, with remarks in brackets; `shown`: its facts with names in place of hashes (`shown_facts`)."""

    facts: Facts
    runs: dict[int, Run] = field(default_factory=dict)
    name: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    shown: Facts = field(default_factory=dict)

    @property
    def collapsed(self) -> str:
        """Number of the runs that have collapsed ("1 of 3 collapsed"), whose mean says little; "" for none."""
        count = sum(bool(one.result.get("collapsed")) for one in self.runs.values())
        return f"{count} of {len(self.runs)} collapsed" if count else ""

    @property
    def plain_name(self) -> str:
        """The name without the runs that have collapsed: the same for all tasks."""
        return self.name.replace(f" [{self.collapsed}]", "") if self.collapsed else self.name

    @property
    def key(self) -> str:
        """Key of the facts that the runs share."""
        return _key(self.facts)

    @property
    def one(self) -> Run:
        """Any of the runs, for what all of them share."""
        return next(iter(self.runs.values()))

    @property
    def own(self) -> RunCost:
        """Mean cost of the runs themselves."""
        return costs.mean([run.own for run in self.runs.values()])

    @property
    def total(self) -> RunCost:
        """Mean cost of the runs, each with its preparation."""
        return costs.mean([run.total for run in self.runs.values()])

    @property
    def positions(self) -> tuple[float, float] | None:
        """Mean number of positions that the runs learnt from, and its share; None where whole rows were chosen."""
        found = [each for run in self.runs.values() if (each := costs.positions_kept(run.result)) is not None]
        if not found:
            return None
        return fmean(kept for kept, _ in found), sum(kept for kept, _ in found) / max(1, sum(seen for _, seen in found))

    @property
    def cached(self) -> float:
        """Mean number of answers from a teacher cache, which are in no cost."""
        return fmean(costs.cached(run.result) for run in self.runs.values())


def read(paths: Sequence[Path]) -> tuple[list[Run], dict[Path, str]]:
    """The finished runs among `paths` and in the folders below them, and why which others are left out.

    Sorted within each path. Each run is checked here, once, against the schema of result.json and for values that no
    configuration has. Of runs that differ in nothing the last counts. UserError where there is none.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: there is no such folder; run folders, or folders with runs below, were expected")
        for folder in sorted(file.parent for file in path.rglob("result.json")):
            folders.setdefault(folder.resolve(), folder)
    left: dict[Path, str] = {}
    runs: list[Run] = []
    for folder in track(list(folders.values()), "reading runs", "runs"):
        found = _read(folder)
        if isinstance(found, Run):
            runs.append(found)
        elif found:
            left[folder] = found
    if not runs:
        others = f" ({len(left)} left out: {', '.join(dict.fromkeys(left.values()))})" if left else ""
        raise UserError(f"no finished run in {', '.join(map(str, paths))}{others}")
    last: dict[tuple[int, str], Run] = {}
    for run in _named_by_rows(runs):
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
    shown = shown_facts([group.one for group in members])
    for group, facts, settings in zip(members, shown, names_of(shown), strict=True):
        run, group.shown = group.one, facts
        only = {"select": run.select} | ({"ratio": f"{run.ratio:g}"} if run.ratio < 1 else {})
        group.settings = settings or only
        group.name = joined(group.settings)
        group.name += f" [{group.collapsed}]" if group.collapsed else ""
        policy = run.result.get("policy")
        if isinstance(policy, dict) and policy.get("reward_data") == "dev":
            group.name += " [rewarded on dev]"  # it has learnt from what it is scored on
    return members


def shown_facts(runs: Sequence[Run]) -> list[Facts]:
    """The `seedless_facts` of runs as they are shown: rows and models under the settings that name them.

    These stand where the rows or models differ and each has names of its own; else a hash of them stands.
    """
    shown = [run.seedless_facts() for run in runs]
    for what in NAMED_BY:
        identities = [facts.pop(what, None) for facts in shown]
        if len({*identities}) == 1:
            continue
        first: dict[Any, Facts] = {}
        for run, identity in zip(runs, identities, strict=True):
            first.setdefault(identity, run.named_by(what) if identity is not None else {})
        apart = len({_key(names) for names in first.values()}) == len(first)
        for facts, identity in zip(shown, identities, strict=True):
            facts |= first[identity] if apart else {what: identity and ",".join(one[:8] for one in identity.split(","))}
    return shown


# ---- reading


def _read(folder: Path) -> Run | str:
    """The finished run of a folder, or why it holds none; "" for that of a suite."""
    result, why = read_result(folder)
    if result is None:
        return why
    try:
        config = read_config(folder)
    except UserError as error:
        return shortened(str(error), 400)
    facts = dict(flat(config))
    for key, value in facts.items():
        if (text := _unwritable(key)) or (text := _unwritable(value)):
            return f"config.yaml is not as runs write it: {shortened(key, 60)} {text}"
    try:
        used = settings_used(config, result, scores.taught(result))
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        return f"config.yaml is not as runs write it: {shortened(str(error), 100)}"
    return Run(folder, result, facts, used, _task(result["data"]))


def _unwritable(value: Any) -> str:
    """The difference of a value from all that a configuration may have; "" without one."""
    if isinstance(value, str):
        if len(value) > 4 * LONGEST:
            return f"has {len(value):,} characters"
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return "has half a surrogate pair"
    elif isinstance(value, int | float) and not isinstance(value, bool) and LARGEST < abs(value) < float("inf"):
        return "is beyond all settings"
    return ""


def _task(data: Mapping[str, Any]) -> str:
    return str(data.get("task") or name_in(data))


def _named_by_rows(runs: Sequence[Run]) -> list[Run]:
    """The runs with names of tasks that tell rows apart: an official task's, else one for each fingerprint."""

    def rows(run: Run) -> str:
        return run.task if run.result["data"].get("task") else str(run.used.get(ROWS) or run.task)

    names: dict[tuple[str, str], str] = {}
    for run in runs:
        names.setdefault((run.stage, rows(run)), run.task)
    count = Counter((stage, name) for (stage, _), name in names.items())
    titles = {
        (stage, which): name if count[stage, name] == 1 or which == name else f"{name} (rows {which[:8]})"
        for (stage, which), name in names.items()
    }
    return [replace(run, task=titles[run.stage, rows(run)]) for run in runs]


def _key(facts: Facts) -> str:
    return repr(sorted(facts.items()))
