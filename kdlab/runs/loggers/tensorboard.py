"""TensorBoard (`logger=tensorboard`), a dashboard without an account: `tensorboard --logdir outputs`.

Its x axis is the step. Held-out scores are logged a second time below `by_queries/`, with teacher queries as the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from kdlab.config.schema import Config
from kdlab.errors import UserError, install
from kdlab.runs.decoding import samples
from kdlab.runs.loggers import content

FOLDER = "tensorboard"  # in the run folder


def check(config: Config) -> None:
    """UserError where the package is missing."""
    if find_spec("tensorboard") is None:
        raise UserError(f"logger=tensorboard: tensorboard is not installed; {install('tensorboard')}")


def begin(config: Config, folder: Path, resolved: dict[str, Any]) -> Any:
    """Open the Lightning logger of a run; `resolved` is its configuration."""
    from pytorch_lightning.loggers import TensorBoardLogger
    from pytorch_lightning.utilities import rank_zero_only

    class ByQueries(TensorBoardLogger):
        @rank_zero_only
        def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
            super().log_metrics(dict(metrics), step)
            for name, value in metrics.items():
                if name.startswith("heldout/") and "teacher_queries" in metrics:
                    self.experiment.add_scalar(f"by_queries/{name}", value, int(metrics["teacher_queries"]))

        @rank_zero_only
        def save(self) -> None:
            """Do nothing: the base class would write an empty hparams.yaml."""

    logger = ByQueries(folder, name=None, version=FOLDER, default_hp_metric=False)
    if logger.experiment is not None:
        about = f"{content.title(config)} of {content.group(config)}"
        text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)
        logger.experiment.add_text("config", f"{about}\n\n" + "".join(f"    {line}\n" for line in text.splitlines()))
    return logger


def complete(logger: Any, folder: Path, result: Mapping[str, Any]) -> None:
    """Write the schedule by window, the figures, scores and ledger, and the result as a table."""
    from matplotlib.image import imread

    writer = logger.experiment
    for row in content.schedule(folder, result["steps"]):
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(f"schedule/{name}", value, round(row["step"]))
    for name, value in content.summary(result).items():
        writer.add_scalar(name, value, result["steps"])
    for file in sorted((folder / "figures").glob("*.png")):
        writer.add_image(f"figures/{file.stem}", imread(file)[:, :, :3], result["steps"], dataformats="HWC")
    row = content.table_row(result)
    cells = [" | ".join(map(str, one)) for one in (row, ["---"] * len(row), row.values())]
    for name, text in content.caveats(result).items():
        writer.add_text(name, text, result["steps"])
    for number, sample in enumerate(samples.read(folder)):
        lines = (
            f"**{name}**\n\n" + "\n".join(f"    {line}" for line in text.split("\n")) for name, text in sample.items()
        )
        writer.add_text(f"samples/{number}", "\n\n".join(lines), result["steps"])
    writer.add_text("result", "\n".join(f"| {line} |" for line in cells), result["steps"])
