"""Safe reading of untrusted YAML files, such as a run's config.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kdlab.errors import UserError

DEEPEST = 100  # libyaml's loader recurses: 20,000 levels end the process
ALIASES = 8  # aliases of aliases grow without bound when they are written out
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where PyYAML was built with libyaml


def read(file: Path) -> dict[str, Any]:
    """Read the plain values of a file with one mapping. UserError if it cannot be read or is nested too deeply."""
    try:
        text = file.read_text(encoding="utf-8")
        _check(file, text)
        values = yaml.load(text, Loader=_Loader)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:  # yaml raises all
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no configuration")
    return {str(key): value for key, value in values.items()}


def _check(file: Path, text: str) -> None:
    depth = aliases = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > DEEPEST or aliases > ALIASES:
            raise UserError(f"{file} is nested more than {DEEPEST} levels deep, or has more than {ALIASES} aliases")
