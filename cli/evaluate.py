"""The command of trainers: `evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb.cli.arguments import Json
from perturb.cli.output import say, say_json, table

if TYPE_CHECKING:
    from perturb.models.bootstrap import Interval
    from perturb.models.classifier import Classifier
    from perturb.schemas.settings import Settings
    from perturb.tasks.evaluate.evaluate import Measured

PANEL = "Harden"
_NAMES = {
    "clean_top1": "clean, right",
    "clean_top5": "clean, right among five",
    "clean_nll": "clean, negative log-likelihood (nats)",
    "perturbed_accuracy": "perturbed images, right",
    "flip_rate": "perturbed images that flip what was right",
    "perturbed_margin": "perturbed images, margin (logits)",
    "all_versions_hold": "photographs of which every version holds",
}


def register(app: typer.Typer) -> None:
    """Add this module's command to `app`."""
    app.command(rich_help_panel=PANEL)(evaluate)


def evaluate(
    data: Annotated[
        Path, typer.Argument(help="An export's folder, or a folder of labelled photographs.", show_default=False)
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A timm name, NAME=WEIGHTS, or target:NAME of the registry; several are compared with the first "
            "\\[default: the configured classifier].",
            show_default=False,
        ),
    ] = None,
    levels: Annotated[str, typer.Option(help="L-inf bounds of fresh PGD, in levels of 255.")] = "1,2,4",
    limit: Annotated[int, typer.Option(min=2, help="Photographs at most.")] = 100,
    split: Annotated[str, typer.Option(help="Split of an export.")] = "test",
    seed: Annotated[int, typer.Option(min=0, help="Chooses photographs of a folder and starts PGD.")] = 0,
    json_: Json = False,
) -> None:
    """Measure what perturbations, and a fresh PGD, do to networks: accuracy, flips and margins with 95 % intervals.

    A stopped run goes on where it was: results are kept in the cache folder.
    """
    from perturb.schemas.settings import load_settings
    from perturb.tasks.evaluate.data import check_classes, subjects_of_export, subjects_of_pool
    from perturb.tasks.evaluate.evaluate import differences, summarise
    from perturb.tasks.evaluate.resume import measured

    settings = load_settings()
    chosen = _levels(levels)
    if (data / "parquet").is_dir() or (data / "data").is_dir():
        subjects = subjects_of_export(data, split=split, limit=limit)
    else:
        subjects = subjects_of_pool(data, limit=limit, seed=seed)
    versions = sum(len(subject.versions) for subject in subjects)
    say(f"{len(subjects)} photographs, {versions} perturbed images")
    results: dict[str, list[Measured]] = {}
    for name in model or [settings.classifier.name]:
        network = _network(name, settings)
        check_classes(subjects, name, network.num_classes)
        cache = settings.cache.expanduser() / "evaluations"
        results[name] = []
        for result in measured(network, subjects, levels=chosen, seed=seed, cache=cache):
            results[name].append(result)
            if len(results[name]) % 10 == 0 or len(results[name]) == len(subjects):
                say(f"{name}: {len(results[name])} of {len(subjects)} photographs")
    report = {name: summarise(found) for name, found in results.items()}
    first = next(iter(report))
    against = {name: differences(found, results[first]) for name, found in results.items() if name != first}
    _say_report(report, against, first)
    if json_:
        say_json({"photographs": len(subjects), "versions": versions, "models": report, f"minus_{first}": against})


def _levels(text: str) -> tuple[int, ...]:
    from perturb.schemas.errors import SettingsError

    parts = text.split(",")
    if not all(part.strip().isdigit() and 1 <= int(part) <= 64 for part in parts):
        raise SettingsError(f"--levels {text!r}: accepted are whole numbers from 1 to 64 with commas, such as 1,2,4")
    return tuple(sorted({int(part) for part in parts}))


def _network(name: str, settings: "Settings") -> "Classifier":
    from perturb.models.classifier import load_classifier
    from perturb.schemas.settings import WeightsSpec
    from perturb.tasks.lineup.find import classifier_settings

    if name.startswith("target:"):
        return load_classifier(classifier_settings(settings, name.removeprefix("target:")))
    architecture, _, file = name.partition("=")
    if not file:
        return load_classifier(settings.classifier, name=architecture)
    own = {"name": architecture, "weights": WeightsSpec("file", path=Path(file)), "input_size": 0}
    return load_classifier(settings.classifier.model_copy(update=own))


def _say_report(
    report: "dict[str, dict[str, Interval]]", against: "dict[str, dict[str, Interval]]", first: str
) -> None:
    for name, found in report.items():
        columns = ["figure", "mean", "95 %", "images", *([f"minus {first}"] if name in against else [])]
        rows = []
        for key, value in found.items():
            less = against.get(name, {}).get(key)
            text = _NAMES.get(key) or f"right under fresh PGD, {key.rpartition('_')[2]} of 255 levels"
            row = [text, f"{value['mean']:.4f}", f"{value['low']:.4f} to {value['high']:.4f}", int(value["count"])]
            if less is not None:
                row.append(f"{less['mean']:+.4f} ({less['low']:+.4f} to {less['high']:+.4f})")
            rows.append(row)
        say(table(name, columns, rows))
