"""What the W&B dashboard of a project of runs shows: schedules by ratio, score against queries, cost against score.

The series are those that `logger=wandb` writes (`kdlab.runs.loggers.base`, `kdlab.runs.loggers.wandb`).
"""

from __future__ import annotations

import json
import warnings
from typing import Any

from kdlab.errors import UserError

NAME = "kdlab: what a query buys"
RESULTS = ("score", "accuracy", "loss")
COSTS = {
    "teacher queries": "ledger/teacher_queries/total",
    "FLOPs": "ledger/flops/total",
    "seconds": "ledger/seconds/training",
}


def workspace(project: str, entity: str) -> Any:
    """The workspace's definition, an object of wandb-workspaces. UserError where that package is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of pydantic, about how its classes are written
            import wandb_workspaces.reports.v2 as panels
            import wandb_workspaces.workspaces as parts
    except ImportError:
        raise UserError('the dashboard needs wandb-workspaces: pip install "kdlab[dashboard]"') from None
    by_select, by_ratio = "config.select.name", "config.select.ratio"

    def against_queries(title: str, *series: str, by: str = by_select) -> Any:
        return panels.LinePlot(title=title, x="teacher_queries", y=list(series), groupby=by, smoothing_factor=0.0)

    def matching(title: str, pattern: str, x: str, by: str | None = None) -> Any:
        return panels.LinePlot(title=title, x=x, metric_regex=pattern, groupby=by, smoothing_factor=0.0)

    def cost(name: str, result: str) -> Any:
        x, y = panels.SummaryMetric(COSTS[name]), panels.SummaryMetric(f"result/{result}")
        return panels.ScatterPlot(title=f"{result} against {name}", x=x, y=y, log_x=True)

    axis = panels.ParallelCoordinatesPlotColumn  # pyright: ignore[reportPrivateImportUsage]
    columns = [panels.Config("select.name"), panels.Config("select.ratio"), panels.Config("knowledge.name")]
    columns += [panels.SummaryMetric(name) for name in (*COSTS.values(), "result/score")]
    sections = {
        "Score against teacher queries": [against_queries(one, f"heldout/{one}") for one in RESULTS],
        "Schedules by ratio": [
            matching("share of each strategy", "^schedule/share_.*", "schedule/step", by_ratio),
            panels.MediaBrowser(title="schedule of each run", media_keys=["figures/schedule"]),
        ],
        "Cost against score": [
            *(cost(name, "score") for name in COSTS),
            cost("teacher queries", "loss"),
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
        runset_settings=parts.RunsetSettings(groupby=[parts.Config("select.name"), parts.Config("select.ratio")]),
    )


def as_json(found: Any) -> str:
    """A workspace as the JSON that W&B keeps, the same every time: its panels' random ids are numbered."""
    told = json.loads(found._to_model().model_dump_json(by_alias=True, exclude_none=True))
    sections = told["spec"]["section"]["panelBankConfig"]["sections"]
    for number, panel in enumerate(panel for section in sections for panel in section["panels"]):
        panel["__id__"] = f"panel{number}"
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"
