"""One example of a causal language model: a prompt with its completion, or a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

REPLY = "assistant"  # the role whose messages are learnt


@dataclass(frozen=True)
class Example:
    """A prompt with its completion, or a conversation of `messages`, each with "role" and "content".

    `where` it stands, for messages; `heldout`: whether it is held out, None where a share of all rows is; `teacher`: the one
    that a column names, as it is written.
    """

    where: str
    prompt: str = ""
    completion: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    heldout: bool | None = None
    teacher: str | None = None
