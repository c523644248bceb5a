"""Detection and removal of secrets in settings and texts. Configurations with secrets are refused.

kdlab has no setting that takes a secret: libraries read HF_TOKEN, WANDB_API_KEY and the like from the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "(hidden)"
_SHORTEST = 8  # characters; a shorter value of a variable is a switch, not a secret
_NAMED = re.compile(
    r"(?:^|[_.\-])(?:token|api_?key|secret|passw(?:or)?d|passphrase|credentials?|private_?key|access_?key|_key)(?:$|[_\-\[])",
    re.IGNORECASE,
)
_VARIABLES = re.compile(
    r"(?:TOKEN|KEY|SECRET|PASSW(?:OR)?D|PASSPHRASE|CREDENTIALS?|AUTH)(?:$|_(?:ID|VALUE|\d+)$)", re.IGNORECASE
)
# the published forms of keys of model hubs, trackers, code hosts and clouds; a URL with a password; a private key
_SHAPED = re.compile(
    r"""\bhf_[A-Za-z0-9]{16,} | \bapi_org_[A-Za-z]{16,} | \bwandb_v\d+_\w{16,} | \bsk-[\w\-]{16,}
    | \bgh[pousr]_[A-Za-z0-9]{16,} | \bgithub_pat_\w{16,} | \bglpat-[\w\-]{16,} | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b
    | \bxox[abeoprs]-[\w\-]{10,} | \bAIza[\w\-]{30,} | \beyJ[\w\-]{10,}\.eyJ[\w\-]{10,}\.[\w\-]*
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@) | -----BEGIN[A-Z ]*PRIVATE\ KEY-----""",
    re.VERBOSE,
)
_HEX = re.compile(r"[0-9a-f]{40}")  # a W&B key of the older form; a git revision looks the same


def secret_reason(key: str, value: str, environment: Mapping[str, str] | None = None) -> str | None:
    """The reason why the value of a setting looks like a secret, without showing it; None if it does not."""
    last = key.rsplit(".", 1)[-1]
    for name, secret in secret_variables(environment).items():
        if secret in value:
            return f"it holds the value of the environment variable {name}"
    if _SHAPED.search(value):
        return "it has the form of a key or password"
    if _HEX.fullmatch(value) and last != "revision":
        return "40 hexadecimal digits are the form of an API key"
    if value and _NAMED.search(last):
        return "it is called like one"
    return None


def secret_variables(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables with names of secrets, and their values, the longest first."""
    variables = os.environ if environment is None else environment
    secrets = {
        name: value
        for name, value in variables.items()
        if _VARIABLES.search(name) and len(value) >= _SHORTEST and not value.startswith(("/", "~"))
    }
    return dict(sorted(secrets.items(), key=lambda pair: -len(pair[1])))


def redact_values(text: str) -> str:
    """Hide the values of secret environment variables in `text`."""
    for value in secret_variables().values():
        text = text.replace(value, HIDDEN)
    return text


def redact(node: Any, key: str = "") -> Any:
    """Hide all that looks like a secret in a text, or in containers of texts; `key` is the name of the setting."""
    if isinstance(node, dict):
        return {name: redact(value, str(name)) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [redact(value, key) for value in node]
    if not isinstance(node, str):
        return node
    shown = _SHAPED.sub(HIDDEN, redact_values(node))
    return HIDDEN if secret_reason(key, shown) else shown
