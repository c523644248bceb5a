"""Wiki markup to prose: each construct against text written by hand, and the excerpt that gensim's wheel carries."""

from __future__ import annotations

import bz2
import hashlib
import html
import importlib.util
from pathlib import Path

import pytest

from kdlab.data.text.mediawiki import CLEANING, STUB, articles, prose
from kdlab.errors import UserError

END = " and this ends the sentence here."


INLINE = [
    ("'''Bold''' and ''italic''", "Bold and italic"),
    ("''Eagle'''s wings", "Eagle's wings"),
    ("[[link]] and [[target|label]]s", "link and labels"),
    ("[[Mars (god)|]] and [[:Category:Gods]]", "Mars and Gods"),
    ("[[wikt:word]] in [[wikt:dictionary|a dictionary]]", "word in a dictionary"),
    ("[[File:a.jpg|thumb|a [[caption]] with {{nowrap|text}}]]Picture", "Picture"),
    ("[[Category:Gods|Mars]][[de:Mars]]Mars", "Mars"),
    ("site [http://example.org the site]", "site the site"),
    ("x<ref>{{cite|t=1}} [[a]]</ref><ref name=b /> y", "x y"),
    ("x<!-- a [[comment]] --> y", "x y"),
    ("H<sub>2</sub>O <small>is</small> water", "H2O is water"),
    ("formula <math>{\\frac{{a}}{b}}</math>gone", "formula gone"),
    ("{{Infobox\n| a = {{nested|[[b|c]]}}\n| d = 2\n}}Text", "Text"),
    ("Greek {{lang|grc|ἀναρχία}} or {{lang-la|mos}}", "Greek ἀναρχία or mos"),
    ("{{convert|5|km|mi}} or {{convert|5|to|10|km|mi|abbr=on}}", "5 km or 5 to 10 km"),
    ("{{convert|6|ft|2|in|m}} or {{convert|3|-|4|kg}}", "6 ft 2 in or 3–4 kg"),
    ("{{frac|3}} of {{frac|2|3}} of {{frac|1|1|2}}", "1/3 of 2/3 of 1 1/2"),
    ("an empty ({{IPA|a}}; {{audio|b}}) bracket", "an empty bracket"),
    ("a half-empty ({{IPA|a}}; plural '''s''')", "a half-empty (plural s)"),
    ("fish &amp; chips&nbsp;&ndash; good", "fish & chips – good"),
    ("<nowiki>[[not a link]]</nowiki> but", "not a link but"),
    ("{{As of|2012}}, so", "As of 2012, so"),
    ("wrapped\nline", "wrapped line"),
    ("unclosed [[link and {{template|a", "unclosed link and template|a"),
    ("text }} with ]] closers", "text with closers"),
]


@pytest.mark.parametrize(("markup", "shown"), INLINE)
def test_inline_markup(markup: str, shown: str) -> None:
    assert prose(markup + END) == shown + END


STRUCTURE = """
{{Infobox thing|name=x}}
First paragraph of the page, long enough to keep.

== History ==
{| class="wikitable"
! head
|-
| cell || other cell that is a long sentence with more than five words.
{|
| nested table, which is closed before the outer one is.
|}
|}
Second paragraph, after the table, is kept.
* short item
* A long item of a list that reads like a sentence and has words enough to be kept as prose.
Alone.

<blockquote>A quotation of five words.</blockquote>
== See also ==
* A long item in a closing section is not kept, because what stands there is no prose of the page.
=== Deeper ===
Not kept either, although it is a paragraph.
== Later ==
Third paragraph, in a section after the closing one.
"""
PARAGRAPHS = [
    "First paragraph of the page, long enough to keep.",
    "Second paragraph, after the table, is kept.",
    "A long item of a list that reads like a sentence and has words enough to be kept as prose.",
    "A quotation of five words.",
    "Third paragraph, in a section after the closing one.",
]


def test_structure_keeps_paragraphs_and_drops_the_rest() -> None:
    assert prose(STRUCTURE).split("\n") == PARAGRAPHS


def page(title: str, text: str, ns: int = 0, extra: str = "") -> str:
    return f"<page><title>{title}</title><ns>{ns}</ns>{extra}<revision><text>{text}</text></revision></page>"


