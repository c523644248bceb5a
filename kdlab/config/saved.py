"""Read the config.yaml of a run folder, also one that an older version wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdlab.config import spellings
from kdlab.config.targets import current_targets
from kdlab.storage import yaml_io


def read_config(run: Path) -> dict[str, Any]:
    """The configuration in `run`/config.yaml as plain containers, moved targets and keys under their present names.

    UserError for a file that cannot be read or is not a mapping.
    """
    return spellings.configuration(current_targets(yaml_io.read(run / "config.yaml")))
