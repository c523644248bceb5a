"""The content of loggers: the title and group of a run, the rows of its tables, its results."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdlab.config.schema import Config
from kdlab.data.names import data_name, name_in
from kdlab.plotting.run_figures import PER_WINDOW, WINDOWS
from kdlab.plotting.run_tables import rows_of, window_shares
from kdlab.runs.closing import costs
from kdlab.runs.closing.question import QUESTION
from kdlab.runs.closing.scores import metric_of
from kdlab.runs.process import DIFFERS, SWEEP
from kdlab.runs.settings_used import below, flat, learning, without_seed


def title(config: Config) -> str:
    """The name of a run: its data set, and its differences from other jobs of its sweep, or its selection, ratio and seed."""
    own = f"{config.select.name}-r{config.select.ratio:g}-s{config.seed}"
    return f"{data_of(config)} {os.environ.get(DIFFERS) or own}"[:120]


def group(config: Config) -> str:
    """The group of a run: logger.group, else its sweep, else its experiment with the data set."""
    return (config.logger.group or os.environ.get(SWEEP) or f"{config.name} {data_of(config)}")[:120]


def data_of(config: Config) -> str:
    """The name of a configuration's data set."""
    return data_name(config.data.task, config.data.path, config.data.source)


def tags(config: Config) -> list[str]:
    """Tags of a run: its data set, stage and seed; `metric_of` is added once it is known."""
    return [data_of(config)[:64], config.data.stage, f"seed {config.seed}"]


def compared(resolved: Mapping[str, Any]) -> str:
    """The settings of a run in which those that it is compared with agree, as one text: data, knowledge, length, and a hash of
    all but the seed, what has no effect, and what a comparison asks about (`QUESTION`)."""
    facts = learning(dict(flat(dict(resolved))))
    kept = {key: value for key, value in facts.items() if not any(below(key, name) for name in QUESTION)}
    texts = {key: without_seed(str(value), int(resolved["seed"])) for key, value in kept.items()}
    digest = hashlib.sha256(repr(sorted(texts.items())).encode("utf-8", "backslashreplace")).hexdigest()[:8]
    named = (facts.get("data.task"), facts.get("data.path"))
    data = next((Path(str(one)).name for one in named if one), None) or data_name(
        None, None, resolved["data"].get("source")
    )
    length = next(
        (f"{facts[f'trainer.max_{unit}']} {unit}" for unit in ("steps", "epochs") if facts.get(f"trainer.max_{unit}")),
        "",
    )
    return ", ".join(part for part in (data, str(facts.get("knowledge.name") or ""), length, digest) if part)


def loggable(name: str, row: dict[str, Any]) -> dict[str, float]:
    """A table's row for a logger: numbers only, in groups; the arm as one 0/1 series each, whose mean is its share."""
    prefixed = {}
    for key, value in row.items():
        if isinstance(value, int | float) and key not in ("step", "teacher_queries"):
            group, _, rest = key.partition("_")
            grouped = name == "metrics" and rest and group in ("train", "heldout", "queries")
            prefixed[f"{group}/{rest}" if grouped else f"{name}/{key}"] = value
    if name == "selector" and row.get("arm") is not None:
        arms = [key[2:] for key in row if key.startswith("q_")] or [row["arm"]]
        prefixed |= {f"selector/arm_{arm}": float(arm == row["arm"]) for arm in arms}
    # a row without a count must not log zero queries
    return prefixed | ({"teacher_queries": row["teacher_queries"]} if row.get("teacher_queries") is not None else {})


def schedule(folder: Path, steps: float) -> list[dict[str, float]]:
    """The share of steps in which each arm was in force, one row per window: "step" (its end), "share_<arm>"."""
    rows = [row for row in rows_of(folder / "selector.csv", ("step", "arm")) if row["arm"]]
    rows = [row for row in rows if float(row["step"]) < steps]
    if not rows:
        return []
    shares = window_shares(rows, steps, max(1, min(WINDOWS, len(rows) // PER_WINDOW)))
    return [
        {"step": float(end), **{f"share_{arm}": float(share[i]) for arm, share in shares.of.items()}}
        for i, end in enumerate(shares.edges[1:])
    ]


def summary(result: Mapping[str, Any]) -> dict[str, float]:
    """All scores and the ledger of result.json, flat: "result/score", "result/teacher/score", "ledger/flops/total"; on
    test "result/test/score"; further ones "result/dev/macro_f1"; and
    the costs with preparation: "total/teacher_queries", "total/flops", "total/seconds"."""
    metrics, test, scores = result["metrics"], result.get("test") or {}, result.get("scores") or {}
    own = {f"result/{name}": value for name, value in metrics["student"].items()}
    others = {
        f"result/{who}/{name}": v for who, all_ in metrics.items() if who != "student" for name, v in all_.items()
    }
    others |= {f"result/test/{name}": v for name, v in (test.get("student") or {}).items()}
    others |= {
        f"result/test/{who}/{name}": v for who, all_ in test.items() if who != "student" for name, v in all_.items()
    }
    others |= {f"result/{split}/{name}": v for split, of in scores.items() for name, v in of.get("student", {}).items()}
    total = costs.total(result)
    sums = {"teacher_queries": total.queries, "flops": total.flops, "seconds": total.seconds}
    found = own | others | dict(_flat(result["ledger"], "ledger")) | dict(_flat(sums, "total"))
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def caveats(result: Mapping[str, Any]) -> dict[str, str]:
    """The caveats of a run by "caveat/KIND"; several of one kind are one text."""
    found: dict[str, str] = {}
    for one in result.get("caveats") or []:
        name = f"caveat/{one['kind']}"
        found[name] = "; ".join(filter(None, (found.get(name), one["text"])))
    return found


def table_row(result: Mapping[str, Any]) -> dict[str, Any]:
    """The run as a row of a table of runs."""
    ledger, student, total = result["ledger"], result["metrics"]["student"], costs.total(result)
    return {
        "data": name_in(result["data"]),
        "metric": metric_of(result),
        "select": result["select"]["name"],
        "ratio": result["select"]["ratio"],
        "knowledge": result.get("knowledge"),
        "policy": (result.get("policy") or {}).get("name"),
        "adopt": result.get("adopt"),
        "seed": result["seed"],
        **student,
        **{f"test {name}": value for name, value in ((result.get("test") or {}).get("student") or {}).items()},
        "teacher queries": ledger["teacher_queries"]["total"],
        **({} if (positions := costs.positions_kept(result)) is None else {"positions learnt": positions[0]}),
        "FLOPs": ledger["flops"]["total"],
        "seconds": ledger["seconds"]["training"],
        "teacher queries with preparation": total.queries,
        "FLOPs with preparation": total.flops,
        "seconds with preparation": total.seconds,
        **{f"saved, {name}": gain for name, gain in ledger["speedup"].items()},
        "caveats": ", ".join(name.partition("/")[2] for name in caveats(result)),
    }


def _flat(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _flat(value, f"{where}/{key}")
    else:
        yield where, node
