"""One attempt, from a photograph's pixels to the validator's verdict, as a series of events.

The networks are entered by one thread at a time. Nothing is written: images live in memory until the attempt ends.
"""

import base64
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from perturb.attacks import load_attack
from perturb.attacks.observer import Candidate, watched_by
from perturb.models.classifier import Classifier
from perturb.models.judge.judge import Judge
from perturb.models.metrics import distances
from perturb.models.prediction import predict
from perturb.playground.verdict import gates_of
from perturb.schemas.bounds import LEVELS, Bounds
from perturb.schemas.errors import PerturbError
from perturb.schemas.image import Pixels, encode_png, pixel_identity
from perturb.schemas.play import Attempt, PlayLimits
from perturb.schemas.settings import Settings
from perturb.tasks.verify.pair import verify_pair

Event = dict[str, Any]
Emit = Callable[[str, Event], None]
"""Called with the name of an event and its data. It ends the attempt by raising `AttackStopped`."""

_TOP = 5


class AttemptRefused(PerturbError):
    """An attempt that cannot be made; the message says what would be accepted."""


@dataclass(frozen=True)
class Player:
    """The networks that can be attacked, the first by default, and what a verdict needs."""

    networks: dict[str, Classifier]
    judge: Judge
    settings: Settings
    limits: PlayLimits

    def network(self, name: str | None) -> Classifier:
        """Return a network by name. Raises AttemptRefused for another name."""
        if name is None:
            return next(iter(self.networks.values()))
        if name not in self.networks:
            raise AttemptRefused(f"network {name!r} is not here; accepted: {', '.join(self.networks)}")
        return self.networks[name]

    def check(self, attempt: Attempt) -> None:
        """Raise AttemptRefused for a network or a target class that does not exist."""
        classes = self.network(attempt.network).num_classes
        if attempt.target is not None and attempt.target >= classes:
            raise AttemptRefused(f"target is class {attempt.target}; accepted: 0 to {classes - 1}, or none")

    def prepare(self, attempt: Attempt, photograph: Pixels) -> Pixels:
        """Return a photograph, uint8 RGB of any size, as the attempt's network takes it: a few hundred kilobytes."""
        return self.network(attempt.network).prepare(photograph)


def play(player: Player, attempt: Attempt, clean: Pixels, emit: Emit) -> None:
    """Attack an image that `Player.prepare` returned: emit `clean`, `sight`s, `answer`, `survival`, `verdict`, `done`.

    Raises AttemptRefused where the target is what the network sees already, and AttackStopped when `emit` does.
    """
    Session(player, attempt, clean, emit).run()


