"""Analyses of one run's student: agreement of gradients, selected rows, t-SNE of its features.

Each takes an `OpenRun` and returns an `AnalysisResult`. Rows and teacher come from the artifact store, or are prepared
again as in the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kdlab.data.tasks.dataset import TokenizedRows
from kdlab.errors import UserError, install
from kdlab.methods.selection import strategies
from kdlab.models.encoder import Encoder
from kdlab.modules.row_pool import ALL, row_pool, selection_mask, selection_rows
from kdlab.plotting import style
from kdlab.reporting.analyses.gradients import cosines
from kdlab.reporting.analyses.open_run import OpenRun
from kdlab.runtime.progress import track
from kdlab.storage import checkpoints, tables
from kdlab.types import Evidence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATIOS = tuple(tenth / 10 for tenth in range(1, 11))


@dataclass(frozen=True)
class AnalysisResult:
    """An analysis: the `columns` and `rows` of its table, and the figure drawn from them.

    `nothing`: the reason why it shows nothing, "" where it does; `remarks`: lines on what the figure leaves out.
    """

    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    figure: Figure
    nothing: str = ""
    remarks: Sequence[str] = ()


def gradients(run: OpenRun, rows: int, names: Sequence[str] | None, head: bool) -> AnalysisResult:
    """Share of the selected rows where the gradients of label and distillation loss are less than 90 degrees apart.

    AdaDS Fig. 1. With regard to all trained parameters, or (`head`) to the head's alone, which is far cheaper for a
    classifier. On masked text the label loss is that of the masked words (masks of the analysis' own). Dropout is off.
    Table: strategy, ratio, rows (selected), agree (share), cosine (mean).
    """
    arms, soft = run.strategies(names), run.soft_loss()
    every = list(run.batches(rows))
    count = sum(map(len, every))
    parameters = run.student.head_parameters() if head else [p for p in run.student.parameters() if p.requires_grad]
    _ = run.teacher
    run.notify(f"gradients of {count} rows, one at a time, by {sum(p.numel() for p in parameters):,} parameters")
    parts: list[Tensor] = []
    kept: dict[tuple[str, float], list[Tensor]] = {(name, ratio): [] for name in arms for ratio in RATIOS}
    for batch in track(every, "gradients", "batches"):
        batch = batch.to(run.device)
        pool = run.row_pool(batch)
        for (name, ratio), mine in kept.items():
            mine.append(selection_mask(pool, arms[name], ratio, run.config.seed, "gradients", name))
        parts.append(cosines(run.student, batch, run.told(batch), soft, parameters))
    cosine = torch.cat(parts)
    table_rows = []
    for name in arms:
        for ratio in RATIOS:
            mine = cosine[torch.cat(kept[name, ratio])]
            agree, mean = float((mine > 0).double().mean()), float(mine.mean())
            table_rows.append({"strategy": name, "ratio": ratio, "rows": len(mine), "agree": agree, "cosine": mean})
    whole = 100 * float((cosine > 0).double().mean())
    figure = style.canvas(4.2, "Where labels and teacher pull the same way: share of selected rows", run.about)
    axes = style.panel(figure, 0.6, 2.75)
    lines = {n: [(r["ratio"], 100 * r["agree"]) for r in table_rows if r["strategy"] == n] for n in arms}
    style.lines(axes, lines, {f"all rows  {whole:.0f} %": whole})
    style.caption(axes, f"gradients less than 90° apart (% of selected rows, {count} looked at)")
    style.shares(axes, RATIOS)
    axes.set_xlabel("selection ratio")
    return AnalysisResult(("strategy", "ratio", "rows", "agree", "cosine"), table_rows, figure)


def selected(run: OpenRun, rows: int, names: Sequence[str] | None) -> AnalysisResult:
    """Teacher's entropy of the selected rows and their distance to their class's centre, over training.

    Dynamic KD, Fig. 4. From the run's selected.csv where it traced them (`kdlab.callbacks.selection_trace`); otherwise of `rows` rows at
    the points that are left of a run: its start, its kept checkpoints and its end. Table: step, strategy ("all": no
    selection), rows, teacher_entropy (nats), distance.
    """
    if run.regression:
        raise UserError("this task is regression: there is no class centre and no entropy to read")
    _ = run.teacher  # a run without one is refused before its students are read
    noted = _noted(run) or _looked(run, rows, names)
    arms = list(dict.fromkeys(row["strategy"] for row in noted))
    for name in names or ():
        if name not in arms:
            raise UserError(f"{run.run / 'selected.csv'} has no strategy {name}; it has {', '.join(arms)}")
    ids = [np.array(row["rows"].split(), dtype=np.int64) for row in noted]
    entropy = _entropies(run, np.unique(np.concatenate(ids)))
    table_rows = [
        {
            "step": int(row["step"]),
            "strategy": row["strategy"],
            "rows": len(mine),
            "teacher_entropy": float(np.mean([entropy[i] for i in mine.tolist()])),
            "distance": float(row["distance"]),
        }
        for row, mine in zip(noted, ids, strict=True)
        if names is None or row["strategy"] in (*names, ALL)
    ]
    figure = style.canvas(5.6, "Rows that selection keeps, over training", run.about)
    below = style.panel(figure, 0.54, 1.85)
    above = style.panel(figure, 2.85, 1.85, sharex=below)
    above.tick_params(labelbottom=False)
    for axes, column in ((above, "teacher_entropy"), (below, "distance")):
        series: dict[str, list[tuple[float, float]]] = {}
        for row in table_rows:
            series.setdefault(row["strategy"], []).append((row["step"], row[column]))
        style.lines(axes, series, against=ALL)
    style.caption(above, "entropy of the teacher (nats)")
    style.caption(below, "distance to the class's centre (student's features)")
    below.set_xlabel("training step")
    return AnalysisResult(("step", "strategy", "rows", "teacher_entropy", "distance"), table_rows, figure)


def _noted(run: OpenRun) -> list[dict[str, str]]:
    path = run.run / "selected.csv"
    return tables.read(path) if path.is_file() else []


def _looked(run: OpenRun, rows: int, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Rows of selected.csv made now, from the students that the run folder still holds."""
    kept = sorted((run.run / "checkpoints").glob("step-*.ckpt"))
    run.notify(
        f"{run.run} has no selected.csv (runs with trainer.trace_every= write one): looking at its start, "
        f"{len(kept)} checkpoint{'' if len(kept) == 1 else 's'} and its end"
    )
    arms, ratio, every = run.strategies(names), run.ratio(None), list(run.batches(rows))
    table_rows = []

    def point(encoder: Encoder, step: int) -> None:
        pool = row_pool(encoder, every, run.device)
        table_rows.extend(selection_rows(pool, arms, ratio, step, step / run.steps, run.config.seed))

    encoder = run.start()
    point(encoder, 0)
    for path in kept:
        run.restore(encoder, path)
        point(encoder, checkpoints.step_of(path))
    point(run.student, run.steps)
    return table_rows


def _entropies(run: OpenRun, ids: np.ndarray) -> dict[int, float]:
    """The entropy of the teacher's answer to each training row in `ids`, in nats; each is asked once."""
    train: TokenizedRows = run.data.train
    if ids.min() < 0 or ids.max() >= len(train):
        raise UserError(f"{run.run / 'selected.csv'} names row {ids.max()}, the data has {len(train)} training rows")
    run.notify(f"{len(ids):,} teacher queries, of this analysis alone")
    ids, size = ids[np.argsort(train.lengths[ids], kind="stable")], run.data.batch_size
    collate, entropies = train.collate(run.data.pad), {}
    for start in track(range(0, len(ids), size), "asking the teacher", "batches"):
        batch = collate([train[0, int(i)] for i in ids[start : start + size]]).to(run.device)
        values = strategies.entropy(Evidence(logits=run.told(batch)))
        entropies |= dict(zip(batch.rows.tolist(), values.tolist(), strict=True))
    return entropies


def tsne(run: OpenRun, rows: int, names: Sequence[str] | None, ratio: float | None) -> AnalysisResult:
    """t-SNE of the features that the student's classifier reads of each row, with the selected rows marked.

    Dynamic KD, Fig. 5 (which shows margin and random). Table: row, x, y, label, selected_<strategy> (0 or 1). Needs
    scikit-learn; UserError where it is missing.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UserError(f"t-SNE needs scikit-learn: {install('analysis')}") from error
    share = run.ratio(ratio)
    arms = run.strategies(names, ["margin", "random"] if not run.regression else ["density", "random"])
    pool = row_pool(run.student, run.batches(rows), run.device)
    if len(pool) < 4:
        raise UserError(f"t-SNE of {len(pool)} rows says nothing: --rows 4 or more")
    picks = {name: selection_mask(pool, s, share, run.config.seed, "tsne", name) for name, s in arms.items()}
    features = pool.features.double().numpy()
    perplexity = min(30.0, (len(pool) - 1) / 3)
    # PCA's own start fails on features with fewer than two dimensions of spread
    place = TSNE(2, perplexity=perplexity, init="random", random_state=run.config.seed % 2**32).fit_transform(features)
    named = run.shape.labels
    labels = [named[int(x)] if named else float(x) for x in pool.labels.tolist()]
    table_rows = [
        {"row": int(row), "x": float(x), "y": float(y), "label": label}
        | {f"selected_{name}": int(mine[i]) for name, mine in picks.items()}
        for i, (row, (x, y), label) in enumerate(zip(pool.rows.tolist(), place.tolist(), labels, strict=True))
    ]
    title = f"Which rows are selected ({100 * share:g} %), among {len(pool)} by t-SNE of the student's features"
    figure = style.scatter(title, run.about, place, labels, {n: mine.numpy() for n, mine in picks.items()})
    return AnalysisResult(("row", "x", "y", "label", *(f"selected_{name}" for name in arms)), table_rows, figure)
