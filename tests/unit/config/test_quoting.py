"""Values beyond ASCII and with Hydra's syntax; printed commands survive a shell (shlex.split) and Hydra (composition)."""

from __future__ import annotations

import shlex

import pytest
from hydra.errors import HydraException

from kdlab.config import quoting
from kdlab.config.composition import composition, error_line

PLAIN = ["/tmp/a b", "runs/x.y-z_1", "a+b", "C:\\x"]
BEYOND_ASCII = ["/tmp/données", "/данные/rows", "日本", "~/x", "a#b", "a;b & c", "e^x!", "été ü/d"]
SYNTAX = [
    "a=b",
    "a,b",
    "a(b)",
    "a[1]",
    "a'b",
    'a"b',
    "{a",
    "é=ü, 'x' (1)",
    "a\\'b",
    "end\\",
    "$HOME/é",
    "1.5",
    "true",
    "null",
    "",
    " a ",
]


def path_of(*overrides: str) -> object:
    return composition(["+exp=adads_finetune", *overrides])[0].data.path


@pytest.mark.parametrize("text", [*PLAIN, *BEYOND_ASCII])
def test_a_path_without_syntax_is_read_as_it_is_typed(text):
    assert path_of(quoting.literal(f"data.path={text}")) == text


@pytest.mark.parametrize(
    "line", ["a.b=1", "a=[1,2]", "a={x: é}", "~select.reward", "+a='é'", 'a="é"', "no value", "a=choice(é,b)"]
)
def test_other_overrides_stay_as_they_are(line):
    assert quoting.literal(line) == line


@pytest.mark.parametrize("text", [*PLAIN, *BEYOND_ASCII, *SYNTAX])
def test_a_printed_command_can_be_pasted(text):
    printed = quoting.command(["+exp=adads_finetune", quoting.override("data.path", text)])
    assert printed.startswith("python -m kdlab.run +exp=adads_finetune ")
    assert path_of(*shlex.split(printed)[4:]) == text


@pytest.mark.parametrize("text", ["a=b", "a(b", "é=ü", "a[1]", "a'b", "x,y"])
def test_the_error_of_a_value_with_syntax_shows_how_to_type_it(text):
    line = f"data.path={text}"
    with pytest.raises(HydraException) as caught:
        path_of(quoting.literal(line))
    message = error_line(caught.value)
    assert message.startswith(f"{line}: ")
    typed = message.rpartition("as one text: ")[2]
    assert path_of(*shlex.split(typed)) == text


def test_what_needs_no_quotes_is_not_told_to_have_them():
    with pytest.raises(HydraException) as caught:
        path_of("select.ratio")
    assert "quote" not in error_line(caught.value) and "as one text" not in error_line(caught.value)
