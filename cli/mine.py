"""Commands that look and judge: `score`, `judge`, `doctor`. None of them starts a Prefect server."""

from pathlib import Path
from typing import Annotated

import typer

from perturb.cli.output import Json, read_file, say, say_json, table


def register(app: typer.Typer) -> None:
    """Adds this module's commands to `app`."""
    app.command()(score)
    app.command()(judge)
    app.command()(doctor)


def score(
    clean: Annotated[Path, typer.Argument(help="The challenge's clean image, PNG.", show_default=False)],
    perturbed: Annotated[Path, typer.Argument(help="Your answer, PNG.", show_default=False)],
    label: Annotated[
        int | None,
        typer.Option(help="The true label \\[default: what the classifier sees in CLEAN].", show_default=False),
    ] = None,
    response_ms: Annotated[float, typer.Option(min=0, help="How long your answer took, for the speed part.")] = 0.0,
    json_: Json = False,
) -> None:
    """Give a pair the validator's own verdict and score, and say what to change where it is refused."""
    from dataclasses import asdict

    from perturb.models.classifier import load_classifier
    from perturb.models.judge.judge import load_judge
    from perturb.schemas.settings import load_settings
    from perturb.tasks.verify.pair import verify_pair

    settings = load_settings()
    pair = verify_pair(
        read_file(clean, "CLEAN"),
        read_file(perturbed, "PERTURBED"),
        label=label,
        response_ms=response_ms,
        classifier=load_classifier(settings.classifier),
        judge=load_judge(settings.judge, cache=settings.cache),
        settings=settings,
    )
    found = pair.verdict.model_dump(exclude_none=True) | pair.score.model_dump()
    say(table(f"{perturbed} against {clean} ({pair.task.true_label_name})", ["", ""], list(found.items())))
    for note in pair.notes:
        say(f"[yellow]note[/] {_escape(note)}")
    if not pair.verdict.accepted:
        say(f"[red]refused: {pair.verdict.outcome}[/] {_escape(pair.verdict.detail or '')}")
    if json_:
        dumped = {"verdict": pair.verdict.model_dump(mode="json"), "score": pair.score.model_dump(mode="json")}
        plain = {name: value for name, value in asdict(pair).items() if name not in ("task", "verdict", "score")}
        say_json({**dumped, "task": pair.task.model_dump(mode="json"), **plain})


def judge(
    pairs: Annotated[Path, typer.Option(help="CSV with the columns class_index, label, target, is_member.")],
    json_: Json = False,
) -> None:
    """Measure the judge on labelled pairs: accuracy, AUC, pairs per second, and the worst cases."""
    from dataclasses import asdict

    from perturb.models.judge.judge import load_judge
    from perturb.models.judge.trial import read_pairs, try_judge
    from perturb.schemas.settings import load_settings

    settings = load_settings()
    trial = try_judge(read_pairs(pairs), load_judge(settings.judge, cache=settings.cache))
    facts = {name: value for name, value in asdict(trial).items() if name not in ("worst", "scores")}
    say(table(f"{trial.judge} on {pairs}", ["", ""], list(facts.items())))
    columns = ["label", "target", "is a member", "score", "beyond the threshold"]
    rows = [(p.label, p.target, p.is_member, p.score, p.distance) for p in trial.worst]
    say(table("worst cases", columns, rows))
    if json_:
        say_json(facts)


def doctor(
    all_: Annotated[
        bool, typer.Option("--all", help="Print all settings, not only those that differ from the defaults.")
    ] = False,
    json_: Json = False,
) -> None:
    """Print the settings that differ from the defaults, then check each part and say what to do where it isn't ready.

    Secrets are masked.
    """
    from perturb.schemas.settings import all_settings, changed_settings, load_settings
    from perturb.tasks.monitor.doctor import check_all

    settings = load_settings()
    shown = all_settings(settings) if all_ else changed_settings(settings)
    if shown:
        title = "all settings" if all_ else "changed settings"
        say(table(title, ["name", "value"], [(name, _escape(str(value))) for name, value in shown.items()]))
    else:
        say("every setting has its default; --all prints them")
    checks = []
    for check in check_all(settings):
        checks.append(check)
        mark = "[green]ready[/]" if check.ready else "[red]NOT READY[/]"
        say(f"{mark}  [bold]{check.part:<10}[/] {_escape(check.finding)} [dim]({check.seconds:.1f} s)[/]")
    if json_:
        say_json({check.part: {"ready": check.ready, "finding": check.finding} for check in checks})
    if not all(check.ready for check in checks):
        raise typer.Exit(1)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
