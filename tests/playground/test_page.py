"""The page in a real browser: what a visitor does, with mouse and with keys alone."""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perturb.playground.samples import sample_jpeg
from tests.playground.conftest import Running
from tests.support.browser import BROWSER, MISSING, Tab, browser_tab

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason=MISSING)]
_PIXELS = """(() => { const c = document.getElementById("{id}");
  const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
  return [c.width, c.height, Array.from(d.filter((_, i) => i % 4 !== 3))]; })()"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser_tab(tmp_path_factory.mktemp("browser")) as opened:
        opened.look(width=1280, height=900)
        yield opened


def text(tab: Tab, name: str) -> str:
    return str(tab.value(f"document.getElementById({name!r}).textContent"))


def pixels(tab: Tab, name: str) -> np.ndarray:
    width, height, values = tab.value(_PIXELS.replace("{id}", name))
    return np.array(values, np.uint8).reshape(height, width, 3)


def slide(tab: Tab, name: str, value: int) -> None:
    found = f"const s = document.getElementById({name!r});"
    tab.value(f"(() => {{ {found} s.value = {value}; s.dispatchEvent(new Event('input')); }})()")


def finished(tab: Tab) -> None:
    tab.until("!document.getElementById('judged').hidden && !document.getElementById('flip').disabled")


def flip(tab: Tab) -> None:
    tab.value("document.getElementById('flip').click()")
    finished(tab)


def test_a_first_visit_needs_one_press_and_shows_what_can_be_downloaded(
    tab: Tab, running: Running, tmp_path: Path
) -> None:
    tab.open(running.url)
    assert "has not looked yet" in text(tab, "sees")
    flip(tab)
    assert text(tab, "status").startswith("Flipped after")
    assert "Accepted." in text(tab, "verdict")
    steps = int(tab.value("document.getElementById('scrub').max"))
    assert steps >= 1
    # What is shown is what is downloaded, bit for bit.
    made = tab.value(
        """(async () => { const made = []; const create = URL.createObjectURL;
        URL.createObjectURL = (file) => { made.push(file); return "blob:none"; };
        HTMLAnchorElement.prototype.click = () => {}; document.getElementById("download").click();
        URL.createObjectURL = create; const data = new Uint8Array(await made[0].arrayBuffer());
        let s = ""; for (const b of data) s += String.fromCharCode(b); return btoa(s); })()"""
    )
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(made))) as tar:
        files = {name.split(".", 1)[1]: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    shown = pixels(tab, "shown")
    assert np.array_equal(shown, np.asarray(Image.open(io.BytesIO(files["perturbed.png"]))))
    tab.value("document.querySelector('[data-view=original]').click()")
    original = pixels(tab, "shown")
    assert np.array_equal(original, np.asarray(Image.open(io.BytesIO(files["original.png"]))))
    assert not np.array_equal(original, shown)
    assert json.loads(files["json"])["verdict"]["outcome"] == "accepted"
    tab.value("document.querySelector('[data-view=difference]').click()")
    expected = np.clip(128 + 16 * (shown.astype(int) - original), 0, 255)
    assert np.array_equal(pixels(tab, "shown"), expected)
    # Scrubbing back to the first step.
    tab.value(
        "(() => { const s = document.getElementById('scrub'); s.value = 0; s.dispatchEvent(new Event('input')); })()"
    )
    assert "1 of" in text(tab, "scrub-out")


def test_the_slider_and_the_blind_test(tab: Tab, running: Running) -> None:
    tab.value("document.querySelector('[data-view=slider]').click()")
    assert tab.value("!document.getElementById('before').hidden")
    tab.value(
        "(() => { const s = document.getElementById('split'); s.value = 20; s.dispatchEvent(new Event('input')); })()"
    )
    assert tab.value("document.getElementById('before').style.clipPath").startswith("inset(0px 80%")
    sides = {name: pixels(tab, f"{name}-picture") for name in ("left", "right")}
    assert not np.array_equal(sides["left"], sides["right"])
    tab.value("document.activeElement.blur()")
    tab.press("1", "Digit1", 49)
    assert re.match(r"Right|No:", text(tab, "blind-text"))
    marked = tab.value("document.querySelector('.choice.yes').id")
    assert np.array_equal(sides[marked], pixels(tab, "before"))


def test_a_photograph_of_ones_own_is_upright_and_its_name_is_text(tab: Tab, running: Running, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.open(io.BytesIO(sample_jpeg("coffee"))).transpose(Image.Transpose.ROTATE_90)
    file = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    turned.save(file, quality=95, exif=exif)
    tab.upload("#file", file)
    tab.until("document.getElementById('caption').textContent.includes('onerror')")
    flip(tab)
    assert "<img src=x onerror=alert(1)>" in text(tab, "caption")
    assert tab.value("document.querySelectorAll('main img').length") == 0
    tab.value("document.querySelector('[data-view=original]').click()")
    upright = np.asarray(
        Image.open(io.BytesIO(sample_jpeg("coffee"))).convert("RGB").resize((160, 160)).convert("L"), float
    )
    shown = np.asarray(Image.fromarray(pixels(tab, "shown")).convert("L"), float)
    turned_back = np.rot90(upright)
    assert np.corrcoef(shown.ravel(), upright.ravel())[0, 1] > np.corrcoef(shown.ravel(), turned_back.ravel())[0, 1]


def test_a_file_that_is_no_photograph_gets_a_sentence(tab: Tab, running: Running, tmp_path: Path) -> None:
    heic = tmp_path / "IMG_0001.HEIC"
    heic.write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    tab.upload("#file", heic)
    tab.until("document.getElementById('caption').textContent.includes('HEIC')")
    tab.value("document.getElementById('flip').click()")
    tab.until("document.getElementById('status').textContent.includes('HEIC or AVIF')")
    tab.console.clear()  # The browser notes the status 422 of the answer.


def test_settings_stand_in_the_address_and_come_back(tab: Tab, running: Running) -> None:
    tab.call("Page.navigate", url="about:blank")
    tab.open(f"{running.url}/#attack=pgd&levels=2&network=again&target=soup+bowl&seed=5&sample=coffee")
    assert [
        tab.value(f"document.getElementById({name!r}).value") for name in ("attack", "levels", "target", "seed")
    ] == [
        "pgd",
        "2",
        "soup bowl",
        "5",
    ]
    flip(tab)
    assert "soup bowl" in text(tab, "sees")
    tab.value(
        "(() => { const t = document.getElementById('target'); t.value = 'no such class';"
        " t.dispatchEvent(new Event('input')); document.getElementById('flip').click(); })()"
    )
    assert "is not a class of this network" in text(tab, "status")
    assert "no+such+class" in tab.value("location.hash")


def test_everything_works_with_keys_alone_and_has_a_name(tab: Tab, running: Running) -> None:
    tab.call("Page.navigate", url="about:blank")
    tab.open(running.url)
    for _ in range(40):
        tab.press("Tab", "Tab", 9)
        if tab.value("document.activeElement.id") == "flip":
            break
    assert tab.value("document.activeElement.id") == "flip"
    tab.press("Enter", "Enter", 13)
    finished(tab)
    tab.value("document.getElementById('settings').open = true")
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    controls = ("button", "slider", "combobox", "textbox", "spinbutton", "link", "img", "image", "meter")
    unnamed = [
        node["role"]["value"]
        for node in nodes
        if not node.get("ignored") and node["role"]["value"] in controls and not node.get("name", {}).get("value")
    ]
    assert unnamed == []


def test_a_host_that_goes_and_comes_back(tab: Tab, running: Running) -> None:
    tab.value(
        "(() => { document.getElementById('attack').value = 'mi-fgsm'; document.getElementById('flip').click(); })()"
    )
    tab.until("document.getElementById('flip').disabled")
    running.stop()
    tab.until("!document.getElementById('flip').disabled")
    tab.value("document.getElementById('flip').click()")
    tab.until("/can't be reached|ended the attempt/.test(document.getElementById('status').textContent)")
    running.start()
    tab.console.clear()  # The browser notes the refused connections.
    flip(tab)
    assert "Flipped" in text(tab, "status")


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_overflows_in_light_and_dark(
    tab: Tab, running: Running, width: int, dark: bool, tmp_path: Path
) -> None:
    tab.look(width=width, height=900, dark=dark)
    assert tab.value("document.documentElement.scrollWidth") == width
    tab.screenshot(tmp_path / "page.png")
    shot = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert (np.median(shot) < 100) == dark


def test_the_page_asked_nobody_else_and_the_console_is_empty(tab: Tab, running: Running) -> None:
    places = {request for request in tab.requests if not request.startswith((running.url, "blob:", "data:", "about:"))}
    assert places == set()
    assert tab.console == []
