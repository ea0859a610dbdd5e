"""The page in a real browser: nothing overflows, nothing is fetched, each figure is the statement's."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import reduce
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from perturb.certificates.aging import open_certificate
from perturb.certificates.narrative import claim_text, percent
from tests.certificates.conftest import Made

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")


class Figures(HTMLParser):
    """Collects the text of elements that name a figure."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._path: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._path = dict(attrs).get("data-figure")

    def handle_data(self, data: str) -> None:
        if self._path:
            self.found.append((self._path, data))
            self._path = None


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


def run_browser(made: Made, tmp_path: Path, *arguments: str) -> str:
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    page = (made.folder / "report.html").as_uri()
    found = subprocess.run([*command, *arguments, page], capture_output=True, text=True, timeout=120, check=True)
    return found.stdout


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
@browser
def test_each_figure_in_the_browsers_document_is_the_statements(made: Made, tmp_path: Path) -> None:
    parser = Figures()
    parser.feed(run_browser(made, tmp_path, "--dump-dom"))
    statement, _, _ = open_certificate(made.file)
    assert len(parser.found) > 30
    assert [(path, text) for path, text in parser.found if text != shown(statement, path)] == []


@pytest.mark.browser
@pytest.mark.slow
@browser
def test_nothing_overflows_at_two_widths_in_light_and_dark_and_in_print(made: Made, tmp_path: Path) -> None:
    probe = tmp_path / "probe.html"
    for width, scheme in overflowing_sizes():
        # A frame of the width, measured from the page around it: the page itself has no scripts.
        inner = html.escape(
            (made.folder / "report.html").read_text().replace("default-src 'none'", "default-src data:")
        )
        probe.write_text(
            f'<body style="margin:0"><iframe id="f" style="border:0;width:{width}px;height:900px" '
            f'srcdoc="{inner}"></iframe><p id="out"></p><script>document.getElementById("f").onload = e => {{'
            'const d = e.target.contentDocument.documentElement; const wide = [...d.querySelectorAll("*")].filter('
            f"n => n.getBoundingClientRect().right > {width} + 1).map(n => n.tagName + n.textContent.slice(0, 30));"
            'document.getElementById("out").textContent = JSON.stringify([d.scrollWidth, wide]);};</script>'
        )
        command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'p'}"]
        options = ["--virtual-time-budget=4000", "--window-size=1400,1000", "--dump-dom"]
        if scheme == "dark":
            options.append("--blink-settings=preferredColorScheme=0")
        dumped = subprocess.run(
            [*command, *options, probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        found = re.findall(r'<p id="out">(.*?)</p>', dumped.stdout)
        assert len(found) == 1
        scrolled, wide = json.loads(html.unescape(found[0]))
        assert scrolled <= width, (width, scheme, wide[:5])
        assert wide == [], (width, scheme)
    pdf = tmp_path / "page.pdf"
    run_browser(made, tmp_path, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert len(pdf.read_bytes()) > 20_000


def overflowing_sizes() -> Iterator[tuple[int, str]]:
    for width in (320, 1280):
        for scheme in ("light", "dark"):
            yield width, scheme
