"""The forecast of a run beside its real cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdlab.config.schema import Config
from kdlab.runs import budget
from kdlab.runs.closing import costs
from kdlab.runs.forecast.forecast import Forecast
from kdlab.runtime.devices import peak_memory
from kdlab.storage.files import read_json

FILE = "plan.json"  # in the run folder: the forecast, which a resumed run keeps
SKIPPED = ("figures", "predictions")  # folders of a run that no forecast counts


def beside_real(folder: Path, result: Mapping[str, Any], device: torch.device, config: Config) -> dict[str, Any] | None:
    """The entry `plan` of result.json: `forecast` and `real` teacher queries, FLOPs, seconds of training, bytes of memory and
    disk, and a price where there are rates; None for a run without a forecast. `steps`: forecast and real ones."""
    if not (folder / FILE).is_file():
        return None
    found, own = Forecast.of_json(read_json(folder / FILE)), costs.own(result)
    run, seconds = found.run, own.seconds or 0.0
    expected = {"queries": run.queries, "flops": run.flops, "seconds": run.seconds}
    real = {"queries": own.queries, "flops": own.flops, "seconds": seconds}
    if run.price is not None:
        expected["price"] = run.price
        real["price"] = budget.price(config.budget, own.queries, seconds * result["devices"]["world"])
    expected |= {"memory": found.memory, "disk": found.disk}
    real |= {"memory": peak_memory(device), "disk": _bytes_in(folder)}
    return {"steps": {"forecast": run.steps, "real": result["steps"]}, "forecast": expected, "real": real}


def _bytes_in(folder: Path) -> int:
    """Bytes of the files of a run, without figures and predictions."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.relative_to(folder).parts[0] not in SKIPPED]
    return sum(file.stat().st_size for file in files)
