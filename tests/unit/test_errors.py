"""Messages a user reads: one line, whatever was found."""

from __future__ import annotations

import pickle

from kdlab.errors import UserError


def test_a_message_is_one_line_that_steers_no_terminal() -> None:
    error = UserError("data.path='a\nb\x1b[2J\u2028\ud800': not there")
    assert str(error) == r"data.path='a\nb\x1b[2J\u2028\ud800': not there"
    assert str(UserError("größer als 3 – ‘ok’ 数")) == "größer als 3 – ‘ok’ 数"


def test_a_message_that_comes_from_another_process_is_the_same() -> None:
    error = UserError("a\nb")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
