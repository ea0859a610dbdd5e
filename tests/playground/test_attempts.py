"""Attempts over HTTP: what is streamed is exact, bad input gets a status and a sentence, and nothing is left behind."""

import base64
import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from perturb.models.judge.judge import NoJudge
from perturb.playground.samples import sample_jpeg
from perturb.playground.session import Player
from perturb.schemas.image import Pixels, pixel_identity
from perturb.schemas.play import Attempt
from perturb.schemas.png import read_png
from perturb.schemas.settings import Settings
from perturb.tasks.verify.pair import verify_pair
from tests.playground.conftest import Running

COFFEE = sample_jpeg("coffee")


def events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    for text in response.iter_text():
        yield from _parsed(text)


_rest = threading.local()


def _parsed(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    *whole, _rest.text = (getattr(_rest, "text", "") + text).split("\n\n")
    for event in whole:
        name, data = event.split("\n")
        yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def attempt(running: Running, body: bytes = COFFEE, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    with httpx.stream(
        "POST", f"{running.url}/api/attempts", params={"attack": "pgd", **options}, content=body, timeout=60
    ) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response))


def refusal(running: Running, body: Any = COFFEE, headers: Any = None, **options: Any) -> tuple[int, str]:
    answer = httpx.post(f"{running.url}/api/attempts", params=options, content=body, headers=headers, timeout=60)
    return answer.status_code, answer.text if answer.status_code == 400 else answer.json()["error"]


def decoded(text: str) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


@pytest.mark.slow
def test_every_step_is_the_true_image_and_the_verdict_is_the_validators(running: Running, player: Player) -> None:
    found = attempt(running, attack="pgd+grid")
    names = [name for name, _ in found]
    assert names[0] == "clean"
    assert names[-4:] == ["answer", "survival", "verdict", "done"]
    by_name = dict(found)
    clean, answer, verdict = by_name["clean"], by_name["answer"], by_name["verdict"]
    original = decoded(clean["png"])
    assert pixel_identity(original) == clean["id"]
    network = player.network(None)
    steps = [data for name, data in found if name == "sight"]
    assert steps
    for step in steps:
        pixels = (original.astype(int) + decoded(step["difference"]) - 128).astype(np.uint8)
        logits = network.logits(pixels[None])[0]
        margin = float(np.delete(logits, clean["label"]).max() - logits[clean["label"]])
        assert step["margin"] == pytest.approx(margin, abs=1e-3)
        assert step["top"][0]["label"] == logits.argmax()
        assert step["changed"] == (pixels != original).sum()
        assert step["flipped"] == (margin > 0)
    assert answer["flipped"]
    assert answer["share"] < min(step["share"] for step in steps[:3])
    # The downloaded files give the same verdict.
    files = base64.b64decode(clean["png"]), base64.b64decode(answer["png"])
    pair = verify_pair(
        *files,
        label=verdict["record"]["label"],
        classifier=network,
        judge=NoJudge(),
        settings=Settings(),
        response_ms=verdict["response_ms"],
    )
    assert verdict["outcome"] == pair.verdict.outcome == "accepted"
    assert verdict["margin"] == pytest.approx(pair.verdict.margin, abs=1e-4)
    assert verdict["score"] == pair.score.model_dump(mode="json")
    assert [gate["state"] for gate in verdict["gates"]] == ["passed"] * len(verdict["gates"])
    assert len(read_png(files[1], height=network.height, width=network.width)) == network.height
    assert by_name["survival"]["networks"][0]["network"] == "again"
    assert by_name["survival"]["networks"][0]["flipped"]


def test_a_target_class_is_reached_or_it_is_said(running: Running, player: Player) -> None:
    network = player.network(None)
    names = [network.label_name(label) for label in range(1000)]
    found = dict(attempt(running, target=names.index("soup bowl")))
    answer = found["answer"]
    assert answer["flipped"] == (answer["name"] == "soup bowl")
    assert answer["flipped"]
    seen = dict(attempt(running, target=found["clean"]["label"]))
    assert seen.keys() == {"refused"}
    assert seen["refused"]["error"].endswith("already; choose another target class")


def image(mode: str = "RGB", size: tuple[int, int] = (200, 160), form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "options", "status", "sentence"),
    [
        (b"", {}, 422, "the body is empty; accepted: the bytes of a photograph"),
        (b"no image at all", {}, 422, "the photograph can't be used"),
        (COFFEE[:400], {}, 422, "the photograph can't be used"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}, 422, "accepted: JPEG, PNG"),
        (image(size=(20, 20)), {}, 422, "the photograph can't be used"),
        (image(size=(3000, 40)), {}, 422, "the photograph can't be used"),
        (b"\0\0\0\x18ftypheic" + bytes(100), {}, 422, "this is a HEIC or AVIF photograph, which is not decoded here"),
        (bytes(13_000_000), {}, 413, "the photograph is larger than 12 MB"),
        (COFFEE, {"attack": "magic"}, 422, "attack is 'magic'"),
        (COFFEE, {"levels": 0}, 422, "levels is '0'"),
        (COFFEE, {"levels": 9}, 422, "levels is '9'"),
        (COFFEE, {"target": 1000}, 422, "target is class 1000; accepted: 0 to 999"),
        (COFFEE, {"network": "<b>x</b>"}, 422, "network '<b>x</b>' is not here; accepted: lite0, again"),
        (COFFEE, {"surprise": 1}, 422, "surprise is '1': Extra inputs are not permitted"),
    ],
)
def test_bad_input_gets_a_status_and_a_sentence(
    running: Running, body: bytes, options: dict[str, Any], status: int, sentence: str
) -> None:
    found, said = refusal(running, body, **options)
    assert found == status, said
    assert sentence in said
    assert httpx.get(f"{running.url}/health").json() == {"well": True, "attempts": 0}


