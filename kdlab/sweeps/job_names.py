"""Names of the folders of a sweep's jobs: `random-r0.1-s1`, to be typed in a shell and in an override without quotes.

A name has the selection, its ratio, what else differs between the jobs, and the seed. It follows from the job alone, so that a
sweep with one more strategy, ratio or seed finds its finished jobs again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override

ALWAYS = ("select", "select.ratio", "seed")  # in every name, and never in the hash of the sweep's folder
LONGEST = 160  # characters before the seed; of a longer name the rest is a hash
_SHORT = re.compile(r"(?:trainer|optim|data)\.(\w+)")  # groups whose keys are named without them
_OTHER = re.compile(r"[^A-Za-z0-9._]+")
_DIGITS = 6  # of the hash of a value that has other characters


def plain_name(resolved: Mapping[str, Any], apart: Sequence[Override]) -> str:
    """The name of a job by its resolved configuration and the overrides that other jobs do not share."""
    select = resolved["select"]
    chosen = [str(one.value()) for one in apart if one.key_or_group == "select" and not one.is_delete()]
    name = chosen[-1] if chosen else str(select["name"])
    others = sorted(_part(one) for one in apart if one.key_or_group not in ALWAYS)
    ratio = [] if name == "all" and select["ratio"] == 1 else [f"r{_plain(re.sub(r'[.]0$', '', str(select['ratio'])))}"]
    parts = [_plain(name), *ratio, *others]
    if len("-".join(parts)) > LONGEST:
        parts = [*parts[:2], hashlib.sha256("-".join(parts).encode()).hexdigest()[:_DIGITS]]
    return "-".join([*parts, f"s{resolved['seed']}"])


def _part(one: Override) -> str:
    """The key and the value of an override; of one that removes a key `no_KEY`."""
    key = str(one.key_or_group)
    short = _SHORT.fullmatch(key)
    name = _plain((short[1] if short else key).replace("/", "."))
    return f"no_{name}" if one.is_delete() else f"{name}_{_plain(str(one.get_value_string()))}"


def _plain(text: str) -> str:
    """A text in letters, digits, dots and underscores: as it is, or readable with a hash of what it was."""
    bare = _OTHER.sub("_", text.rstrip("/").rsplit("/", 1)[-1]).strip("_.") or "x"
    return bare if bare == text else f"{bare[:40]}_{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}"
