"""The names under which callbacks save their state: a checkpoint of an earlier version resumes."""

from __future__ import annotations

import importlib
import pkgutil

import pytorch_lightning as pl

from kdlab import callbacks

KEYS = {  # the names of the classes when the first checkpoints were written
    "Adopt": "Adopt",
    "CheckpointCallback": "Keep",
    "CostCallback": "Account",
    "KSMPhases": "KSMPhases",
    "LedgerState": "LedgerState",
    "MetricsLog": "MetricsLog",
    "NonFiniteGuard": "Guard",
    "Replay": "Replay",
    "Select": "Select",
    "Weigh": "Weigh",
}


def classes() -> list[type[pl.Callback]]:
    found = {}
    for module in pkgutil.iter_modules(callbacks.__path__, "kdlab.callbacks."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, type) and issubclass(value, pl.Callback) and value.__module__.startswith("kdlab."):
                found[name] = value
    return list(found.values())


def test_callbacks_with_state_keep_their_keys():
    leaves = [cls for cls in classes() if not cls.__subclasses__()]
    stateful = [cls for cls in leaves if cls.state_dict is not pl.Callback.state_dict]
    assert {cls.__name__: cls.state_key.fget(cls.__new__(cls)) for cls in stateful} == KEYS  # pyright: ignore
