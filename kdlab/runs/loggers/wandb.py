"""Weights & Biases (`logger=wandb`): offline unless `logger.mode=online`; a sweep's runs are one group.

Teacher queries are the x axis of scores, losses and the selector's values: they are the cost that selection saves.
"""

from __future__ import annotations

import netrc
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kdlab.config.schema import Config
from kdlab.errors import UserError
from kdlab.runs.decoding import samples
from kdlab.runs.loggers import content
from kdlab.runtime import distributed
from kdlab.storage.files import atomic_write_text

BY_QUERIES = ("selector/*", "heldout/*", "train/*", "queries/*")
BY_STEP = "schedule/step"


def check(config: Config) -> None:
    """UserError for the online mode without an account: W&B would prompt for one, and a sweep has no terminal."""
    if config.logger.mode == "online" and not account():
        raise UserError(
            "logger.mode=online: no account was found; set WANDB_API_KEY, run `wandb login`, or leave logger.mode=offline "
            "(`wandb sync` sends such runs later)"
        )


def account() -> bool:
    """True if WANDB_API_KEY or a netrc file has a key for the server. kdlab does not read the key itself."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for name in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            if name and netrc.netrc(os.path.expanduser(name)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def silence() -> None:
    """Turn off W&B's messages, and the reports on its own use and errors that it sends to its maker, unless asked for."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


def begin(config: Config, folder: Path, resolved: dict[str, Any]) -> Any:
    """Open the Lightning logger of a run; a run resumed in the same folder continues the same W&B run."""
    silence()
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    given = config.logger
    main = distributed.rank() == 0 and os.environ.get("LOCAL_RANK", "0") == "0"
    logger = WandbLogger(
        project=given.project,
        entity=given.entity,
        group=content.group(config),
        name=content.title(config),
        tags=content.tags(config),
        id=_id(folder) if main else None,
        resume="allow",
        save_dir=folder,
        config={**resolved, "compared": content.compared(resolved)},
        mode=given.mode,  # pyright: ignore[reportArgumentType]
        # a git remote's address and the printed lines may contain a secret
        settings=wandb.Settings(console="off", disable_git=True, disable_code=True),
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning always passes it, and W&B warns about it
    if main:
        logger.experiment.define_metric("teacher_queries")
        for series in BY_QUERIES:
            logger.experiment.define_metric(series, step_metric="teacher_queries")
        logger.experiment.define_metric(BY_STEP)
        logger.experiment.define_metric("schedule/share_*", step_metric=BY_STEP)
    return logger


def complete(logger: Any, folder: Path, result: Mapping[str, Any]) -> None:
    """Log the schedule by window, the figures, the result as a table; scores, ledger and caveats go into the summary."""
    import wandb

    run = logger.experiment
    run.tags = (*run.tags, content.metric_of(result))
    for row in content.schedule(folder, result["steps"]):
        run.log({f"schedule/{name}": value for name, value in row.items()})
    row = content.table_row(result)
    pictures = sorted((folder / "figures").glob("*.png"))
    run.log(
        {
            "result/table": wandb.Table(columns=list(row), data=[list(row.values())]),
            **{f"figures/{file.stem}": wandb.Image(str(file)) for file in pictures},
        }
    )
    if said := samples.read(folder):
        run.log({"samples": wandb.Table(columns=list(said[0]), data=[list(sample.values()) for sample in said])})
    run.summary.update({**content.summary(result), **content.caveats(result)})


def _id(folder: Path) -> str:
    file = folder / "wandb" / "id"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(file, secrets.token_hex(4))
    return file.read_text().strip()
