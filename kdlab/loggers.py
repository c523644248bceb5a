"""Lightning loggers beside the run folder's own tables, and what may be told to them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kdlab import ranks
from kdlab.config import Config


def logger_of(config: Config, folder: Path, resolved: dict[str, Any]) -> Any:
    """A Lightning logger where one was asked for (the CSV tables are written anyway), else False."""
    if config.logger.name != "wandb":
        return False
    from pytorch_lightning.loggers import WandbLogger

    os.environ.setdefault("WANDB_SILENT", "true")
    given = config.logger
    logger = WandbLogger(
        project=given.project,
        entity=given.entity,
        group=given.group,
        name=f"{config.select.name}-r{config.select.ratio:g}-s{config.seed}",
        save_dir=folder,
        config=without_secrets(resolved),
        mode=given.mode,  # pyright: ignore[reportArgumentType]
    )
    if ranks.rank() == 0 and os.environ.get("LOCAL_RANK", "0") == "0":
        # what a query bought is the question, so queries are the x axis
        logger.experiment.define_metric("teacher_queries")
        for group in ("selector/*", "heldout/*", "train/*"):
            logger.experiment.define_metric(group, step_metric="teacher_queries")
    return logger


def without_secrets(node: Any) -> Any:
    """`node` without values whose key looks like a secret's."""
    if isinstance(node, dict):
        hidden = ("token_", "api_key", "apikey", "secret", "password", "credential")
        return {
            k: "(hidden)" if any(h in f"{k}_".lower() for h in hidden) and isinstance(v, str) else without_secrets(v)
            for k, v in node.items()
        }
    return [without_secrets(v) for v in node] if isinstance(node, list) else node


def loggable(name: str, row: dict[str, Any]) -> dict[str, float]:
    """A table's row for a logger: numbers only, in groups; the arm as one 0/1 series each, whose mean is its share."""
    prefixed = {}
    for key, value in row.items():
        if isinstance(value, int | float) and key not in ("step", "teacher_queries"):
            group, _, rest = key.partition("_")
            prefixed[
                f"{group}/{rest}" if name == "metrics" and rest and group in ("train", "heldout") else f"{name}/{key}"
            ] = value
    if row.get("arm") is not None:
        arms = [key[2:] for key in row if key.startswith("q_")] or [row["arm"]]
        prefixed |= {f"selector/arm_{arm}": float(arm == row["arm"]) for arm in arms}
    return {**prefixed, "teacher_queries": row.get("teacher_queries", 0)}
