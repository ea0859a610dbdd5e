"""The command of a miner that wants to know where its attack stands: `bench`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturb.cli.arguments import Json, Source
from perturb.cli.output import say, say_json, styled, table, write_file

if TYPE_CHECKING:
    from perturb.tasks.bench.bench import Trial

PANEL = "Mine"


def register(app: typer.Typer) -> None:
    """Add this module's command to `app`."""
    app.command(rich_help_panel=PANEL)(bench)


def bench(
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="pgd, fgsm, mi-fgsm, grid, or your own as module:function; several are compared \\[default: grid].",
            show_default=False,
        ),
    ] = None,
    challenges: Annotated[int, typer.Option(min=1, help="How many challenges each attack answers.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the photographs and the attacks' random numbers.")] = 7,
    budget_seconds: Annotated[float, typer.Option(help="Seconds that an attack may take for one challenge.")] = 3.0,
    source: Source = None,
    target: Annotated[
        str | None,
        typer.Option(help="A target of the registry \\[default: the configured classifier].", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the worst case as a pair of PNGs.", show_default=False),
    ] = None,
    json_: Json = False,
) -> None:
    """Examine an attack as the validator would: challenges as it draws them, every gate, the judge, time and score.

    Nothing is sent anywhere, and no miner needs to be registered.
    """
    from perturb.miner.answer import attack_answer
    from perturb.miner.targets import TargetPool
    from perturb.models.classifier import load_classifier
    from perturb.models.judge.judge import load_judge
    from perturb.schemas.settings import load_settings
    from perturb.sources import open_source
    from perturb.tasks.bench.bench import Models, draw_challenges, examine, summarise, worst
    from perturb.tasks.lineup.find import classifier_settings

    settings = load_settings(**({"source": source} if source else {}))
    say("loading the network and the judge")
    attacked = settings.classifier if target is None else classifier_settings(settings, target)
    classifier = load_classifier(attacked)
    judge = load_judge(settings.judge, cache=settings.cache)
    targets = TargetPool(attacked)
    answers = {name: attack_answer(name, targets, budget_seconds=budget_seconds) for name in attack or ["grid"]}
    photos = open_source(settings).photos(seed=seed)
    models: Models = {"classifier": classifier, "judge": judge, "settings": settings}
    trials: list[Trial] = []
    for number, challenge in enumerate(draw_challenges(photos, challenges, seed=seed, **models)):
        for name, answer in answers.items():
            if number == 0:
                # The first answer starts what later ones find ready, as a miner's before its first challenge.
                examine(challenge, name, answer, **models)
            trial = examine(challenge, name, answer, **models)
            trials.append(trial)
            why = trial.failure or (trial.verdict.detail if trial.verdict else None) or ""
            say(
                f"{number + 1}/{challenges} {challenge.task.true_label_name}: {name} {trial.outcome}, score "
                f"{trial.points:.3f}, {trial.response_ms:.0f} ms {why}"
            )
    report = summarise(trials)
    _say_report(report)
    if output is not None:
        _write_worst(worst(trials), output)
    if json_:
        say_json({"seed": seed, "classifier": classifier.name, "weights": classifier.sha256, "attacks": report})


def _say_report(report: dict[str, dict[str, Any]]) -> None:
    columns = ["attack", "accepted", "score", "quality", "speed", "levels", "changed", "ms"]
    rows = [
        [
            name,
            f"{found['accepted']:.0%}",
            found["score"]["mean"],
            found["quality"],
            found["speed"],
            found["levels_median"],
            None if found["changed_share_median"] is None else f"{found['changed_share_median']:.1%}",
            round(found["milliseconds_median"]),
        ]
        for name, found in report.items()
    ]
    say(table("attacks on the same challenges; levels, changed values and time are medians", columns, rows))
    for name, found in report.items():
        points = found["score"]
        say(f"{name}: score {points['mean']:.3f} (95 % {points['low']:.3f} to {points['high']:.3f})")
        for outcome, count in found["outcomes"].items():
            if outcome != "accepted":
                say(f"{name}: refused {count} of {found['challenges']} as {outcome}")
        for key, against in found.items():
            if key.startswith("score_against_"):
                difference = f"{against['mean']:+.3f} (95 % {against['low']:+.3f} to {against['high']:+.3f})"
                say(f"{name} against {key.removeprefix('score_against_')}: score {difference}")


def _write_worst(trial: "Trial", folder: Path) -> None:
    from perturb.tasks.bench.bench import files_of

    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files_of(trial).items():
        write_file(folder / name, data, "--output")
    say(
        styled(
            ("worst", "yellow"), f" {trial.attack}, {trial.outcome}, score {trial.points:.3f}: the pair is in {folder}"
        )
    )
