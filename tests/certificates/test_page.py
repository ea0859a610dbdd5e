"""The page in a real browser: nothing overflows, nothing is fetched, each figure is the statement's."""

import base64
import html
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from perturb.certificates.aging import open_certificate
from perturb.certificates.compare import compare, page_beside, read_side
from perturb.certificates.narrative import claim_text, percent
from tests.certificates.conftest import Made
from tests.support.browser import BROWSER, MISSING, Tab, browser_tab

browser = pytest.mark.skipif(BROWSER is None, reason=MISSING)
# A4 without the margins that the page asks for, in CSS pixels.
PRINTED = 688
WIDE = """(() => { const root = document.documentElement, width = root.clientWidth;
  const wide = [...document.querySelectorAll("*")].filter(n => n.getBoundingClientRect().right > width + 1);
  return [root.scrollWidth - width, wide.map(n => n.tagName + n.textContent.slice(0, 30))]; })()"""
# The lowest contrast of a text with what is behind it, as WCAG 2.2 defines it.
CONTRAST = """(() => { const numbers = s => s.match(/[\\d.]+/g).map(Number);
  const light = s => { const [r, g, b] = numbers(s).map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = n => { for (; n; n = n.parentElement) { const c = getComputedStyle(n).backgroundColor;
    if ((numbers(c)[3] ?? 1) > 0) return c; } return "rgb(255, 255, 255)"; };
  return Math.min(...[...document.body.querySelectorAll("*")].filter(n => !n.closest("svg") &&
    [...n.childNodes].some(c => c.nodeType === 3 && c.data.trim())).map(n => {
      const [a, b] = [light(getComputedStyle(n).color), light(behind(n))];
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); })); })()"""


def value_at(statement: Any, path: str) -> Any:
    return reduce(lambda value, step: value[int(step) if isinstance(value, list) else step], path.split("."), statement)


def shown(statement: Any, path: str) -> str:
    value = value_at(statement, path)
    if path.endswith("threshold"):
        return claim_text(value_at(statement, path.rpartition(".")[0]))
    if path.endswith("verdict"):
        return str(value).replace("_", " ")
    if ".shares." in path or path.endswith("share"):
        return percent(value)
    return str(value)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser_tab(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def show(tab: Tab, page: Path) -> None:
    tab.call("Page.navigate", url=page.as_uri())
    tab.until(f"document.readyState === 'complete' && location.href === '{page.as_uri()}'")


def test_the_page_needs_nothing_else(made: Made) -> None:
    page = (made.folder / "report.html").read_text()
    for place in re.findall(r'(?:src|href)="([^"]+)|url\(', page):
        assert place.startswith("data:image/png;base64,"), place
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_text_of_others_is_escaped(made: Made) -> None:
    from perturb.certificates.page import render_page

    statement, _, _ = open_certificate(made.file)
    evil = "<script>alert(1)</script>"
    statement["predicate"]["model"]["name"] = evil
    page = render_page(statement, [], {})
    assert evil not in page
    assert html.escape(evil) in page


@pytest.mark.browser
@pytest.mark.slow
@browser
def test_each_figure_that_the_browser_shows_is_the_statements(tab: Tab, made: Made) -> None:
    show(tab, made.folder / "report.html")
    found = tab.value("[...document.querySelectorAll('[data-figure]')].map(e => [e.dataset.figure, e.textContent])")
    statement, _, _ = open_certificate(made.file)
    assert len(found) > 30
    assert [(path, text) for path, text in found if text != shown(statement, path)] == []


@pytest.mark.browser
@pytest.mark.slow
@browser
def test_it_fits_is_legible_and_asks_for_nothing_in_light_and_dark_and_in_print(
    tab: Tab, made: Made, tmp_path: Path
) -> None:
    beside = tmp_path / "beside.html"
    beside.write_bytes(page_beside(made.file, compare(read_side(made.file), read_side(made.file))))
    for page in (made.folder / "report.html", beside):
        tab.requests.clear()
        show(tab, page)
        papers = set()
        for width in (320, 1280):
            for dark in (False, True):
                tab.look(width=width, height=900, dark=dark)
                assert tab.value(WIDE) == [0, []], (page.name, width, dark)
                assert tab.value(CONTRAST) >= 4.5, (page.name, width, dark)
                papers.add((dark, tab.value("getComputedStyle(document.body).backgroundColor")))
        assert papers == {(False, "rgb(255, 255, 255)"), (True, "rgb(13, 17, 23)")}
        tab.look(width=PRINTED, height=1000, dark=True)
        tab.call("Emulation.setEmulatedMedia", media="print")
        assert tab.value(WIDE) == [0, []], page.name
        pdf = base64.b64decode(tab.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])
        tab.call("Emulation.setEmulatedMedia", media="")
        assert pdf.startswith(b"%PDF-")
        assert len(re.findall(rb"/Type /Page\b", pdf)) >= 2
        asked = [url for url in tab.requests if not url.startswith("data:image/png;base64,")]
        assert asked == [page.as_uri()]
    assert tab.console == []
