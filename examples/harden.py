"""Harden the classifier with an export, and measure the gain on photographs that were not trained on.

    python examples/harden.py exports/research/parquet [--epochs 4]

Calls the recipe of `perturb harden` on what a subscriber has: an export instead of the corpus. The photographs are
divided by their pixels: some are trained on, some choose how far the tuned weights are kept, the others are measured
on. Two networks are trained: one on clean and perturbed images, and a control arm, which takes the same steps with
every perturbed image replaced by its clean one. Reported are clean accuracy, what the export's held-out perturbations
still flip, with both networks, and what fresh attacks do to the hardened one, with 95 % intervals by bootstrap over
photographs. The last line of the output is a JSON object.

Limits: such a set removes the weaknesses that it contains, for this network. It does not protect against new attacks on
the hardened network; the lines on fresh attacks show this.
"""

import argparse
from collections.abc import Sequence
from datetime import date

import numpy as np

from perturb.models.classifier import Classifier, load_classifier
from perturb.schemas.image import pixel_identity
from perturb.schemas.report_card import ReportCard
from perturb.schemas.settings import load_settings
from perturb.sinks.report.target_report import figures
from perturb.tasks.harden.arms import material_of, train_arms
from perturb.tasks.harden.pairs import Photograph, Version, divide
from perturb.tasks.harden.train import Recipe
from perturb.tasks.targets.gates import judge
from perturb.tasks.targets.measure import measure


def load_photographs(path: str) -> list[Photograph]:
    """Return the photographs of a `parquet/` root with their perturbed versions.

    An export does not say who made a version, so that each counts as another miner's.
    """
    import datasets

    found: dict[str, Photograph] = {}
    rows = datasets.concatenate_datasets(list(datasets.load_dataset(path).values()))
    for number, row in enumerate(rows):
        pixels = np.asarray(row["original"])
        identity = pixel_identity(pixels)
        version = Version(np.asarray(row["perturbed"]), "export", f"version {number}", date.min)
        before = found[identity].versions if identity in found else ()
        found[identity] = Photograph(identity, pixels, row["true_label"], (*before, version))
    return [found[identity] for identity in sorted(found)]


def harden(photographs: Sequence[Photograph], classifier: Classifier, recipe: Recipe, *, attacked: int) -> ReportCard:
    """Train both arms, and return the report card of the hardened one."""
    parts = divide(photographs)
    print(f"{len(parts.train)} photographs to train on, {len(parts.test)} held out")
    material = material_of(classifier, parts.train, recipe.stages)
    arms = train_arms(classifier, material, parts.validation, recipe, folder=None, tell=print)
    return measure(
        arms.hardened.as_classifier(classifier, sha256="hardened"),
        parent=classifier,
        first=classifier,
        control=arms.control.as_classifier(classifier, sha256="control"),
        photographs=[one.held_out() for one in parts.test],
        training=[one.pixels for one in parts.train],
        watched=arms.watched,
        attacked=attacked,
        seed=recipe.seed,
        tell=print,
    )


def main(arguments: Sequence[str] | None = None) -> ReportCard:
    """Read the arguments, run, print the figures and a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", help="a parquet/ root")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--stages", type=int, default=Recipe.stages, help="last stages of the network that are trained")
    parser.add_argument("--rate", type=float, default=Recipe.rate, help="learning rate")
    parser.add_argument("--fresh", action="store_true", help="also train on perturbations made while training")
    parser.add_argument("--attacked", type=int, default=24, help="photographs that are attacked anew")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    recipe = Recipe(
        epochs=options.epochs, stages=options.stages, rate=options.rate, fresh=options.fresh, seed=options.seed
    )
    classifier = load_classifier(load_settings().classifier)
    card = harden(load_photographs(options.export), classifier, recipe, attacked=options.attacked)
    for name, value, interval, count in figures(card):
        print(f"{name}: {value}" + (f" ({interval}; {count} photographs)" if interval else ""))
    print(judge(card))
    print(card.model_dump_json())
    return card


if __name__ == "__main__":
    main()
