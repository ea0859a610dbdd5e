"""One attempt without a browser: its timings and its result."""

from typing import Any

from perturb.playground.samples import SAMPLES, sample_jpeg
from perturb.playground.session import Event, Player, play
from perturb.schemas.play import Attempt
from perturb.sources.decode import decode_photo


def warm_up(player: Player) -> None:
    """Make one attempt on each network, which loads and starts what later ones find ready."""
    photograph = sample_jpeg(next(iter(SAMPLES)))
    for name in player.networks:
        check_attempt(player, Attempt(network=name), photograph)


def check_attempt(player: Player, attempt: Attempt, photograph: bytes) -> dict[str, Any]:
    """Return what an attempt on the bytes of a photograph gives; times in seconds from when its pixels were there.

    Raises UnusableImage for a file that is no photograph.
    """
    events: list[tuple[str, Event]] = []
    image = player.prepare(attempt, decode_photo(photograph))
    play(player, attempt, image, lambda name, data: events.append((name, data)))
    by_name = dict(events)
    clean, answer, verdict = by_name["clean"], by_name["answer"], by_name["verdict"]
    return {
        "label": clean["name"],
        "clean_margin": clean["margin"],
        "flipped": answer["flipped"],
        "adversarial_label": answer["name"],
        "first_prediction_s": clean["seconds"],
        "first_flip_s": answer["first_flip"],
        "answer_s": answer["attack_seconds"],
        "verdict_s": verdict["seconds"],
        "frames": sum(name == "sight" for name, _ in events),
        "levels": answer["levels"],
        "changed_share": answer["share"],
        "outcome": verdict["outcome"],
        "margin": verdict["margin"],
        "score": verdict["score"],
    }
