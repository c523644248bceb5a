"""The W&B workspace of a project: schedules by ratio, score against queries, cost against score.

The series are those that `logger=wandb` writes (`kdlab.runs.loggers.base`, `kdlab.runs.loggers.wandb`).
"""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

from kdlab.errors import UserError, install, one_line
from kdlab.runs.loggers.wandb import account, silence
from kdlab.storage.files import atomic_write_text

PLACEHOLDER = "ENTITY"  # stands in the file when no user or team is named
NAME = "kdlab: what a query buys"
GROUPED_BY = (
    "compared",
    "select.name",
    "select.ratio",
    "adopt.name",
    "weigh.name",
)  # `content.compared`: all other settings
RESULTS = ("score", "accuracy", "loss")
COSTS = {  # of the run alone, and with its preparation
    "teacher queries": ("ledger/teacher_queries/total", "total/teacher_queries"),
    "FLOPs": ("ledger/flops/total", "total/flops"),
    "seconds": ("ledger/seconds/training", "total/seconds"),
}


def write_workspace(project: str, entity: str | None, out: Path) -> int:
    """Write the workspace to `out` as JSON, and send it if `entity` (user or team) and an account are known.

    Returns the exit code 0. UserError where wandb-workspaces is missing or the server refuses.
    """
    definition = workspace(project, entity or PLACEHOLDER)
    atomic_write_text(out, as_json(definition))
    print(one_line(f"{out}: the workspace of {entity or PLACEHOLDER}/{project}"))
    if not entity or not account():
        reason = "no W&B account was found (WANDB_API_KEY or `wandb login`)" if entity else "no --entity"
        print(f"not sent: {reason}")
        return 0
    try:
        definition.save()
    except Exception as error:  # any answer of the network or the server
        lines = str(error).strip().splitlines()
        raise UserError(f"the workspace was not sent: {lines[0] if lines else type(error).__name__}") from error
    print(f"sent: {definition.url}")
    return 0


def workspace(project: str, entity: str) -> Any:
    """The definition of the workspace, an object of wandb-workspaces; UserError where that package is missing."""
    silence()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of pydantic, about how its classes are written
            import wandb_workspaces.reports.v2 as panels
            import wandb_workspaces.workspaces as parts
    except ImportError:
        raise UserError(f"the dashboard needs wandb-workspaces: {install('dashboard')}") from None

    def against_queries(title: str, *series: str) -> Any:
        return panels.LinePlot(title=title, x="teacher_queries", y=list(series), smoothing_factor=0.0)

    def matching(title: str, pattern: str, x: str) -> Any:
        return panels.LinePlot(title=title, x=x, metric_regex=pattern, smoothing_factor=0.0)

    def cost(name: str, result: str, total: bool) -> Any:
        x, y = panels.SummaryMetric(COSTS[name][total]), panels.SummaryMetric(f"result/{result}")
        title = f"{result} against {name}{' with preparation' if total else ''}"
        # a run that a cache answered has 0 queries, which a logarithmic axis has no place for
        return panels.ScatterPlot(title=title, x=x, y=y, log_x=name != "teacher queries")

    axis = panels.ParallelCoordinatesPlotColumn  # pyright: ignore[reportPrivateImportUsage]
    columns = [panels.Config("select.name"), panels.Config("select.ratio"), panels.Config("knowledge.name")]
    columns += [panels.SummaryMetric(name) for name in (*itertools.chain(*COSTS.values()), "result/score")]
    sections = {
        "Score against teacher queries": [against_queries(one, f"heldout/{one}") for one in RESULTS],
        "Schedules by ratio": [
            matching("share of each strategy", "^schedule/share_.*", "schedule/step"),
            panels.MediaBrowser(title="schedule of each run", media_keys=["figures/schedule"]),
        ],
        "Cost against score": [
            *(cost(name, "score", total) for name in COSTS for total in (True, False)),
            *(cost("teacher queries", "loss", total) for total in (True, False)),
            panels.ParallelCoordinatesPlot(columns=[axis(metric=column) for column in columns]),
        ],
        "What the selector sees and learns": [
            matching("Q of each strategy", "^selector/q_.*", "teacher_queries"),
            against_queries("reward", "selector/reward"),
            against_queries("observation", "selector/observation"),
        ],
        "Teachers and knowledge": [
            matching("queries of each teacher", "^queries/.*", "teacher_queries"),
            matching("weights of the terms", "^knowledge/weight_.*", "trainer/global_step"),
            matching("rows that heed each teacher", "^knowledge/asked_.*", "trainer/global_step"),
        ],
        "Figures": [
            panels.MediaBrowser(title=name, media_keys=[f"figures/{name}"]) for name in ("heldout", "q_values")
        ],
    }
    return parts.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[parts.Section(name=name, panels=of, is_open=i < 3) for i, (name, of) in enumerate(sections.items())],
        settings=parts.WorkspaceSettings(smoothing_weight=0, remove_legends_from_panels=False),
        # panels have no grouping of their own: a curve is the mean over runs that differ in the seed alone
        runset_settings=parts.RunsetSettings(groupby=[parts.Config(name) for name in GROUPED_BY]),
    )


def as_json(definition: Any) -> str:
    """A workspace as W&B's JSON, reproducible: the random ids of its panels are replaced by numbers."""
    document = json.loads(definition._to_model().model_dump_json(by_alias=True, exclude_none=True))
    sections = document["spec"]["section"]["panelBankConfig"]["sections"]
    for number, panel in enumerate(panel for section in sections for panel in section["panels"]):
        panel["__id__"] = f"panel{number}"
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # half a surrogate pair, of a project's name