class Session:
    """One attempt on one photograph; `play` runs it from beginning to end."""

    def __init__(self, player: Player, attempt: Attempt, clean: Pixels, emit: Emit):
        self._player, self._attempt, self._emit = player, attempt, emit
        self._began = time.monotonic()
        self._classifier = player.network(attempt.network)
        self._clean = clean
        self._png = encode_png(self._clean)
        self._bounds = _bounds(player.settings.bounds, attempt.levels)
        self._first_flip: float | None = None
        self._logits = self._classifier.logits(self._clean[None])[0]
        self._label = int(self._logits.argmax())

    def run(self) -> None:
        """Emit the events of the whole attempt."""
        if self._attempt.target == self._label:
            name = self._classifier.label_name(self._label)
            raise AttemptRefused(f"the network sees {name!r} already; choose another target class")
        self._tell_clean(self._logits)
        answer = self.attack()
        seconds = self._seconds()
        flipped = self._tell_answer(answer, seconds)
        if flipped:
            self._tell_survival(answer)
        self._tell_verdict(answer, seconds)
        self._tell("done", {})

    def _tell(self, name: str, data: Event) -> None:
        self._emit(name, {"seconds": round(self._seconds(), 4), **data})

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _tell_clean(self, logits: npt.NDArray[np.float32]) -> None:
        margin = -predict(logits, true_label=self._label).margin
        confidence = predict(logits).confidence
        challenge = self._player.settings.challenge
        unsure = margin < challenge.min_clean_margin or confidence < challenge.min_clean_confidence
        self._tell(
            "clean",
            {
                "id": pixel_identity(self._clean),
                "label": self._label,
                "name": self._classifier.label_name(self._label),
                "margin": margin,
                "unsure": unsure,
                "top": top(self._classifier, logits),
                "png": _text(self._png),
                "height": self._classifier.height,
                "width": self._classifier.width,
            },
        )

    def attack(self, *, watched: bool = True) -> Pixels:
        """Return the best answer of the attacks in their order. Each shows its candidates where it is `watched`."""
        deadline = self._began + self._player.limits.seconds
        best = self._clean
        number = 0

        def watch(candidate: Candidate) -> None:
            nonlocal number
            number += 1
            self._tell_sight(number, candidate)

        with watched_by(watch) if watched else nullcontext():
            for name in self._attempt.attack.split("+"):
                attack = load_attack(name)
                found = attack(
                    self._attacked_classifier(),
                    self._clean,
                    self._label,
                    self._bounds,
                    deadline=deadline,
                    seed=self._attempt.seed,
                )
                best = self._better(best, found)
        return best

    def _attacked_classifier(self) -> Classifier:
        """Return the network, with all classes but the target merged into the label where there is a target."""
        if self._attempt.target is None:
            return self._classifier
        from perturb.miner.masked_classifier import MaskedClassifier

        others = [other for other in range(self._classifier.num_classes) if other != self._attempt.target]
        return cast(Classifier, MaskedClassifier(self._classifier, self._label, others))

    def _better(self, one: Pixels, other: Pixels) -> Pixels:
        """Return the image that flips with a sufficient margin, of two that do the one that changes less."""
        ranks = []
        for pixels in (one, other):
            margin = self._margin(pixels)
            holds = margin >= self._bounds.min_margin
            ranks.append((holds, -distances(self._clean, pixels).squares if holds else margin))
        return one if ranks[0] >= ranks[1] else other

    def _margin(self, pixels: Pixels) -> float:
        logits = self._attacked_classifier().logits(pixels[None])[0]
        return float(predict(logits, true_label=self._label).margin)

    def _tell_sight(self, number: int, candidate: Candidate) -> None:
        flipped = candidate.margin > 0
        if flipped and self._first_flip is None:
            self._first_flip = self._seconds()
        known = candidate.logits if self._attempt.target is None else None
        logits = self._classifier.logits(candidate.pixels[None])[0] if known is None else known
        self._tell(
            "sight",
            {
                "number": number,
                "margin": candidate.margin,
                "levels": candidate.levels,
                "changed": candidate.changed,
                "share": candidate.changed / self._clean.size,
                "inside": candidate.inside,
                "holds": candidate.holds,
                "flipped": flipped,
                "top": top(self._classifier, logits),
                "difference": _text(difference_png(self._clean, candidate.pixels)),
            },
        )

    def _tell_answer(self, answer: Pixels, seconds: float) -> bool:
        logits = self._classifier.logits(answer[None])[0]
        found = predict(logits, true_label=self._label)
        distance = distances(self._clean, answer)
        flipped = found.margin > 0 and self._attempt.target in (None, int(logits.argmax()))
        self._tell(
            "answer",
            {
                "flipped": flipped,
                "name": self._classifier.label_name(int(logits.argmax())),
                "margin": found.margin,
                "levels": distance.linf_levels,
                "changed": distance.l0,
                "share": distance.l0 / answer.size,
                "top": top(self._classifier, logits),
                "png": _text(encode_png(answer)),
                "first_flip": self._first_flip,
                "attack_seconds": seconds,
            },
        )
        return flipped

    def _tell_survival(self, answer: Pixels) -> None:
        """Tell whether every other network falls for the image too."""
        others = []
        for name, network in self._player.networks.items():
            if name == (self._attempt.network or next(iter(self._player.networks))):
                continue
            # A network of another input size gets the image as it would get any photograph.
            same = (network.height, network.width) == self._clean.shape[:2]
            clean, perturbed = (pixels if same else network.prepare(pixels) for pixels in (self._clean, answer))
            labels = network.logits(np.stack([clean, perturbed])).argmax(axis=1)
            before, after = (network.label_name(int(label)) for label in labels)
            others.append({"network": name, "before": before, "after": after, "flipped": before != after})
        self._tell("survival", {"networks": others})

    def _tell_verdict(self, answer: Pixels, seconds: float) -> None:
        verdict = verify_pair(
            self._png,
            encode_png(answer),
            label=self._label,
            classifier=self._classifier,
            judge=self._player.judge,
            settings=self._player.settings,
            response_ms=round(seconds * 1000),
        )
        found = verdict.verdict
        self._tell(
            "verdict",
            {
                "accepted": found.accepted,
                "outcome": found.outcome,
                "detail": found.detail,
                "gates": list(gates_of(verdict)),
                "persists": found.persists.model_dump() if found.persists else None,
                "margin": found.margin,
                "score": verdict.score.model_dump(mode="json"),
                "notes": list(verdict.notes),
                "judge": self._player.judge.name,
                "response_ms": round(seconds * 1000),
                "record": {"label": self._label, "verdict": found.model_dump(mode="json", exclude_none=True)},
            },
        )


def _bounds(bounds: Bounds, levels: int) -> Bounds:
    return bounds.model_copy(update={"epsilon": max(bounds.epsilon_min, min(bounds.epsilon, levels / LEVELS))})


def top(classifier: Classifier, logits: npt.NDArray[np.float32]) -> list[Event]:
    """Return the most probable classes with their softmax probabilities."""
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    best = np.argsort(-logits)[:_TOP]
    return [
        {"label": int(label), "name": classifier.label_name(int(label)), "share": float(shares[label])}
        for label in best
    ]


def difference_png(clean: Pixels, perturbed: Pixels) -> bytes:
    """Return a PNG of 128 plus the difference, which with the clean image gives the perturbed one bit for bit."""
    return encode_png((perturbed.astype(np.int16) - clean + 128).astype(np.uint8))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
