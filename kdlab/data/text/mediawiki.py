"""Convert MediaWiki exports to prose: `articles` streams (title, prose) pairs, `prose` cleans the markup of a page.

The scanner reads the markup once, from left to right, with a stack of open brackets of bounded depth, so the time is
linear in the text even with unclosed brackets and tags. (A general parser backtracks at each of them: mwparserfromhell
0.7.2 took 16 to 38 s on 20 kB of such text, so it is not used.) Dropped: tables, references, images, formulas,
infoboxes, lists of short items, closing sections. Templates that show plain words inline are replaced by these words
(`{{lang|fr|mot}}`, `{{convert|5|km}}`); other templates are dropped.
"""

from __future__ import annotations

import bz2
import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast
from xml.etree import ElementTree

from kdlab.errors import UserError

# Version of the cleaning, part of the fingerprint of the embedded excerpt and so of the keys of prepared corpora. Its
# value is the sha256 of an early version of this file. Change it (to any other 64 hex digits) whenever `prose` or
# `articles` returns other text for an export, and only then: comments and names in this file do not matter.
CLEANING = "108d117aadcf0efad0125f21406fa04f13d25c1aba2b3e007131f1488c27eb59"
STUB = 300  # pages with fewer characters of prose are skipped
DEEPEST = 40  # brackets nested deeper are plain text (also MediaWiki's limit); it bounds the time
ITEM_WORDS = 12  # list items with fewer words, or without the end of a sentence, are dropped
LINE_WORDS = 5  # the same for paragraphs


def _names(listed: str) -> list[str]:
    return listed.split("|")


