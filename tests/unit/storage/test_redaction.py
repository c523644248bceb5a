"""kdlab.storage.redaction: recognition of secrets, and texts without them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdlab.storage.files import atomic_write_json
from kdlab.storage.redaction import HIDDEN, redact, secret_reason, secret_variables

AROUND = {
    "HF_TOKEN": "hf_abcdefghijklmnopqrstuv",
    "WANDB_API_KEY": "0123456789" * 4,
    "DB_PASSWORD": "correct horse",
    "AWS_SECRET_ACCESS_KEY": "abcdefgh12345678",
    "TOKENIZERS_PARALLELISM": "false123",
    "GOOGLE_APPLICATION_CREDENTIALS": "~/key.json",
    "SOME_TOKEN": "short",
    "HOME": "~",
    "KEYBOARD_LAYOUT": "german-with-dead-keys",
}


def test_which_variables_hold_secrets() -> None:
    assert set(secret_variables(AROUND)) == {"HF_TOKEN", "WANDB_API_KEY", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY"}


def test_containers_lose_what_looks_like_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "value-of-mine")
    given = {
        "logger": {"api_key": "x", "mode": "online"},
        "list": ["a value-of-mine b", "ghp_abcdefghijklmnopqrstuvwxyz", 1, None, 0.5],
        "url": "https://me:pass@host/path",
        "tokens": "kept", "reduce": "tokens",
    }  # fmt: skip
    assert redact(given) == {
        "logger": {"api_key": HIDDEN, "mode": "online"},
        "list": [f"a {HIDDEN} b", HIDDEN, 1, None, 0.5],
        "url": f"https://{HIDDEN}@host/path",
        "tokens": "kept", "reduce": "tokens",
    }  # fmt: skip


def test_the_reason_never_shows_the_secret() -> None:
    for name, value in AROUND.items():
        why = secret_reason("a.b", f"x{value}y", AROUND)
        assert (why is not None) == (name in secret_variables(AROUND))
        assert value not in (why or "")


def test_what_is_written_has_no_secret_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", AROUND["HF_TOKEN"])
    atomic_write_json(tmp_path / "a.json", {"error": f"401 for {AROUND['HF_TOKEN']} at the hub"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"error": f"401 for {HIDDEN} at the hub"}
