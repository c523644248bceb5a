"""Lightning loggers beside the run folder's own tables, and what may be told to them.

A logger is a room of its own (`wandblogs`, `tensorboardlogs`) that can `check` a configuration, `begin` a Lightning logger
and `complete` it with what is known when the run is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdlab.config.schema import Config
from kdlab.runtime import distributed
from kdlab.storage.redaction import redact

ROOMS = ("wandb", "tensorboard")


def check(config: Config) -> None:
    """UserError where the chosen logger lacks a package or an account."""
    if config.logger.name in ROOMS:
        _room(config.logger.name).check(config)


def logger_of(config: Config, folder: Path, resolved: dict[str, Any]) -> Any:
    """A Lightning logger where one was asked for (the CSV tables are written anyway), else False."""
    if config.logger.name not in ROOMS:
        return False
    return _room(config.logger.name).begin(config, folder, redact(resolved))


def complete(config: Config, logger: Any, folder: Path, result: Mapping[str, Any]) -> None:
    """Tell the logger of a finished run what its folder holds by then, and close it; on rank 0."""
    if logger is not None and distributed.rank() == 0:
        _room(config.logger.name).complete(logger, folder, redact(dict(result)))
        close(logger)


@contextmanager
def closing(logger: Any) -> Iterator[None]:
    """Close the logger if the block fails; the error goes on, whatever the logger says to that."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            close(logger)
        raise


def close(logger: Any) -> None:
    """Have the logger write what it holds back; on rank 0."""
    if logger is not None and distributed.rank() == 0:
        finish = getattr(logger.experiment, "finish", None) or logger.experiment.close
        finish()


def _room(name: str) -> Any:
    if name == "wandb":
        from kdlab.runs.loggers import wandb

        return wandb
    from kdlab.runs.loggers import tensorboard

    return tensorboard