_END_SECTIONS = _names(
    "references|notes|footnotes|citations|sources|see also|external links|further reading|bibliography|works cited|"
    "notes and references|references and notes|notes and sources|general references|cited references|literature|"
    "primary sources|secondary sources|selected bibliography|discography|filmography|gallery|publications|"
    "references and further reading|sources and further reading|footnotes and references|related pages|links"
)
_BLOCK_TAGS = _names("p|div|center|blockquote|li|ul|ol|dl|dt|dd|poem|table|tr|td|th|h1|h2|h3|h4|hr")
_RAW_TAGS = _names(  # their content is not wikitext, and is dropped
    "ref|math|chem|ce|gallery|timeline|score|hiero|source|syntaxhighlight|pre|imagemap|graph|templatedata|mapframe|"
    "maplink|style|script|inputbox"
)
_RAW_END = {tag: re.compile(rf"</{tag}\b[^<>]*>", re.IGNORECASE) for tag in _RAW_TAGS}
_TOKEN = re.compile(
    r"\{\{|\}\}|\[\[|\]\]|\||\n[ :*#]*\{\||\n *\|\}(?!\})|\[(?=https?:|ftp:|mailto:|//)|\]|"
    r"</?([a-zA-Z][a-zA-Z0-9]*)[^<>]*>"
)
_DISAMBIGUATION = re.compile(r"\{\{ *(?:[\w -]{0,30}disambig|dab *[|}]|hndis|geodis)", re.IGNORECASE)
_HIDDEN_LINK = re.compile(r" *(?:(?i:file|image|media|category) *:|(?:[a-z]{2,3}|zh-[a-z-]{2,20}|simple):(?! ))")
_PREFIX = re.compile(r"(?i:wikt|wiktionary|s|wikisource|w|d|q|b|n|v|m|commons|species|wikipedia|category) *:")
_POSSESSIVE = re.compile(r"(?<!')''([^'\n]{1,60})'''s\b")  # ''Eagle'''s: italics and an apostrophe
_QUOTES = re.compile(r"'{2,}+")
_EMPTY_BRACKETS = re.compile(r" ?\([ ,;:]*+\)")
_AFTER_BRACKET = re.compile(r"\([ ,;:]++")
_BEFORE_BRACKET = re.compile(r"(?<![ ,;:])[ ,;:]++\)")
_BEFORE_POINT = re.compile(r" (?=[,.;:!?](?: |$))")
_DOUBLE_POINT = re.compile(r"[,;](?: ?[,;])++")
_RESIDUE = re.compile(r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|__[A-Z]{3,30}__")


def articles(path: Path | str) -> Iterator[tuple[str, str]]:
    """Stream (title, prose) of the articles of a MediaWiki XML export, plain or bz2, in its order, in bounded memory.

    Redirects, pages outside the article namespace, disambiguation pages and stubs (prose under `STUB` characters) are
    skipped. UserError that names the file if it is missing, damaged or not an export.
    """
    try:
        with open(path, "rb") as head:
            opener = bz2.open if head.read(3) == b"BZh" else open
        with opener(path, "rb") as file:
            yield from _read(cast(IO[bytes], file))
    except (OSError, EOFError, ElementTree.ParseError) as error:
        raise UserError(f"cannot read {path} as a MediaWiki XML export: {error}") from error


def _read(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    events = iter(ElementTree.iterparse(file, events=("start", "end")))
    _, root = next(events)
    if root.tag.rpartition("}")[2] != "mediawiki":
        raise ElementTree.ParseError(f"its outermost element is <{root.tag}>, not <mediawiki>")
    page: dict[str, str] = {}
    for event, element in events:
        name = element.tag.rpartition("}")[2] if event == "end" else ""
        if name in ("title", "ns", "text", "redirect"):
            page[name] = element.text or ""
        elif name == "page":
            title, markup = page.get("title", ""), page.get("text", "")
            article = page.get("ns", "0") == "0" and "redirect" not in page and "(disambiguation)" not in title
            redirect = markup.lstrip()[:9].lower() == "#redirect"
            page = {}
            root.clear()
            if article and not redirect and not _DISAMBIGUATION.search(markup):
                clean = prose(markup)
                if len(clean) >= STUB:
                    yield title, clean


def prose(markup: str) -> str:
    """Clean paragraphs of a page, one on each line, in order; "" if there are none. Never raises; linear in time."""
    return "\n".join(_paragraphs(_render(_hide(markup))))


def _hide(markup: str) -> str:
    """Remove comments, and escape the content of nowiki as entities, so that the scanner finds no markup there."""
    parts, place = [], 0
    while (start := markup.find("<!--", place)) >= 0:
        parts.append(markup[place:start])
        end = markup.find("-->", start)
        place = len(markup) if end < 0 else end + 3
    first, *rest = ("".join(parts) + markup[place:]).split("<nowiki>")
    parts = [first]
    for piece in rest:
        literal, _, after = piece.partition("</nowiki>")
        parts += [re.sub(r"[\[\]{}|'<>=*#:;\n]", lambda mark: f"&#{ord(mark[0])};", literal), after]
    return "".join(parts)


def _render(markup: str) -> str:
    """Replace brackets and tags by the text they show; a stack frame is (kind, lists of texts of its arguments)."""
    text = "\n" + markup
    stack: list[tuple[str, list[list[str]]]] = [("", [[]])]
    unclosed: set[str] = set()  # raw tags without a further end tag: do not search for it again
    place = 0

    def close(kind: str, show: Callable[[list[str]], str]) -> None:
        if any(frame[0] == kind for frame in stack):
            while stack[-1][0] != kind:
                flatten()
            arguments = stack.pop()[1]
            stack[-1][1][-1].append(show(["".join(argument) for argument in arguments]))

    def flatten() -> None:  # an unclosed bracket: the text after it is plain
        arguments = stack.pop()[1]
        stack[-1][1][-1].append("|".join("".join(argument) for argument in arguments))

    while token := _TOKEN.search(text, place):
        here = stack[-1][1][-1]
        here.append(text[place : token.start()])
        place, mark = token.end(), token[0].lstrip("\n :*#")
        if token[0][0] == "\n":
            here.append("\n")
        if mark in ("{{", "[[", "{|", "["):
            if len(stack) < DEEPEST:
                stack.append((mark, [[]]))
        elif mark == "|":
            if stack[-1][0] in ("{{", "[["):
                stack[-1][1].append([])
            else:
                here.append("|")
        elif mark == "}}":
            close("{{", _template)
        elif mark == "|}":
            close("{|", lambda _: "\n")
        elif mark in ("]]", "]"):
            if stack[-1][0] == "[":
                place = token.start() + 1
                close("[", lambda arguments: arguments[0].partition(" ")[2])
            elif mark == "]]":
                close("[[", _link)
            else:
                here.append("]")
        else:
            name = token[1].lower()
            if name in _BLOCK_TAGS:
                here.append("\n\n")
            elif name == "br":
                here.append(" ")
            elif name in _RAW_END and name not in unclosed and mark[1] != "/" and mark[-2] != "/":
                if end := _RAW_END[name].search(text, place):
                    place = end.end()
                else:
                    unclosed.add(name)
    stack[-1][1][-1].append(text[place:])
    while len(stack) > 1:
        flatten()
    return "".join(stack[0][1][0])


def _link(arguments: list[str]) -> str:
    target, label = arguments[0], arguments[-1]
    if _HIDDEN_LINK.match(target):
        return ""
    if len(arguments) > 1 and label.strip():
        return label
    shown = target.strip().removeprefix(":")
    if prefix := _PREFIX.match(shown):
        shown = shown[prefix.end() :]
    return shown.partition("(")[0].rstrip() if len(arguments) > 1 else shown  # [[Mars (god)|]] shows Mars


def _template(arguments: list[str]) -> str:
    name = arguments[0].strip().lower().replace("_", " ")
    show = _TEMPLATES.get(name) or (_word(0) if name.startswith("lang-") else None)
    if show is None:
        return ""
    words = []
    for argument in arguments[1:]:
        key, equals, value = argument.partition("=")
        if not equals or key.strip().isdigit() or key.strip() in ("text", "quote"):
            words.append((value if equals else argument).strip())
    return show(words)


def _word(place: int) -> Callable[[list[str]], str]:
    return lambda words: words[place] if -len(words) <= place < len(words) else ""


def _measure(words: list[str]) -> str:
    """Quantity of a `convert` template as written, without the conversion: 5|to|10|km is 5 to 10 km."""
    if len(words) > 3 and (words[1] in ("to", "and", "or", "by", "x", "-", "–") or words[1:4:2] == ["ft", "in"]):
        return f"{words[0]}–{words[2]} {words[3]}" if words[1] in ("-", "–") else " ".join(words[:4])
    return " ".join(words[:2])


def _fraction(words: list[str]) -> str:
    return (
        f"{words[0]} {words[1]}/{words[2]}" if len(words) > 2 else "/".join(words if len(words) != 1 else ["1", *words])
    )


_TEMPLATES: dict[str, Callable[[list[str]], str]] = {
    **dict.fromkeys(
        _names(
            "nowrap|nobr|small|smaller|big|larger|sc|smallcaps|vanchor|vr|abbr|tooltip|em|strong|mvar|angbr|nihongo|flag|sup|"
            "flagcountry|sub|linktext|not a typo|sic|ill|interlanguage link|val|nobold|noitalic|unicode|polytonic"
        ),
        _word(0),
    ),
    **dict.fromkeys(["lang", "wikt-lang", "rtl-lang", "script", "font", "color"], _word(1)),
    **dict.fromkeys(["transl", "transliteration"], _word(-1)),
    **dict.fromkeys(_names("quote|blockquote|quotation|cquote|quote box"), lambda words: f"\n\n{_word(0)(words)}\n\n"),
    **dict.fromkeys(["convert", "cvt"], _measure),
    **dict.fromkeys(["frac", "sfrac", "fraction"], _fraction),
    **dict.fromkeys(["chem", "chem2", "gaps"], "".join),
    **dict.fromkeys(["circa", "c.", "ca."], lambda words: f"c. {_word(0)(words)}"),
    **dict.fromkeys(["snd", "spaced ndash", "ndash", "–", "dash"], lambda _: " – "),
    **dict.fromkeys(["mdash", "mdashb", "em dash", "—"], lambda _: "—"),
    **dict.fromkeys(["nbsp", "thinsp", "spaces", "space", "hair space", "br"], lambda _: " "),
    **{mark: (lambda _, mark=mark: mark.replace(" ", "")) for mark in ("'", "'s", "' \"", "\" '")},
    "as of": lambda words: f"as of {_word(0)(words)}",
}


def _paragraphs(text: str) -> Iterator[str]:
    """Join lines into paragraphs; drop headings, closing sections, table rows, short lines and short list items."""
    hidden, paragraph = 0, []
    for line in [*text.split("\n"), ""]:
        line = line.strip()
        heading = line.startswith("==") and line.endswith("==") and len(line) > 4
        if line and not heading and line[0] not in "*#:;|!{}-":
            paragraph.append(line)
            continue
        if paragraph and not hidden:
            yield from _sentences(" ".join(paragraph), LINE_WORDS)
        paragraph = []
        if heading:
            level = len(line) - len(line.lstrip("="))
            if not hidden or level <= hidden:
                hidden = level if line.strip("= ").lower() in _END_SECTIONS else 0
        elif line and line[0] in "*#:;" and not hidden:
            yield from _sentences(line.lstrip("*#:; "), ITEM_WORDS)


def _sentences(line: str, fewest: int) -> Iterator[str]:
    """Yield the cleaned line, if it has at least `fewest` words and ends like a sentence."""
    line = _QUOTES.sub(lambda quotes: "'" if len(quotes[0]) == 4 else "", _POSSESSIVE.sub(r"\1's", line))
    line = " ".join(html.unescape(line).replace("\u200b", "").replace("\u00ad", "").split())
    line = _EMPTY_BRACKETS.sub("", line)
    line = _BEFORE_BRACKET.sub(")", _AFTER_BRACKET.sub("(", line))
    line = _DOUBLE_POINT.sub(lambda points: points[0][0], _BEFORE_POINT.sub("", line))
    line = " ".join(_RESIDUE.sub(" ", line).split())
    line = f"A{line[1:]}" if line.startswith("as of ") else line.replace(". as of ", ". As of ")
    if line.count(" ") + 1 >= fewest and line.rstrip("\"'”’)]»").endswith((".", "!", "?", "…", ":", "。")):
        yield line
