"""Generations of a network on photographs given: attacked, hardened, measured, attacked anew.

    python benchmarks/generations.py --photos DIR [--generations 3]

Each generation is attacked on all photographs by four miners, one of PGD, one of MI-FGSM, two of the grid attack. The
next is trained by `harden-1` on the perturbations of all generations before it, beside the control arm, and measured
on photographs that no generation was trained on. It enters a registry in a temporary folder. Gates judge it; whatever
they say, it is the next to be attacked, so that the trend is seen.

DIR has photographs of known ImageNet classes (a folder source). The peer is the control arm: the same steps with every
perturbed image replaced by its clean one. The last line is a JSON object: `old_flip_share` and `control_flip_share` are
of held-out perturbations of the generations before (from the second generation on), `learned_points` their difference
with its 95 % interval, `fresh_flip_share` of fresh PGD at one level, `effort_ratio` of the grid attack's changed
values to the generation before, `clean_loss_points` against the first generation, and `matrix[i][j]` the share of
held-out perturbations made against generation i that flip generation j.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from perturb.attacks import load_attack
from perturb.models.classifier import Classifier
from perturb.schemas.bounds import Bounds
from perturb.schemas.image import pixel_identity
from perturb.schemas.report_card import ReportCard
from perturb.schemas.settings import load_settings
from perturb.sinks.report.target_report import figures
from perturb.sinks.targets.registry import Registry
from perturb.tasks.evaluate.data import subjects_of_pool
from perturb.tasks.harden.arms import material_of, train_arms
from perturb.tasks.harden.pairs import Photograph, Version, divide
from perturb.tasks.harden.train import Recipe
from perturb.tasks.lineup.add import add_first_generation, add_state
from perturb.tasks.lineup.find import load_target
from perturb.tasks.targets.effort import attack_anew, summarise
from perturb.tasks.targets.estimates import share
from perturb.tasks.targets.fresh import labels_of
from perturb.tasks.targets.gates import judge
from perturb.tasks.targets.measure import HeldOut, measure, old_flips

MINERS = (("grid", 0), ("grid", 1), ("pgd", 0), ("mi-fgsm", 0))
_FIRST_DAY = date(2026, 1, 1)
_SECONDS = 60.0
_began = time.monotonic()


def say(text: str) -> None:
    """Print a line with the minutes since the start."""
    print(f"{(time.monotonic() - _began) / 60:5.1f} min  {text}", flush=True)


def load_photographs(network: Classifier, folder: Path, limit: int) -> list[Photograph]:
    """Return the photographs that the network gets right: a challenge is built on no other."""
    found = []
    for subject in subjects_of_pool(folder, limit=limit):
        pixels = network.prepare(subject.pixels)
        if int(labels_of(network, pixels[None])[0]) == subject.label:
            found.append(Photograph(pixel_identity(pixels), pixels, subject.label, ()))
    return found


def attacked(network: Classifier, name: str, day: date, photographs: Sequence[Photograph]) -> list[Photograph]:
    """Return the photographs with what the miners found against `network` added to their versions."""
    attacks = [(f"{attack} {seed}", load_attack(attack), seed) for attack, seed in MINERS]
    made = []
    for number, one in enumerate(photographs):
        versions = list(one.versions)
        for miner, attack, seed in attacks:
            end = time.monotonic() + _SECONDS
            answer = attack(network, one.pixels, one.label, Bounds(), deadline=end, seed=seed)
            if int(labels_of(network, answer[None])[0]) != one.label:
                versions.append(Version(answer, name, miner, day))
        made.append(replace(one, versions=tuple(versions)))
        if (number + 1) % 20 == 0 or number + 1 == len(photographs):
            say(f"{name}: {number + 1} of {len(photographs)} photographs attacked")
    return made


def matrix(networks: Sequence[Classifier], names: Sequence[str], held: Sequence[HeldOut]) -> list[list[float | None]]:
    """Return the share of held-out perturbations made against generation i that flip generation j."""
    columns = [old_flips(network, held) for network in networks]
    return [
        [round(found.value, 4) if name in one and (found := share(one[name])) else None for one in columns]
        for name in names
    ]


def main() -> None:
    """Run, and print the figures of each generation and a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--generations", type=int, default=3)
    parser.add_argument("--limit", type=int, default=96, help="photographs at most")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--fresh", action="store_true", help="also train on perturbations made while training")
    parser.add_argument("--attacked", type=int, default=16, help="held-out photographs that are attacked anew")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as store:
        settings = load_settings(store=store)
        registry = Registry.open(settings)
        targets = [add_first_generation(registry, settings)]
        networks = [load_target(settings, targets[0])]
        photographs = load_photographs(networks[0], options.photos, options.limit)
        say(f"{len(photographs)} photographs that {targets[0].name} gets right")
        recipe = Recipe(epochs=options.epochs, fresh=options.fresh, seed=options.seed)
        cards: list[ReportCard] = []
        while len(targets) < options.generations:
            day = _FIRST_DAY + timedelta(days=len(cards))
            photographs = attacked(networks[-1], targets[-1].name, day, photographs)
            parts = divide(photographs)
            material = material_of(networks[-1], parts.train, recipe.stages)
            arms = train_arms(networks[-1], material, parts.validation, recipe, folder=None, tell=say)
            target = add_state(
                registry, arms.hardened.state(), of=targets[-1], name=f"g{len(targets)}", recipe={"name": "harden-1"}
            )
            card = measure(
                load_target(settings, target),
                parent=networks[-1],
                first=networks[0],
                control=arms.control.as_classifier(networks[-1], sha256="control"),
                photographs=[one.held_out() for one in parts.test],
                training=[one.pixels for one in parts.train],
                watched=arms.watched,
                stated_sha256=target.sha256,
                attacked=options.attacked,
                tell=say,
            )
            for name, value, interval, count in figures(card):
                print(f"  {name}: {value}" + (f" ({interval}; {count})" if interval else ""))
            say(f"{target.name}: {judge(card)}")
            targets.append(target)
            networks.append(load_target(settings, target))
            cards.append(card)
        say("the newest generation is attacked on the held-out photographs")
        test = attacked(networks[-1], targets[-1].name, _FIRST_DAY, parts.test)
        few = np.stack([one.pixels for one in test[: options.attacked]])
        labels = np.array([one.label for one in test[: options.attacked]])
        first = summarise("pgd", attack_anew(networks[0], "pgd", few, labels, bounds=Bounds(), seed=0))
        held = [one.held_out() for one in test]
        report(cards, first.one_level.value, matrix(networks, [one.name for one in targets], held), len(test))


