"""The report's page in a real headless browser, on a phone's width and a desk's, by day and by night."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdlab import report
from tests.support.made_runs import hostile, nine, reported

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser is installed (looked for {', '.join(BROWSERS)})")
    with playwright.sync_playwright() as running:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = running.chromium.launch(executable_path=program, args=flags, timeout=120_000)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything: two tasks, four ratios, schedules, printed numbers, a torn run, and hostile names."""
    home = tmp_path_factory.mktemp("runs")
    nine(home / "sst2")
    nine(home / "rte", task="rte")
    for i, ratio in enumerate((0.2, 0.3, 0.5)):
        reported(home / f"more {ratio}", 0.7 + i / 100, 1, "adads", ratio, taken=[(0, "density"), (9, "margin")])
    hostile(home)
    (home / "torn").mkdir()
    (home / "torn" / "result.json").write_text('{"status": "fin')
    out = tmp_path_factory.mktemp("page") / "report.html"
    assert report.main([str(home), "--paper", "adads", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light")])
def test_the_page_in_a_browser(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.set_default_timeout(120_000)
    console, asked, dialogs = [], [], []
    page.on("console", lambda message: console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(page_file.as_uri())
    for closed in page.query_selector_all("summary"):  # what is folded away must fit as well
        closed.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert console == [] and dialogs == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    images = page.evaluate(
        "[...document.querySelectorAll('figure svg')].map(one => one.getBoundingClientRect()).map(b => [b.width, b.height, b.right])"
    )
    assert len(images) > 5
    for wide, high, right in images:
        assert wide > 250 and high > 100 and right <= width
    hint = page.evaluate("getComputedStyle(document.querySelector('.hint')).display")
    assert (hint == "none") == (width > 960)
    fills = page.evaluate(  # no rectangle behind a figure: neither its own nor the page's card
        "[...document.querySelectorAll('figure, figure svg')].map(one => getComputedStyle(one).backgroundColor)"
    )
    assert set(fills) == {"rgba(0, 0, 0, 0)"}
    inks = page.evaluate(
        "[...document.querySelectorAll('figure svg g[style*=\"--ink\"]')].map(one => getComputedStyle(one).fill)"
    )
    assert inks and set(inks) == {page.evaluate("getComputedStyle(document.body).color")}
    sizes = page.evaluate(
        "[...document.querySelectorAll('td, th, p, li')].map(one => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert min(sizes) >= 13
    ink, back = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    light = [sum(map(int, colour[4:-1].split(","))) for colour in (ink, back)]
    assert (light[0] < light[1]) == (scheme == "light")
    page.close()
