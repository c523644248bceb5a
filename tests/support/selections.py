"""The choices of `select=`, read from conf/select: a new file there is tested everywhere without being listed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_object

from kdlab.methods.marks import marks_of

CONF = Path(__file__).resolve().parents[2] / "conf"
SELECTIONS = sorted(file.stem for file in (CONF / "select").glob("*.yaml"))


@cache
def arms(choice: str) -> dict[str, Any]:
    """The arms of a choice, by name, those of its bases included. `choice`: its file below conf/, without suffix."""
    file = CONF / f"{choice}.yaml"
    config = yaml.safe_load(file.read_text())
    merged: dict[str, Any] = {}
    for base in config.get("defaults", ["_self_"]):
        if base == "_self_":
            merged |= config.get("arms", {})
        else:
            name = base.removesuffix("@_here_")
            merged |= arms(name[1:] if name.startswith("/") else f"{Path(choice).parent}/{name}")
    return merged


def settings(choice: str) -> list[str]:
    """Settings that a run of select=`choice` takes beside it: a cache, where some arm reads the teacher's answers."""
    needs = {
        field for arm in arms(f"select/{choice}").values() for field in marks_of(get_object(arm["_target_"])).needs
    }
    return ["teachers.cache=disk"] if needs & {"teacher", "reference_loss"} else []


ARMS = {name: arms(f"select/{name}") for name in SELECTIONS}
SINGLE = [name for name in SELECTIONS if list(ARMS[name]) == [name]]  # one strategy each; `all` and policies are not
ON_TEXT = [  # choices for pre-training: of strategies that need no class of a row
    name for name in SELECTIONS if not any(marks_of(get_object(arm["_target_"])).per_row for arm in ARMS[name].values())
]
MIXED = [  # a bandit with all that mixes random rows in, and observations of the rows that are scored
    "select=adads", "select.explore=0.5", "select.temperature=0.5", "select.importance=true", "select.warmup=0.25",
    "select.look=0.75", "select.observe=scored", "select.interval=2",
]  # fmt: skip
STRATEGY_NAMES = sorted({arm["_target_"].rpartition(".")[2] for some in ARMS.values() for arm in some.values()})
