"""Commands for operating a validator: `doctor`, `status`, `cost`, `weights`, `judge`, `serve`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb.cli.arguments import Flow, Json, Store, StorePath, open_corpus
from perturb.cli.orchestration import check_prefect, runs_as_flow
from perturb.cli.output import facts, say, say_json, styled, table
from perturb.schemas.clean_text import clean

if TYPE_CHECKING:
    from perturb.schemas.settings import Settings
    from perturb.schemas.status import Status, TargetCounts
    from perturb.schemas.target_matrix import TargetMatrix
    from perturb.sinks.corpus.corpus import Corpus
    from perturb.tasks.monitor.doctor import Check

PANEL = "Operate"
NEEDS_ATTENTION = 10
_PAIRS = 6


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    for command in (doctor, status, cost, weights, judge, serve):
        app.command(rich_help_panel=PANEL)(command)


def doctor(
    all_: Annotated[
        bool, typer.Option("--all", help="Print all settings, not only those that differ from the defaults.")
    ] = False,
    json_: Json = False,
) -> None:
    """Print the settings that differ from the defaults, then check each part by using it once.

    For each part that is not ready it says what to do, and the command exits with 1. Secrets are masked.
    """
    from perturb.schemas.settings import all_settings, changed_settings, load_settings

    settings = load_settings()
    shown = all_settings(settings) if all_ else changed_settings(settings)
    if shown:
        title = "all settings" if all_ else "changed settings"
        say(table(title, ["name", "value"], [(name, str(value)) for name, value in shown.items()]))
    else:
        say("every setting has its default; --all prints them")
    checks = []
    for check in _checks(settings):
        checks.append(check)
        mark = ("ready", "green") if check.ready else ("NOT READY", "red")
        part, seconds = (f"{check.part:<10}", "bold"), (f"({check.seconds:.1f} s)", "dim")
        say(styled(mark, "  ", part, f" {check.finding} ", seconds))
    if json_:
        say_json({check.part: {"ready": check.ready, "finding": check.finding} for check in checks})
    if not all(check.ready for check in checks):
        raise typer.Exit(1)


def _checks(settings: "Settings") -> Iterator["Check"]:
    from perturb.tasks.monitor.doctor import check_all

    yield from check_all(settings)
    yield check_prefect()


def _target_matrix(corpus: "Corpus") -> "TargetMatrix | None":
    from perturb.schemas.errors import CorpusError
    from perturb.sinks.targets.registry import Registry
    from perturb.tasks.targets.matrix import read_matrix

    try:
        return read_matrix(Registry(corpus.store))
    except CorpusError as error:
        # The page is for a person who looks for what is wrong: one damaged report does not keep it back.
        say(styled(("WARNING", "yellow"), f" the page shows no targets: {error}"))
        return None


def status(
    path: StorePath = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write it, with pictures, as a self-contained HTML page.", show_default=False),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(help="Write gauges as text for a node exporter's textfile collector.", show_default=False),
    ] = None,
    json_: Json = False,
) -> None:
    """Report on production in ten lines: today's answers and refusals, last commit, unsealed days, export lag.

    Exits with 0 when all is well and with 10 when something needs attention; each finding says what to do. When a
    commit, a seal or an export is late is decided by the `status.*` settings.
    """
    from perturb.subnet.trust import load_trust
    from perturb.tasks.monitor.status import read_status

    settings, corpus = open_corpus(path, may_be_empty=True)
    trust = load_trust(settings.subnet)
    found = read_status(corpus, settings, trust=trust)
    typer.echo(clean("\n".join(status_lines(found))))
    if metrics is not None:
        from perturb.sinks.report.openmetrics import write_metrics

        write_metrics(metrics, found)
    if html is not None:
        from perturb.sinks.report.status_page import write_page
        from perturb.tasks.monitor.latest_pairs import latest_pairs

        write_page(html, found, latest_pairs(corpus, _PAIRS, trust=trust), _target_matrix(corpus))
    if json_:
        say_json(found.model_dump(mode="json") | {"well": found.well})
    if not found.well:
        raise typer.Exit(NEEDS_ATTENTION)


def status_lines(found: "Status") -> list[str]:
    """Return the ten lines, and one more for each finding."""
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
        *([("targets", "; ".join(map(_of_target, found.targets)))] if len(found.targets) > 1 else []),
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


def _of_target(one: "TargetCounts") -> str:
    share = "not in the line-up" if one.share is None else f"{one.share:.0%} of rounds"
    return f"{one.target} ({share}) {one.responses} answers, {one.accepted} accepted"


def cost(path: StorePath = None, json_: Json = False) -> None:
    """Estimate storage and requests per day from the sizes in the corpus. Prices are the `cost.*` settings."""
    from perturb.sinks.report.status_page import age, amount
    from perturb.tasks.monitor.cost import estimate_cost

    settings, corpus = open_corpus(path)
    found = estimate_cost(corpus, settings)
    rows = [
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
    say("prices are the `cost.*` settings, by default the list prices of AWS S3 in USD")
    if found.days_observed < 1:
        say("production covers less than a day: these figures are good for their order of magnitude only")
    if json_:
        say_json(found.model_dump(mode="json"))


def weights(
    policy: Annotated[
        str, typer.Option(help="Emission policy: proportional or winner_takes_most.")
    ] = "winner_takes_most",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the table; submit nothing.")] = False,
    store: Store = None,
    flow: Flow = None,
    json_: Json = False,
) -> None:
    """Compute weights from the miners' histories in the corpus and submit them to the chain.

    Only records that this validator or one of subnet.trusted_validators signed count; others pay nobody. On the local
    network, which has no chain, they are only printed. A miner needs more than 100 answered challenges to
    get a weight.
    """
    from perturb.schemas.settings import load_settings

    settings = load_settings(store=store)
    if runs_as_flow(flow):
        from perturb.flows.weights import weights as weights_flow

        weighed = weights_flow(store=store, policy=policy, dry_run=dry_run)
    else:
        from perturb.tasks.weights.weigh import weigh_miners

        weighed = weigh_miners(settings, emission_policy=policy, dry_run=dry_run)
    columns = ["uid", "miner", "processed", "accepted", "average", "weight", "why not"]
    say(table(f"weights under {weighed.policy}", columns, [tuple(row.values()) for row in weighed.rows]))
    for why, count in weighed.left.items():
        say(styled(("LEFT OUT", "yellow"), f" {count} × {why}"))
    if weighed.model_winner is not None:
        share = f"{settings.model_track.share:.0%} of all weights, and all of them while nobody earns by answering"
        say(f"{weighed.model_winner} won the model track: {share}")
    say(f"submitted as {weighed.extrinsic}" if weighed.extrinsic else f"not submitted: {weighed.reason}")
    if json_:
        say_json(weighed.model_dump(mode="json"))


def judge(
    pairs: Annotated[
        Path | None,
        typer.Option(help="CSV with the columns class_index, label, target, is_member.", show_default=False),
    ] = None,
    precompute: Annotated[
        bool, typer.Option("--precompute", help="Compute and keep what can be known before it is asked.")
    ] = False,
    json_: Json = False,
) -> None:
    """Measure the judge on labelled pairs: accuracy, AUC, pairs per second, and the worst cases.

    With --precompute it first judges every pair of labels that its tables do not decide, and every label's name as a
    subject. That takes minutes; the progress says how many. What was computed is kept when the command is interrupted.
    """
    from perturb.schemas.errors import SettingsError
    from perturb.schemas.settings import load_settings

    if pairs is None and not precompute:
        raise SettingsError("give --pairs FILE.csv to measure the judge, --precompute to prepare it, or both")
    settings = load_settings()
    if precompute:
        known = _precompute(settings)
        say(facts("known before it is asked", known))
        if json_ and pairs is None:
            say_json(known)
    if pairs is not None:
        _measure(settings, pairs, json_=json_)


def _precompute(settings: "Settings") -> dict[str, object]:
    from perturb.flows.engine.progress import loading_progress
    from perturb.models.judge.judge import LanguageJudge, load_judge
    from perturb.schemas.errors import ModelError

    with loading_progress() as loading, loading.part(f"judge {settings.judge.name}") as tell:
        judge = load_judge(settings.judge, cache=settings.cache, tell=tell)
        if not isinstance(judge, LanguageJudge):
            raise ModelError("judge 'none' has nothing to compute; set judge.name, for example to gemma-3-270m")
        judge.precompute(settings.cache, tell=tell)
    assert judge.tables is not None
    return {
        "judge": judge.name,
        "judge_sha256": judge.sha256,
        "template": judge.tables.template,
        "decided_by_limit": judge.tables.decided(judge.thresholds.same_kind),
        "scored_pairs": len(judge.tables.scored),
    }


def _measure(settings: "Settings", pairs: Path, *, json_: bool) -> None:
    from dataclasses import asdict

    from perturb.models.judge.judge import load_judge
    from perturb.models.judge.trial import read_pairs, try_judge

    trial = try_judge(read_pairs(pairs), load_judge(settings.judge, cache=settings.cache))
    measured = {name: value for name, value in asdict(trial).items() if name not in ("worst", "scores")}
    say(facts(f"{trial.judge} on {pairs}", measured))
    columns = ["label", "target", "is a member", "score", "beyond the threshold"]
    rows = [(p.label, p.target, p.is_member, p.score, p.distance) for p in trial.worst]
    say(table("worst cases", columns, rows))
    if json_:
        say_json(measured)


def serve(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Prefect's server and its web pages.")] = 4200,
    local_miners: Annotated[
        int, typer.Option(min=0, max=5, help="Reference miners to start where the local network has no roster.")
    ] = 3,
    home: Annotated[Path, typer.Option(help="Folder of Prefect's database and of the logs.")] = Path(".prefect"),
) -> None:
    """Development server: run Prefect's server, a worker, and every deployment of prefect.yaml on this machine.

    One Ctrl-C stops all of it; a round whose answers have arrived is still committed. In production, run the server and
    the worker under systemd or compose instead (docs/operations.md).
    """
    from perturb.flows.engine.supervisor import Serving
    from perturb.flows.engine.supervisor import serve as supervise
    from perturb.schemas.settings import load_settings

    def tell(serving: Serving) -> None:
        miners = f", {serving.miners} local miners" if serving.miners else ""
        say(f"{serving.url} shows the runs{miners}; logs are in {serving.home}; Ctrl-C stops everything")

    supervise(load_settings(), port=port, home=home, local_miners=local_miners, tell=tell)
