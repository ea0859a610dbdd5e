"""Commands of a miner: `miner`, `score`."""

from pathlib import Path
from typing import Annotated

import typer

from perturb.cli.arguments import Json
from perturb.cli.output import facts, read_file, say, say_json, styled

PANEL = "Mine"


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    for command in (miner, score):
        app.command(rich_help_panel=PANEL)(command)


def miner(
    attack: Annotated[
        str,
        typer.Option(
            help="pgd, fgsm, mi-fgsm, grid, or your own as module:function; 'bad' answers wrongly on purpose."
        ),
    ] = "grid",
    budget_seconds: Annotated[float, typer.Option(help="Seconds that an attack may take for one challenge.")] = 3.0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 lets the system choose.")] = 8091,
    targets: Annotated[
        str | None,
        typer.Option(
            help="Registry of further targets: a folder, s3://BUCKET/PREFIX or https://… of a validator's store. A "
            "network that a challenge names is loaded from there.",
            show_default=False,
        ),
    ] = None,
    max_concurrent: Annotated[
        int, typer.Option(help="Challenges answered at once; further ones are refused with HTTP 503.")
    ] = 2,
    external_ip: Annotated[
        str | None, typer.Option(help="Address to publish on the chain \\[default: --host].", show_default=False)
    ] = None,
) -> None:
    """Answer challenges until interrupted.

    The hotkey, and on a chain the validators that may ask, come from the `subnet.*` settings.
    """
    from perturb.miner.run import MinerStarted, run_miner
    from perturb.schemas.settings import load_settings

    def tell(started: MinerStarted) -> None:
        where = f"published as {started.published}" if started.published else "on the local network"
        say(f"{started.attack} miner {started.hotkey} listens on {started.host}:{started.port}, {where}")

    run_miner(
        attack,
        settings=load_settings(),
        host=host,
        port=port,
        budget_seconds=budget_seconds,
        max_concurrent=max_concurrent,
        external_ip=external_ip,
        targets=targets,
        tell=tell,
    )


def score(
    clean: Annotated[Path, typer.Argument(help="The challenge's clean image, PNG.", show_default=False)],
    perturbed: Annotated[Path, typer.Argument(help="Your answer, PNG.", show_default=False)],
    label: Annotated[
        int | None,
        typer.Option(
            help="The true label, a class index \\[default: the classifier's prediction for CLEAN].", show_default=False
        ),
    ] = None,
    response_ms: Annotated[
        float, typer.Option(min=0, help="How long your answer took, for the speed part of the score.")
    ] = 0.0,
    json_: Json = False,
) -> None:
    """Give a pair of images the verdict and score that a validator would, and say what to change if it is refused."""
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
    say(facts(f"{perturbed} against {clean} ({pair.task.true_label_name})", found))
    for note in pair.notes:
        say(styled(("note", "yellow"), f" {note}"))
    if not pair.verdict.accepted:
        say(styled((f"refused: {pair.verdict.outcome}", "red"), f" {pair.verdict.detail or ''}"))
    if json_:
        dumped = {"verdict": pair.verdict.model_dump(mode="json"), "score": pair.score.model_dump(mode="json")}
        plain = {name: value for name, value in asdict(pair).items() if name not in ("task", "verdict", "score")}
        say_json({**dumped, "task": pair.task.model_dump(mode="json"), **plain})
