"""Commands that certify a network: `certify`, which plans and runs, `certify plan`, `certify run`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturb.cli.arguments import Json, Store
from perturb.cli.certification_terms import with_terms
from perturb.cli.output import say, say_json, show_progress, styled, table, write_file

if TYPE_CHECKING:
    from perturb.certificates.planning import Planned, PlanRequest
    from perturb.certificates.run import RunSummary
    from perturb.schemas.settings import Settings

certify = typer.Typer(
    help="Certify how a network stands up to attack: plan, then run; without a command both in one.",
    invoke_without_command=True,
)

Folder = Annotated[Path, typer.Option("--folder", help="Folder of certificates; each gets a folder of its own in it.")]
Logged = Annotated[
    bool, typer.Option("--log/--no-log", help="Publish in the store and enter in its log, so that the order is proven.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that attack; the results do not depend on it.")]
Budget = Annotated[
    str | None,
    typer.Option(help="Stop after this time, such as 90s, 20m or 2h; `run` continues later.", show_default=False),
]
Terms = Callable[[], "PlanRequest"]


@certify.callback()
@with_terms
def certify_both(
    context: typer.Context,
    terms: Terms,
    folder: Folder = Path("certificates"),
    log: Logged = True,
    workers: Workers = 2,
    budget: Budget = None,
    hardened: Annotated[
        bool,
        typer.Option(
            "--hardened", help="Certify the network that was hardened last, too, on the same images, and compare."
        ),
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write the page to this file, too.", show_default=False)] = None,
    store: Store = None,
    json_: Json = False,
) -> None:
    """Plan and run in one, without a beacon: the certificate then says that the evaluator chose the sample.

    Use `certify plan` and `certify run` for a sample that public randomness chooses.
    """
    if context.invoked_subcommand is not None:
        return
    settings = settings_of(store)
    request = terms()
    planned = _planned(settings, request, folder, log=log)
    summary = _run(settings, planned.folder, workers, budget, log=log)
    _say_run(summary)
    found = None
    if hardened and summary.certificate is not None:
        found = _beside(settings, request, summary.certificate, folder, workers, log=log)
    if html is not None and summary.certificate is not None:
        from perturb.certificates.compare import page_beside

        write_file(html, page_beside(summary.certificate, found), "--html")
        say(styled("the page is ", (str(html), "bold")))
    if json_:
        say_json({**_as_json(summary), "comparison": found})


@certify.command("plan")
@with_terms
def certify_plan(
    terms: Terms,
    beacon: Annotated[
        str,
        typer.Option(
            help="Public randomness for the sample: none, chain, a drand HTTP relay, or a JSON file of its round."
        ),
    ] = "none",
    folder: Folder = Path("certificates"),
    log: Logged = True,
    store: Store = None,
    json_: Json = False,
) -> None:
    """Fix, sign and log what will be measured, before anything is."""
    planned = _planned(settings_of(store), replace(terms(), beacon=beacon), folder, log=log)
    if json_:
        say_json({"id": planned.plan.id, "folder": str(planned.folder), "entry": planned.entry})


@certify.command("run")
def certify_run(
    plan: Annotated[Path, typer.Argument(help="Folder of the plan, or its plan.json.", show_default=False)],
    workers: Workers = 2,
    budget: Budget = None,
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="Keep the images that were measured already, or begin anew.")
    ] = True,
    accept_partial: Annotated[
        bool,
        typer.Option(
            "--accept-partial", help="Sign what was measured so far; the certificate says how many of how many."
        ),
    ] = False,
    beacon: Annotated[
        str | None, typer.Option(help="Where to get the beacon's round \\[default: as planned].", show_default=False)
    ] = None,
    log: Logged = True,
    store: Store = None,
    json_: Json = False,
) -> None:
    """Measure what a plan says, and sign the certificate. It may be stopped at any moment and run again."""
    folder = plan if plan.is_dir() else plan.parent
    if not resume:
        import shutil

        shutil.rmtree(folder / "work", ignore_errors=True)
    summary = _run(settings_of(store), folder, workers, budget, log=log, accept_partial=accept_partial, beacon=beacon)
    _say_run(summary)
    if json_:
        say_json(_as_json(summary))


def _planned(settings: "Settings", request: "PlanRequest", folder: Path, *, log: bool) -> "Planned":
    from perturb.certificates.beacon import time_of
    from perturb.certificates.planning import plan_certificate

    planned = plan_certificate(settings, request, folder=folder, log=log, tell=show_progress)
    plan = planned.plan
    if plan.n < request.n:
        say(styled(("note", "yellow"), f" the pool has {plan.n} images; all of them are measured"))
    say(styled("the plan is in ", (str(planned.folder), "bold"), f": {plan.n} of {plan.pool.images} images"))
    for reason, count in plan.pool.left_out.items():
        say(f"  left out: {count} {reason}")
    for name, reason in plan.suite.skipped.items():
        say(f"  {name} is not run: it {reason}")
    if plan.beacon.round is not None:
        say(f"  round {plan.beacon.round} of the beacon chooses the sample, at {time_of(plan.beacon.round):%X} UTC")
    if planned.entry is not None:
        say(f"  log entry {planned.entry}")
    return planned


def _run(
    settings: "Settings",
    folder: Path,
    workers: int,
    budget: str | None,
    *,
    log: bool,
    accept_partial: bool = False,
    beacon: str | None = None,
) -> "RunSummary":
    from perturb.certificates.run import run_certificate

    return run_certificate(
        settings,
        folder,
        workers=workers,
        log=log,
        budget_seconds=None if budget is None else _seconds(budget),
        accept_partial=accept_partial,
        beacon=beacon,
        tell=show_progress,
    )


def _beside(
    settings: "Settings", request: "PlanRequest", first: Path, folder: Path, workers: int, *, log: bool
) -> "dict[str, Any] | None":
    """Certify the newest hardened network on the images of a certificate, and return the comparison."""
    from perturb.certificates.compare import compare, read_side
    from perturb.certificates.places import TARGET, newest_hardened

    name = newest_hardened(settings)
    if name is None:
        say(f"{settings.store} has no hardened network, so there is nothing to compare with; `perturb demo` makes one")
        return None
    request = replace(request, subject=f"{TARGET}{name}", like=first.parent)
    summary = _run(settings, _planned(settings, request, folder, log=log).folder, workers, None, log=log)
    _say_run(summary)
    assert summary.certificate is not None
    found = compare(read_side(first), read_side(summary.certificate))
    say(comparison_table(found))
    return found


def comparison_table(found: dict[str, Any]) -> Any:
    """Return a comparison of two certificates as a table."""
    rows = [
        (
            row["what"],
            row["first"],
            row["second"],
            row["difference"],
            f"{row['limits']['lower']} to {row['limits']['upper']}" if row["limits"] else None,
            row["onlyFirst"],
            row["onlySecond"],
            row["p"],
        )
        for row in found["rows"]
    ]
    names = ["", "first", "second", "difference", "limits", "only first", "only second", "p"]
    few = f", of {found['clusters']} photographs: too few for limits" if found["rows"][0]["limits"] is None else ""
    return table(f"{found['first']} and {found['second']} on {found['images']} common images{few}", names, rows)


def _seconds(budget: str) -> float:
    from perturb.schemas.errors import SettingsError

    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = budget[:-1], budget[-1:]
    try:
        return float(number) * units[unit]
    except (ValueError, KeyError) as error:
        raise SettingsError(f"--budget {budget!r} is no time; accepted: 90s, 20m or 2h") from error


def _say_run(summary: "RunSummary") -> None:
    if summary.certificate is None:
        say(
            f"{summary.measured} of {summary.planned} images are measured; `perturb certify run {summary.folder}` "
            "continues, and with --accept-partial signs what there is"
        )
    else:
        say(styled("the certificate is ", (str(summary.certificate), "bold"), ", its page report.html beside it"))


def _as_json(summary: "RunSummary") -> dict[str, Any]:
    return {name: value if value is None else str(value) for name, value in vars(summary).items()}


def settings_of(store: str | None) -> "Settings":
    from perturb.schemas.settings import load_settings

    return load_settings(store=store)