LONG = "This sentence is repeated until the page is no stub any more. " * (STUB // 40)


def export(*pages: str) -> str:
    return f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{"".join(pages)}</mediawiki>'


@pytest.mark.parametrize("pack", [lambda data: data, bz2.compress], ids=["plain", "bz2"])
def test_articles_are_the_real_ones(tmp_path: Path, pack) -> None:
    text = export(
        page("Kept", f"&lt;!-- c --&gt;'''{LONG}'''"),
        page("Talk", LONG, ns=1),
        page("Moved", LONG, extra='<redirect title="Kept" />'),
        page("Old redirect", f"#REDIRECT [[Kept]] {LONG}"),
        page("Mercury (disambiguation)", LONG),
        page("Jove", LONG + "{{Disambiguation}}"),
        page("Stub", "Too short to be read."),
        page("Also kept", LONG),
    )
    file = tmp_path / "export.xml"
    file.write_bytes(pack(text.encode()))
    assert list(articles(file)) == [("Kept", LONG.strip()), ("Also kept", LONG.strip())]


def test_the_version_of_the_cleaning_goes_with_its_output(tmp_path: Path) -> None:
    """Prepared corpora are keyed by CLEANING: it must change whenever the text of an export does.

    The digest is that of the hand-written text above. If this test fails, give both constants new values.
    """
    markup = "\n\n".join([*(markup + END for markup, _ in INLINE[:-2]), STRUCTURE])
    text = "\n".join([*(shown + END for _, shown in INLINE[:-2]), *PARAGRAPHS])
    file = tmp_path / "export.xml"
    file.write_text(export(page("All", html.escape(markup))))
    assert list(articles(file)) == [("All", text)]
    version = (
        "108d117aadcf0efad0125f21406fa04f13d25c1aba2b3e007131f1488c27eb59",
        "724e968f53c3c74d572b5d44b7751ee4d22fd1c23aaff8b50e011213602154bb",
    )
    assert (CLEANING, hashlib.sha256(text.encode()).hexdigest()) == version


@pytest.mark.parametrize(
    "data",
    [b"", b"<mediawiki><page>", b"<html></html>", b"no xml", bz2.compress(export(page("a", LONG)).encode())[:-8]],
    ids=["empty", "cut", "other", "text", "cut bz2"],
)
def test_damaged_exports_are_named(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "export.xml"
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"cannot read .*export\.xml as a MediaWiki"):
        list(articles(file))
    with pytest.raises(UserError, match="missing.xml"):
        list(articles(tmp_path / "missing.xml"))


# of gensim's export, of "title TAB prose" lines of its articles and the fingerprint, all as version eb978b8 gave them
EXPORT = "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
CLEANED = "fdae72d6ad27823c8ad7ce8dec2c06de2e0a9a7e467a9867115c87add2d73728"
FINGERPRINT = "e6d2d8fe0d4cce1d81afadff527ec450e2776257e438a33d30a7a812b1b5fdc6"


@pytest.mark.skipif(importlib.util.find_spec("gensim") is None, reason="gensim's wheel carries the excerpt")
def test_embedded_excerpt() -> None:
    """The bounds enclose an independent cleaning of the same file: 101 pages with prose, 2.7 million characters."""
    from kdlab.data.text.sources import WikipediaExcerpt

    source = WikipediaExcerpt()
    pages = list(articles(source.file()))
    found, text = dict(pages), "\n".join(prose for _, prose in pages)
    assert 90 <= len(found) <= 106
    assert 2.4e6 < len(text) < 3.0e6
    assert found["Anarchism"].startswith("Anarchism is a political philosophy that advocates self-governed societies")
    for residue in ("[[", "{{", "<ref", "''", "thumb|", "&nbsp;", "Category:", "http://"):
        assert residue not in text
    if hashlib.sha256(source.file().read_bytes()).hexdigest() == EXPORT:
        assert hashlib.sha256("\n".join(map("\t".join, pages)).encode()).hexdigest() == CLEANED
        assert source.fingerprint() == FINGERPRINT
