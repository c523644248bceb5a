"""Choose, open and close the Lightning logger of a run; the CSV tables of the run folder are written without one.

Each logger is a module (`wandb`, `tensorboard`) with three functions: `check` a configuration, `begin` a Lightning logger,
`complete` it with the results of a finished run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdlab.config.schema import Config
from kdlab.runtime import distributed
from kdlab.storage.redaction import redact

MODULES = ("wandb", "tensorboard")


def check(config: Config) -> None:
    """UserError where the chosen logger lacks a package or an account."""
    if config.logger.name in MODULES:
        _module(config.logger.name).check(config)


def logger_of(config: Config, folder: Path, resolved: dict[str, Any]) -> Any:
    """The Lightning logger that the configuration names, without secrets in its config; False for none."""
    if config.logger.name not in MODULES:
        return False
    return _module(config.logger.name).begin(config, folder, redact(resolved))


def complete(config: Config, logger: Any, folder: Path, result: Mapping[str, Any]) -> None:
    """Log the results of a run from its folder, and close the logger, whatever logging raises; on rank 0."""
    if logger is not None and distributed.rank() == 0:
        with closing(logger):
            _module(config.logger.name).complete(logger, folder, redact(dict(result)))
        close(logger)


@contextmanager
def closing(logger: Any) -> Iterator[None]:
    """Close the logger if the block fails, and re-raise the error, whatever closing raises."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            close(logger)
        raise


def close(logger: Any) -> None:
    """Flush and close the logger; on rank 0."""
    if logger is not None and distributed.rank() == 0:
        finish = getattr(logger.experiment, "finish", None) or logger.experiment.close
        finish()


def _module(name: str) -> Any:
    if name == "wandb":
        from kdlab.runs.loggers import wandb

        return wandb
    from kdlab.runs.loggers import tensorboard

    return tensorboard