@pytest.mark.parametrize(
    "body",
    [
        image("L"),
        image("RGBA"),
        image("CMYK", form="JPEG"),
        image("I;16"),
        image("P", form="GIF", save_all=True, append_images=[Image.new("P", (200, 160))]),
    ],
    ids=["grey", "alpha", "CMYK", "16-bit", "animated"],
)
def test_photographs_as_people_have_them_are_taken(running: Running, body: bytes) -> None:
    assert attempt(running, body, attack="fgsm")[0][0] == "clean"


def test_a_turned_photograph_is_upright(running: Running) -> None:
    upright = Image.open(io.BytesIO(COFFEE))
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    plain = io.BytesIO()
    upright.save(plain, "PNG")
    ids = {dict(attempt(running, data.getvalue(), attack="fgsm"))["clean"]["id"] for data in (buffer, plain)}
    assert len(ids) == 1


def test_strangers_are_refused(running: Running) -> None:
    assert refusal(running, headers={"Host": "evil.example"})[0] == 400
    status, said = refusal(running, headers={"Origin": "https://evil.example"})
    assert (status, said) == (403, "attempts are accepted from this playground's own page only")
    page = httpx.get(running.url)
    assert "frame-ancestors 'self' https://huggingface.co" in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    assert httpx.get(f"{running.url}/samples/..%2f..%2fsecret").status_code == 404
    assert (
        httpx.get(f"{running.url}/samples/nobody").json()["error"].startswith("sample 'nobody' is not here; accepted:")
    )


def test_a_slow_body_is_given_up(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as slow:
        slow.sendall(
            f"POST /api/attempts HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nContent-Length: 999\r\n\r\nx".encode()
        )
        slow.settimeout(20)
        assert b"408" in slow.recv(4096).split(b"\r\n")[0]


def test_so_many_bodies_are_read_at_once(player: Player) -> None:
    limited = Player(player.networks, player.judge, player.settings, player.limits.model_copy(update={"bodies": 1}))
    running = Running(limited)
    head = f"POST /api/attempts HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nContent-Length: 999\r\n\r\nx"
    try:
        with socket.create_connection(("127.0.0.1", running.port)) as slow:
            slow.sendall(head.encode())
            deadline = time.monotonic() + 5
            while (answer := refusal(running, b"no image"))[0] != 503:
                assert time.monotonic() < deadline
            assert answer[1] == "too many photographs are arriving; try again in a moment"
        assert refusal(running, b"no image")[0] in (422, 503)
    finally:
        running.stop()


def test_what_waits_is_small(player: Player) -> None:
    photograph = np.zeros((4000, 6000, 3), np.uint8)
    assert player.prepare(Attempt(), photograph).nbytes < 200_000


def test_a_full_line_says_when_to_come_back_and_a_closed_tab_frees_its_place(running: Running) -> None:
    url = f"{running.url}/api/attempts"
    options: Any = {"params": {"attack": "grid", "levels": 8}, "content": COFFEE, "timeout": 60}
    with httpx.Client() as client, ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda _: client.post(url, **options), range(12)))
        codes = [answer.status_code for answer in statuses]
        assert set(codes) == {200, 503}, codes
        full = statuses[codes.index(503)]
        assert int(full.headers["retry-after"]) > 0
        assert "attempts are waiting; try again" in full.json()["error"]
        waited = [dict(_events_of(answer.text)) for answer in statuses if answer.status_code == 200]
        assert all(found["verdict"]["outcome"] == "accepted" for found in waited)
        assert any("queued" in found for found in waited)
    with httpx.stream("POST", url, **options) as response:
        assert next(events(response))[0] == "clean"
    deadline = time.monotonic() + 5
    while httpx.get(f"{running.url}/health").json()["attempts"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _events_of(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for event in text.strip().split("\n\n"):
        name, data = event.split("\n")
        yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@pytest.mark.slow
def test_attempts_leave_nothing_behind(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`PLAY_ATTEMPTS=1000` makes as many attempts as a busy day has."""
    attempts = int(os.environ.get("PLAY_ATTEMPTS", "12"))
    me = psutil.Process()
    for _ in range(4):
        attempt(running, attack="fgsm")
    before = (me.memory_info().rss, me.num_threads(), me.num_fds())
    places = [tmp_path.parent, Path.cwd()]
    files = [set(place.iterdir()) for place in places]
    for _ in range(attempts):
        attempt(running, attack="fgsm")
    after = (me.memory_info().rss, me.num_threads(), me.num_fds())
    assert after[0] - before[0] < 50 * 2**20
    assert after[1] <= before[1] + 2
    assert after[2] <= before[2] + 2
    assert [set(place.iterdir()) for place in places] == files


def test_one_address_makes_so_many_attempts_a_minute(player: Player) -> None:
    limited = Player(
        player.networks, player.judge, player.settings, player.limits.model_copy(update={"attempts_a_minute": 2})
    )
    running = Running(limited)
    try:
        for _ in range(2):
            attempt(running, attack="fgsm")
        answer = httpx.post(f"{running.url}/api/attempts", content=COFFEE)
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 61
    finally:
        running.stop()
