"""Whether a GPU gives the verdicts that the CPU gives, and how fast it verifies and attacks.

    python benchmarks/devices.py --photos DIR [--devices cpu,cuda] [--rounds 4] [--size 64]

Each photograph makes one round of mixed answers, as in benchmarks/verification.py. Every device verifies the same
bytes: as one batch, and each answer alone. Printed are the answers whose outcome differs from the first device's batch,
the largest difference of a margin in logits and of SSIM, the time of a round, and the reference attacks on the same
photographs.

The last line is a JSON object: device -> answers, other_outcomes, margin_difference, ssim_difference, round_ms,
attacks -> (milliseconds, flipped).
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
import verification
from PIL import Image

from perturb.attacks import load_attack
from perturb.models.classifier import Classifier, load_classifier
from perturb.models.judge.judge import NoJudge
from perturb.models.prediction import predict
from perturb.sandbox.pool import DecodePool
from perturb.schemas.settings import ClassifierSettings, Settings
from perturb.schemas.verdict import Verdict
from perturb.tasks.verify.round import verify

_ATTACKS = ("pgd", "grid")
_ATTACK_SECONDS = 20.0


def main() -> None:
    """Prints a line for each device; the last line is a JSON object."""
    arguments = _arguments()
    photos = sorted(path for path in arguments.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    settings = {name: _settings(name) for name in arguments.devices.split(",")}
    classifiers = {name: load_classifier(of.classifier) for name, of in settings.items()}
    first = next(iter(classifiers))
    rounds = verification.make_rounds(
        classifiers[first], settings[first], photos, size=arguments.size, count=arguments.rounds, good=0.5
    )
    report: dict[str, dict[str, Any]] = {}
    reference: list[Verdict] = []
    with DecodePool() as pool:
        for name, classifier in classifiers.items():
            verdicts, seconds = _verified(rounds, classifier, settings[name], pool, alone=False)
            reference = reference or verdicts
            alone, _ = _verified(rounds, classifier, settings[name], pool, alone=True)
            report[name] = {
                "device": torch.cuda.get_device_name() if classifier.device.type == "cuda" else "cpu",
                "answers": len(verdicts),
                **_differences(reference, verdicts),
                "alone": _differences(reference, alone),
                "round_ms": round(seconds * 1e3, 1),
                "attacks": {attack: _attacked(attack, classifier, photos[: arguments.rounds]) for attack in _ATTACKS},
            }
            print(f"{name}: {report[name]}")
    print(json.dumps(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--devices", default="cpu,cuda", help="devices of torch; the first is the reference")
    parser.add_argument("--rounds", type=int, default=4, help="photographs, each of which makes a round")
    parser.add_argument("--size", type=int, default=64, help="answers in a round")
    return parser.parse_args()


def _settings(device: str) -> Settings:
    return Settings(classifier=ClassifierSettings(device=device, persistence=True))


def _verified(
    rounds: list[verification.Round], classifier: Classifier, settings: Settings, pool: DecodePool, *, alone: bool
) -> tuple[list[Verdict], float]:
    """All verdicts, and the median time of a round in seconds after one that is not counted."""
    judge = NoJudge()
    verdicts: list[Verdict] = []
    times: list[float] = []
    for challenge, responses in (rounds[0], *rounds):
        started = time.perf_counter()
        # Alone, an answer cannot be a duplicate.
        groups = [[response] for response in responses] if alone else [responses]
        verdicts += [
            verdict
            for group in groups
            for verdict in verify(challenge, group, classifier=classifier, judge=judge, settings=settings, pool=pool)
        ]
        times.append(time.perf_counter() - started)
    return verdicts[len(rounds[0][1]) :], statistics.median(times[1:])


def _differences(reference: list[Verdict], verdicts: list[Verdict]) -> dict[str, Any]:
    pairs = list(zip(reference, verdicts, strict=True))
    margins = [abs(a.margin - b.margin) for a, b in pairs if a.margin is not None and b.margin is not None]
    ssims = [abs(a.ssim - b.ssim) for a, b in pairs if a.ssim is not None and b.ssim is not None]
    return {
        "other_outcomes": sum(a.outcome != b.outcome for a, b in pairs if "duplicate" not in (a.outcome, b.outcome)),
        "margin_difference": max(margins),
        "ssim_difference": max(ssims),
    }


def _attacked(name: str, classifier: Classifier, photos: list[Path]) -> dict[str, float]:
    """Median milliseconds of an attack, and how many photographs it flipped, after one that is not counted."""
    attack = load_attack(name)
    times: list[float] = []
    flipped = 0
    for number, path in enumerate((photos[0], *photos)):
        with Image.open(path) as image:
            clean = classifier.prepare(np.asarray(image.convert("RGB")))
        label = int(classifier.logits(clean[None])[0].argmax())
        started = time.perf_counter()
        answer = attack(
            classifier, clean, label, Settings().bounds, deadline=time.monotonic() + _ATTACK_SECONDS, seed=0
        )
        times.append(time.perf_counter() - started)
        if number:
            flipped += predict(classifier.logits(answer[None])[0], true_label=label).margin > 0
    return {"median_ms": round(statistics.median(times[1:]) * 1e3, 1), "flipped": flipped, "of": len(photos)}


if __name__ == "__main__":
    main()
