"""Commands of whoever keeps the line running: `serve`, `status`, `cost`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturb.cli.output import Json, say, say_json, table
from perturb.cli.root import Root, open_corpus

if TYPE_CHECKING:
    from perturb.schemas.status import Status

NEEDS_ATTENTION = 10
_PAIRS = 6


def register(app: typer.Typer) -> None:
    """Adds this module's commands to `app`."""
    app.command()(serve)
    app.command()(status)
    app.command()(cost)


def serve(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Prefect's server and its pages.")] = 4200,
    local_miners: Annotated[
        int, typer.Option(min=0, max=5, help="Reference miners to start, where the local network has no roster.")
    ] = 3,
    home: Annotated[Path, typer.Option(help="Folder of Prefect's database and of the logs.")] = Path(".prefect"),
) -> None:
    """Run the whole operation on this machine: Prefect server, worker, and every deployment of prefect.yaml.

    One Ctrl-C stops all of it; a round that was answered is still committed.
    """
    from perturb.flows.engine.supervisor import Serving
    from perturb.flows.engine.supervisor import serve as run
    from perturb.schemas.settings import load_settings

    def tell(serving: Serving) -> None:
        miners = f", {serving.miners} local miners" if serving.miners else ""
        say(f"{serving.url} shows the runs{miners}; logs are in {serving.home}; Ctrl-C stops everything")

    run(load_settings(), port=port, home=home, local_miners=local_miners, tell=tell)


def status(
    path: Root = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the same, with pictures, as one self-contained page.", show_default=False)
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(help="Write gauges as text for a node exporter's textfile collector.", show_default=False),
    ] = None,
    json_: Json = False,
) -> None:
    """Tell in ten lines how production goes: today's answers and refusals, last commit, unsealed days, export lag.

    Exits 0 when all is well, 10 when something needs attention; each such thing is named with what to do about it.
    """
    from perturb.tasks.monitor.status import read_status

    settings, corpus = open_corpus(path, may_be_empty=True)
    found = read_status(corpus, settings)
    typer.echo("\n".join(status_lines(found)))
    if metrics is not None:
        from perturb.sinks.report.openmetrics import write_metrics

        write_metrics(metrics, found)
    if html is not None:
        from perturb.sinks.report.status_page import write_page
        from perturb.tasks.monitor.latest_pairs import latest_pairs

        write_page(html, found, latest_pairs(corpus, _PAIRS))
    if json_:
        say_json(found.model_dump(mode="json") | {"well": found.well})
    if not found.well:
        raise typer.Exit(NEEDS_ATTENTION)


def status_lines(found: "Status") -> list[str]:
    """The ten lines, and one more for each finding."""
    from perturb.sinks.report.status_page import age, amount

    share = f" ({found.accepted / found.responses:.0%})" if found.responses else ""
    refused = ", ".join(f"{reason} {count}" for reason, count in list(found.refused.items())[:5])
    medians = ", ".join(f"{name} {value:.5g}" for name, value in found.medians if value is not None)
    known = "none asked" if found.judge_hit_rate is None else f"{found.judge_hit_rate:.0%} of {found.judged} known"
    lags = (
        f"{lag.tier} lacks {len(lag.behind)} since {lag.behind[0]}" if lag.behind else f"{lag.tier} up to date"
        for lag in found.exports
    )
    unsealed = ", ".join(map(str, found.unsealed_days)) or "none"
    rows = [
        ("perturb", f"{'well' if found.well else 'NEEDS ATTENTION'}: {found.store}, {found.at:%Y-%m-%d %H:%M} UTC"),
        ("today", f"{found.rounds} rounds, {found.responses} answers, {found.accepted} accepted{share}"),
        ("refused", refused or "none"),
        ("miners", f"{found.miners} asked today"),
        ("medians", medians or "nothing accepted today"),
        ("judgements", known),
        ("last commit", f"{age(found.last_commit_age_s)} ago, {found.last_round}" if found.last_round else "never"),
        ("unsealed", f"days over: {unsealed}; {found.live_rounds} rounds live"),
        ("sealed", f"{found.sealed_days} days, {found.sealed_records} records, {amount(found.sealed_bytes)}"),
        ("exports", ", ".join(lags) or "no tiers"),
        *((finding.part.upper(), f"{finding.what}: {finding.advice}") for finding in found.findings),
    ]
    return [f"{name:<12}{text}" for name, text in rows]


def cost(path: Root = None, json_: Json = False) -> None:
    """Estimate storage and requests per day from the corpus' own sizes; prices come from the settings (`cost.*`)."""
    from perturb.sinks.report.status_page import age, amount
    from perturb.tasks.monitor.cost import estimate_cost

    settings, corpus = open_corpus(path)
    found = estimate_cost(corpus, settings)
    rows: list[tuple[Any, ...]] = [
        ("rounds a day", f"{found.rounds_per_day:.4g}, of {found.records_per_round:.3g} records each"),
        ("one round", amount(found.round_bytes)),
        ("a sealed day", amount(found.sealed_bytes_per_day)),
        *((f"a day of tier {tier}", amount(size)) for tier, size in found.export_bytes_per_day.items()),
        ("stored now", amount(found.stored_bytes)),
        ("growth a day", amount(found.growth_bytes_per_day)),
        (f"rounds kept {found.keep_rounds_days} days", amount(found.superseded_bytes)),
        ("requests a day", f"{found.writes_per_day:.0f} writes, {found.reads_per_day:.0f} reads"),
        ("cost of a month's requests", f"{found.requests_cost_per_month:.2f}"),
        ("cost of a month's storage, now", f"{found.storage_cost_now_per_month:.2f}"),
        ("cost of a month's storage, in a year", f"{found.storage_cost_in_a_year_per_month:.2f}"),
    ]
    say(table(f"{found.store}, from {age(86_400 * found.days_observed)} of production", ["", ""], rows))
    say("prices are the settings' (`cost.*`), by default those of AWS in USD")
    if found.days_observed < 1:
        say("less than a day was seen: take these figures for their order of magnitude")
    if json_:
        say_json(found.model_dump(mode="json"))
