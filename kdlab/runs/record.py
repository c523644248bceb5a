"""The files of a run folder that are written during training: config.yaml, result.json ("running") and the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import yaml

from kdlab.callbacks.nonfinite import COLUMNS as EVENTS
from kdlab.runs.loggers.content import loggable
from kdlab.runs.prepare import PreparedRun
from kdlab.stages import ksm_training
from kdlab.storage import checkpoints
from kdlab.storage.files import atomic_write_json, atomic_write_text
from kdlab.storage.tables import Table

NOT_LOGGED = ("selected", "events", "probe")  # lists of row ids, several rows a step


class RunRecord:
    """Writer of a run's tables. Only the main rank (`main`) writes files; `logger` gets the same numbers once it is set."""

    def __init__(self, prepared: PreparedRun, main: bool) -> None:
        self.prepared, self.folder, self.main = prepared, prepared.folder, main
        self.tables: dict[str, Table] = {}
        self.logger: Any = None  # a Lightning logger

    def open(self, columns: Mapping[str, Sequence[str]]) -> None:
        """Write config.yaml and result.json, and open the tables (name: columns) at the step to resume from."""
        if not self.main:
            return
        prepared = self.prepared
        text = yaml.safe_dump(prepared.resolved, sort_keys=False, allow_unicode=True)
        atomic_write_text(self.folder / "config.yaml", text)
        prepared.identity["artifacts"] = list(prepared.stage.inputs.store.used)
        self._write_running()
        prepared.stage.inputs.caveats.save = self._write_running
        if prepared.ksm_log is not None:
            atomic_write_text(self.folder / ksm_training.LOG, prepared.ksm_log.read_text(encoding="utf-8"))
        step = checkpoints.step_of(prepared.checkpoint) if prepared.checkpoint else 0
        existing = {"events": EVENTS} if (self.folder / "events.csv").exists() else {}
        for name, names in {**columns, **existing}.items():
            self.tables[name] = Table(self.folder / f"{name}.csv", list(names))
            self.tables[name].rewind(step)

    def _write_running(self) -> None:
        """Write the result.json of a run that has not ended, with its caveats so far."""
        atomic_write_json(self.folder / "result.json", {"status": "running", **self.prepared.identity})

    def write(self, name: str, row: dict[str, Any]) -> None:
        """Append a row, which has a "step", to the table `name`, and log its numbers."""
        if (
            name == "events" and self.main and name not in self.tables
        ):  # created by the first event: most runs have none
            self.tables[name] = Table(self.folder / "events.csv", EVENTS)
        if name in self.tables:
            self.tables[name].write(row)
        if self.logger is not None and name not in NOT_LOGGED:
            self.logger.log_metrics(loggable(name, row), step=row["step"])

    def writer(self, name: str) -> Callable[[dict[str, Any]], None]:
        """`write` for the table `name`."""
        return partial(self.write, name)
