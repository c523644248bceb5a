"""`prose` reads any string: it never raises, leaves no markup behind and takes time linear in the text."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlab.data.text.mediawiki import LINE_WORDS, prose

PIECES = """
{{ }} [[ ]] {| |} | || = == === ' '' ''' * # : ; [ ] http:// <ref> </ref> <ref/> <ref <!-- --> <math> </math> <b> <br> <div>
<nowiki> </nowiki> &lt; &#91; &#x5b; &nbsp; word sentence. File:a Category:b lang convert ( ) , -
"""
markup = st.lists(st.sampled_from([*PIECES.split(), " ", "\n", "\n\n"]), max_size=60).map("".join) | st.text(
    max_size=200
)


@settings(deadline=None, max_examples=300)
@given(markup)
def test_any_string_gives_clean_lines(text: str) -> None:
    shown = prose(text + "\n\nA last line that is prose.")
    assert not re.search(r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|  ", shown)
    for line in shown.split("\n") if shown else []:
        assert line == line.strip()
        assert len(line.split(" ")) >= LINE_WORDS


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(["Plain words make prose here.", "Another sentence, with a comma."]), min_size=1))
def test_plain_paragraphs_pass_unchanged(lines: list[str]) -> None:
    assert prose("\n\n".join(lines)) == "\n".join(lines)


@pytest.mark.parametrize(
    "piece", ["{{a|", "[[b|", "<ref name='", "<b a=", "{{a|[[b|", "}}{{", "\n{|", "( ,", "<nowiki>", "''"]
)
def test_unclosed_markup_takes_no_quadratic_time(piece: str) -> None:
    """40,000 repetitions take 0.1 to 0.2 s; a quadratic reader needs minutes. The bound is wide on purpose."""
    start = time.process_time()  # of this process: other programs do not count
    prose(piece * 40_000)
    assert time.process_time() - start < 5
