"""Correlation of the cheap rewards of a run with its paired probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdlab.config.saved import read_config
from kdlab.errors import UserError
from kdlab.methods.selection.rewards import LossDecay, Probe, Trend
from kdlab.modules.optimizer import OptimizerSettings
from kdlab.plotting import style
from kdlab.reporting.analyses.one_run import AnalysisResult
from kdlab.runs.finished import finished_result
from kdlab.storage import tables
from kdlab.types import Observation

COLUMNS = ("reward", "pairs", "pearson", "spearman")
Rows = Sequence[dict[str, Any]]


def rewards(run: Path) -> AnalysisResult:
    """Correlation of rewards with what a paired probe at the same step says of the arm that was then in force.

    Rewards: the run's own, and those that `LossDecay`, `Trend` and the plain fall of the log loss would have given for the
    same observations. A probe's advantage is the fall of the log loss under the arm, less the mean of all arms.
    Table: reward, pairs, pearson, spearman. UserError for a run without probes.
    """
    for name in ("probe.csv", "selector.csv"):
        if not (run / name).is_file():
            raise UserError(
                f"{run}: there is no {name}; a run of an adaptive policy with select.probe_every= writes one"
            )
    config, result = read_config(run), finished_result(run)
    given = config["optim"]
    settings = OptimizerSettings(lr=float(given["lr"]), warmup=float(given["warmup"]))
    observed = [row for row in tables.read(run / "selector.csv") if row["observation"]]
    advantage = probed(tables.read(run / "probe.csv"))
    series = {"of the run": [_number(row["reward"]) for row in observed]}
    series |= recomputed(observed, settings, int(result["steps"]))
    pairs = {name: paired(observed, values, advantage) for name, values in series.items()}
    rows = [{"reward": name, "pairs": len(found), **correlations(found)} for name, found in pairs.items()]
    figure = style.canvas(4.2, "Rewards against paired probes", str(run))
    axes = style.panel(figure, 0.6, 2.75)
    for name, found in pairs.items():
        if found:
            axes.scatter([gain for gain, _ in found], _ranks([reward for _, reward in found]), s=9, label=name)
    style.caption(axes, "rank of the reward, from 0 to 1")
    axes.set_xlabel("advantage of the arm in the probe (log loss)")
    if any(pairs.values()):
        axes.legend(fontsize=7, frameon=False)
    nothing = "" if any(pairs.values()) else f"{run}: no probe has a reward beside it: its steps are not those observed"
    return AnalysisResult(COLUMNS, rows, figure, nothing)


def probed(rows: Rows) -> dict[tuple[int, str], float]:
    """The advantage of each arm by step and name, from the rows of probe.csv."""
    falls: dict[int, dict[str, float]] = {}
    for row in rows:
        falls.setdefault(int(row["step"]), {})[row["arm"]] = math.log(float(row["before"]) / float(row["after"]))
    return {(step, arm): gain for step, one in falls.items() for arm, gain in Probe().rewards(one).items()}


def recomputed(observed: Rows, settings: OptimizerSettings, total: int) -> dict[str, list[float | None]]:
    """The rewards that other kinds would have given for the observations in selector.csv."""
    decay, trend = LossDecay(), Trend()
    found: dict[str, list[float | None]] = {"loss_decay": [], "trend": [], "fall": []}
    before: Any = None
    for row in observed:
        step, loss = int(row["step"]), float(row["observation"])
        found["loss_decay"].append(decay.observe(loss)[1])
        if before is None:
            fall, one = None, Observation(loss, step)
        else:
            first, arm = int(before["step"]), str(before["arm"])
            fall = math.log(float(before["observation"]) / loss)
            rate = math.fsum(settings.factor(i, total) for i in range(first, step))
            one = Observation(loss, step, arm, {arm: 1.0}, step - first, rate)
        found["trend"].append(trend.observe(one)[1])
        found["fall"].append(fall)
        before = row
    return found


def paired(
    observed: Rows, rewards: Sequence[float | None], advantage: dict[tuple[int, str], float]
) -> list[tuple[float, float]]:
    """Advantage and reward of each arm in force whose step was probed; the reward is that of the next observation."""
    found = []
    for row, reward in zip(observed, rewards[1:], strict=False):
        known = advantage.get((int(row["step"]), row["arm"]))
        if known is not None and reward is not None:
            found.append((known, reward))
    return found


def correlations(pairs: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """Pearson's and Spearman's correlation; None for fewer than three pairs, or where one side does not vary."""
    if len(pairs) < 3 or any(np.ptp(side) == 0 for side in np.array(pairs).T):
        return {"pearson": None, "spearman": None}
    ours, theirs = np.array(pairs).T
    ranks = _ranks(ours), _ranks(theirs)
    return {"pearson": float(np.corrcoef(ours, theirs)[0, 1]), "spearman": float(np.corrcoef(*ranks)[0, 1])}


def _ranks(values: Any) -> np.ndarray:
    """Ranks from 0 to 1, equals with their mean."""
    values = np.asarray(values)
    below = (values[:, None] > values[None, :]).sum(1) + ((values[:, None] == values[None, :]).sum(1) - 1) / 2
    return below / max(1, len(values) - 1)


def _number(text: str) -> float | None:
    return float(text) if text else None
