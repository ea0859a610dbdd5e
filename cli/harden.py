"""Commands that make and measure challengers: `harden`, `targets measure`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb.cli.arguments import Flow, Json, Store
from perturb.cli.orchestration import runs_as_flow
from perturb.cli.output import say, say_json, styled, table, write_file
from perturb.cli.targets import PANEL, targets

if TYPE_CHECKING:
    from datetime import date

    from perturb.models.classifier import Classifier
    from perturb.schemas.image import Pixels
    from perturb.schemas.report_card import TargetReport
    from perturb.tasks.targets.measure import Breaks

REFUSED = 11
Days = Annotated[
    str | None,
    typer.Option(metavar="YYYY-MM-DD[,…]", help="Sealed days \\[default: the newest 28].", show_default=False),
]
Page = Annotated[Path | None, typer.Option(help="Write the report as a page to this file, too.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command(rich_help_panel=PANEL)(harden)
    targets.command()(measure)


def harden(
    days: Days = None,
    parent: Annotated[
        str | None,
        typer.Option(help="Target to train further \\[default: the newest that was attacked].", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the challenger \\[default: such as lite0-g1].", show_default=False)
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="How long to train: a number of epochs, as two cores would need them.")
    ] = 6.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Also train on perturbations made while training.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the order of training.")] = 0,
    page: Page = None,
    store: Store = None,
    flow: Flow = None,
    json_: Json = False,
) -> None:
    """Train a network on the corpus, beside a control arm, and measure it on photographs that it has not seen.

    The challenger is entered as a target with its report; `perturb targets promote` puts it under attack. The same
    days, seed and number of threads give the same weights. A run that was stopped goes on after its last epoch.
    """
    from perturb.schemas.settings import load_settings

    settings = load_settings(store=store)
    chosen = _days(days)
    if runs_as_flow(flow):
        from perturb.flows.harden import harden as harden_flow

        made = harden_flow(
            store=store, days=[str(day) for day in chosen or ()], parent=parent, minutes=minutes, fresh=fresh, seed=seed
        )
    else:
        from perturb.tasks.harden.harden import harden as harden_step

        made = harden_step(
            settings, days=chosen, parent=parent, name=name, minutes=minutes, fresh=fresh, seed=seed, tell=say
        )
    for warning in made.warnings:
        say(styled(("WARNING", "yellow"), f" {warning}"))
    say(
        f"target {made.target} is in {settings.store}, hardened from {made.parent} on {made.trained_photographs} "
        f"photographs with {made.trained_pairs} pairs; its weights have sha256 {made.sha256}"
    )
    show_report(made.report, page)
    if json_:
        say_json(made.model_dump(mode="json"))


def measure(
    name: Annotated[str, typer.Argument(help="Name of a target.", show_default=False)],
    days: Days = None,
    standard: Annotated[bool, typer.Option("--standard", help="Also attack with AutoAttack's apgd-ce.")] = False,
    page: Page = None,
    store: Store = None,
    json_: Json = False,
) -> None:
    """Measure a target on photographs that neither it nor an ancestor was trained on, and let the gates judge it.

    The report is kept in the registry. Exit code 11 tells that a gate does not pass.
    """
    from perturb.schemas.settings import load_settings
    from perturb.sinks.targets.registry import Registry
    from perturb.tasks.harden.measured import measure_on_corpus
    from perturb.tasks.lineup.add import add_first_generation

    settings = load_settings(store=store)
    add_first_generation(Registry.open(settings), settings)
    report = measure_on_corpus(settings, name, days=_days(days), standard=_autoattack() if standard else None, tell=say)
    show_report(report, page)
    if json_:
        say_json(report.model_dump(mode="json"))
    if not report.verdict.passed:
        raise typer.Exit(REFUSED)


def show_report(report: "TargetReport", page: Path | None = None) -> None:
    """Print a report's figures and verdict, and write its page."""
    from perturb.sinks.report.target_report import COLUMNS, figures, render_report

    title = f"{report.target} on {report.photographs} photographs with {report.pairs} perturbed versions"
    say(table(title, COLUMNS, [list(row) for row in figures(report.card)]))
    say(styled((str(report.verdict), "green" if report.verdict.passed else "yellow")))
    if page is not None:
        write_file(page, render_report(report).encode(), "--page")


def _days(text: str | None) -> "list[date] | None":
    from datetime import date

    from perturb.schemas.errors import SettingsError

    if text is None:
        return None
    try:
        return sorted({date.fromisoformat(part.strip()) for part in text.split(",")})
    except ValueError:
        raise SettingsError(f"--days {text!r}: accepted are dates with commas, such as 2026-01-31,2026-02-01") from None


def _autoattack() -> "Breaks":
    from perturb.certificates.autoattack import run_autoattack

    def breaks(network: "Classifier", pixels: "Pixels", label: int) -> bool:
        return run_autoattack(network, pixels, label, level=1, seed=0, attacks=("apgd-ce",)).found is not None

    return breaks
