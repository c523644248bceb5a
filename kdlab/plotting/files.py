"""Figures as files: PNG, SVG and PDF, and as SVG inside a page; the same bytes for the same data."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from kdlab.plotting.colours import FAINT, GRID, INK, by_night

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# What a figure consists of; the rest (metadata, styles for the whole document, comments with texts) stays out of a page
DRAWN = {"svg", "g", "path", "defs", "use", "clipPath", "rect"}
THEME = {INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--line)", "#FFFFFF": "var(--back)"}
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, without version strings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    assert isinstance(figure.canvas, FigureCanvasAgg)
    stream = io.BytesIO()
    figure.canvas.print_png(stream, metadata={"Software": None})  # the version would change the bytes
    return stream.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file with text as paths, the same bytes at each call."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.StringIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "kdlab"}):
        FigureCanvasSVG(figure).print_svg(stream, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return stream.getvalue().encode("utf-8")


def pdf(figure: Figure) -> bytes:
    """The figure as a PDF file with embedded TrueType fonts, as publishers ask for, the same bytes at each call."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    stream = io.BytesIO()
    with rc_context({"pdf.fonttype": 42}):
        metadata: dict[str, Any] = dict.fromkeys(("CreationDate", "Creator", "Producer"))
        FigureCanvasPdf(figure).print_pdf(stream, metadata=metadata)
    return stream.getvalue()


def inline_svg(source: bytes, prefix: str, title: str) -> str:
    """An SVG file of `svg` as an element of a page: no background, the page's own ids, colours that follow its theme.

    `prefix`: of all ids, unique in the page. `title`: for screen readers. Colours become the page's variables
    (`THEME`), or `var(--hRRGGBB)`, as `theme_colours` defines them.
    """
    root = ElementTree.fromstring(source)
    _reduce(root, prefix)
    background = root.find("./g/g/path")  # matplotlib's patch of the whole figure
    parent = root.find("./g/g")
    if parent is not None and background is not None and parent.get("id") == f"{prefix}patch_1":
        parent.remove(background)
    box = root.get("viewBox", "")
    root.attrib = {"xmlns": SVG, "viewBox": box, "role": "img", "aria-label": title}
    text = ElementTree.tostring(root, encoding="unicode")
    return text


def _reduce(node: ElementTree.Element, prefix: str) -> None:
    """Remove all but what is drawn, namespaces, and let ids and colours be the page's."""
    node.tag = node.tag.rpartition("}")[2]
    for name, value in list(node.attrib.items()):
        del node.attrib[name]
        value = re.sub(r"url\(#", f"url(#{prefix}", value)
        if name == "id":
            value = prefix + value
        elif name in (f"{{{XLINK}}}href", "href"):
            name, value = "href", value.replace("#", f"#{prefix}", 1)
        if name == "style":
            value = _COLOUR.sub(lambda found: _variable(found[0].upper()), value)
        node.set(name, value)
    for child in list(node):
        if child.tag.rpartition("}")[2] in DRAWN:
            _reduce(child, prefix)
        else:
            node.remove(child)
        child.tail = None
    node.text = None


def _variable(colour: str) -> str:
    return THEME.get(colour) or f"var(--h{colour[1:]})"


def theme_colours(pages: str) -> tuple[dict[str, str], dict[str, str]]:
    """Variables of the colours that inline figures in `pages` use, with their values by day and by night."""
    found = sorted(set(re.findall(r"var\(--h([0-9A-F]{6})\)", pages)))
    return {f"--h{one}": f"#{one}" for one in found}, {f"--h{one}": by_night(f"#{one}") for one in found}
