"""How soon the playground's visitors see something, through HTTP, on photographs that are given.

    python benchmarks/play.py --photos DIR [--limit 20] [--seconds 3]

It starts `perturb play` as a process of its own, sends one photograph after the other with the attack `pgd+grid`, and
times the events from the moment the request is sent. `overhead` compares the same attack on the same photographs in
this process, watched as the playground watches it and streamed nowhere, with it unwatched, in turns.

The last line is a JSON object: first_prediction_p95_s, first_flip_median_s, first_flip_p95_s, verdict_p95_s,
frames_per_s, flipped (share of photographs whose clean margin is 1 or more), overhead.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_CLEAR = 1.0


def main() -> None:
    """Prints a line for each photograph; the last line is a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--limit", type=int, default=20, help="how many of them, in the order of their names")
    parser.add_argument("--seconds", type=float, default=3.0, help="what an attack may take")
    options = parser.parse_args()
    photos = sorted(path for path in options.photos.iterdir() if path.suffix.lower() in _SUFFIXES)[: options.limit]
    with _playground(options.seconds) as url, httpx.Client(timeout=60) as client:
        attempts = [_attempt(client, url, path) for path in photos]
    clear = [one for one in attempts if one["clean_margin"] >= _CLEAR]
    flips = sorted(one["first_flip_s"] for one in attempts if one["first_flip_s"] is not None)
    print(
        json.dumps(
            {
                "photographs": len(attempts),
                "first_prediction_p95_s": _p95([one["first_prediction_s"] for one in attempts]),
                "first_flip_median_s": round(statistics.median(flips), 3),
                "first_flip_p95_s": _p95(flips),
                "verdict_p95_s": _p95([one["verdict_s"] for one in attempts]),
                "frames_per_s": round(statistics.median(one["frames_per_s"] for one in attempts), 1),
                "flipped": round(sum(one["flipped"] for one in clear) / max(1, len(clear)), 3),
                "overhead": round(_overhead(photos, options.seconds), 3),
            }
        )
    )


@contextmanager
def _playground(seconds: float) -> Iterator[str]:
    command = [str(Path(sys.executable).parent / "perturb"), "play", "--port", "0", "--seconds", str(seconds)]
    process = subprocess.Popen([*command, "--rate", "100000"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+/", line)))
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _attempt(client: httpx.Client, url: str, photo: Path) -> dict[str, Any]:
    """Times of one attempt's events, in seconds from the request."""
    body = photo.read_bytes()
    began = time.perf_counter()
    seen: list[tuple[str, float, dict[str, Any]]] = []
    with client.stream("POST", f"{url}api/attempts", content=body) as response:
        assert response.status_code == 200, response.read()
        text = ""
        for piece in response.iter_text():
            *events, text = (text + piece).split("\n\n")
            for event in events:
                name, data = event.split("\n")
                data = json.loads(data.removeprefix("data: "))
                seen.append((name.removeprefix("event: "), time.perf_counter() - began, data))
    when = {name: at for name, at, _ in reversed(seen)}
    data = {name: found for name, _, found in seen}
    flips = [at for name, at, found in seen if name == "sight" and found["flipped"]]
    sights = [at for name, at, _ in seen if name == "sight"]
    attack = max(when["answer"] - when["clean"], 1e-9)
    result = {
        "clean_margin": data["clean"]["margin"],
        "first_prediction_s": when["clean"],
        "first_flip_s": flips[0] if flips else None,
        "verdict_s": when["verdict"],
        "frames_per_s": len(sights) / attack,
        "flipped": data["answer"]["flipped"],
    }
    print(
        photo.name, {name: round(value, 3) if value is not None else None for name, value in result.items()}, flush=True
    )
    return result


def _p95(values: list[float]) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 3)


def _overhead(photos: list[Path], seconds: float) -> float:
    """Median of watched over unwatched time of `pgd+grid`, minus one."""
    from perturb.playground.player import load_player
    from perturb.playground.session import Session
    from perturb.schemas.play import Attempt, PlayLimits
    from perturb.schemas.settings import load_settings
    from perturb.sources.decode import read_photo

    player = load_player(load_settings(), PlayLimits(seconds=seconds), judged=False)
    ratios = []
    for photo in photos[:10]:
        pixels = read_photo(photo)
        times = []
        for watched in (False, True):
            session = Session(player, Attempt(), player.prepare(Attempt(), pixels), lambda name, data: json.dumps(data))
            began = time.perf_counter()
            session.attack(watched=watched)
            times.append(time.perf_counter() - began)
        ratios.append(times[1] / times[0] - 1)
    return statistics.median(ratios[1:] or ratios)


if __name__ == "__main__":
    main()