def report(cards: Sequence[ReportCard], first_fresh: float, rows: list[list[float | None]], held_out: int) -> None:
    """Print the JSON object."""

    def all_flips(card: ReportCard, *, control: bool) -> float:
        # The shares of each generation's perturbations have about as many images.
        values = [one.value for one in (card.control_flips if control else card.old_flips).values()]
        return round(float(np.mean(values)), 4)

    learned = [card.learned.against_control for card in cards if card.learned is not None]
    print(
        json.dumps(
            {
                "minutes": round((time.monotonic() - _began) / 60, 1),
                "held_out_photographs": held_out,
                "clean_loss_points": [
                    round(-100 * card.clean.against_first.value, 2) for card in cards if card.clean is not None
                ],
                "old_flip_share": [all_flips(card, control=False) for card in cards],
                "control_flip_share": [all_flips(card, control=True) for card in cards],
                "learned_points": [[round(100 * x, 2) for x in (one.value, one.low, one.high)] for one in learned],
                "fresh_flip_share": [first_fresh, *(card.fresh[0].one_level.value for card in cards if card.fresh)],
                "effort_ratio": [round(card.effort_ratio.value, 3) for card in cards if card.effort_ratio is not None],
                "verdicts": [str(judge(card)) for card in cards],
                "matrix": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
