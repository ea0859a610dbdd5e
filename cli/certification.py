"""Commands that certify a network: `certify`, which plans and runs, `certify plan`, `certify run`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb.cli.arguments import Json, Store
from perturb.cli.output import say, say_json, styled, write_file

if TYPE_CHECKING:
    from perturb.certificates.run import RunSummary
    from perturb.certificates.steps import Planned, PlanRequest
    from perturb.schemas.settings import Settings

certify = typer.Typer(
    help="Certify how a network stands up to attack: plan, then run; without a command both in one.",
    invoke_without_command=True,
)

SubjectSpec = Annotated[
    str,
    typer.Option(
        help="target:NAME of the registry, timm name, timm name with weights (resnet18=FILE), module:function of a "
        "torch module, or FILE.onnx.",
    ),
]
PoolSpec = Annotated[str, typer.Option(help="Labelled photographs: folder:DIR, or sample[:COUNT].")]
Images = Annotated[int, typer.Option("--n", min=1, help="Images to draw from the pool.")]
Levels = Annotated[str, typer.Option(help="Largest changes of a value, in levels of 255, with commas.")]
Suite = Annotated[str, typer.Option(help="quick: AutoAttack's apgd-ce and apgd-t; standard: with fab-t and square.")]
Claims = Annotated[
    list[str] | None,
    typer.Option("--claim", help="Claim to decide, such as 'robust@1>=0.30' or 'clean>=0.7'; may be repeated."),
]
Beacon = Annotated[
    str,
    typer.Option(
        help="Public randomness for the sample: none, chain, a drand HTTP relay, or a JSON file of its round."
    ),
]
Folder = Annotated[Path, typer.Option("--folder", help="Folder of certificates; each gets a folder of its own in it.")]
Logged = Annotated[
    bool, typer.Option("--log/--no-log", help="Publish in the store and enter in its log, so that the order is proven.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that attack; the results do not depend on it.")]
Budget = Annotated[
    str | None, typer.Option(help="Stop after this time, such as 90s, 20m or 2h; `run` continues later.")
]
Classes = Annotated[
    Path | None, typer.Option(help="Names of the subject's classes, one a line, where they are not ImageNet-1k's.")
]
Crowd = Annotated[str | None, typer.Option(help="Store of a corpus whose records of the same photographs attack too.")]
HarmFile = Annotated[Path | None, typer.Option("--harm", help="TOML list of how bad which mistake is.")]
Valid = Annotated[int, typer.Option("--valid-days", min=1, help="Days for which the certificate is valid.")]
Provider = Annotated[str | None, typer.Option(help="Provider of the network, for the certificate.")]
Responsible = Annotated[str | None, typer.Option(help="Person responsible for the evaluation, for the certificate.")]
Purpose = Annotated[str | None, typer.Option(help="Intended purpose, as the provider states it, for the certificate.")]


@certify.callback()
def certify_both(
    context: typer.Context,
    subject: SubjectSpec = "tf_efficientnet_lite0",
    pool: PoolSpec = "sample",
    n: Images = 30,
    levels: Levels = "1,2,4,8",
    suite: Suite = "quick",
    claim: Claims = None,
    folder: Folder = Path("certificates"),
    log: Logged = True,
    workers: Workers = 2,
    budget: Budget = None,
    classes: Classes = None,
    crowd: Crowd = None,
    harm: HarmFile = None,
    valid_days: Valid = 365,
    provider: Provider = None,
    responsible: Responsible = None,
    purpose: Purpose = None,
    html: Annotated[Path | None, typer.Option(help="Copy the page to this file.", show_default=False)] = None,
    store: Store = None,
    json_: Json = False,
) -> None:
    """Plan and run in one, without a beacon: the certificate then says that the evaluator chose the sample.

    Use `certify plan` and `certify run` for a sample that public randomness chooses.
    """
    if context.invoked_subcommand is not None:
        return
    settings = settings_of(store)
    request = _request(
        subject, pool, n, levels, suite, claim, "none", classes, crowd, harm, valid_days, provider, responsible, purpose
    )
    planned = _planned(settings, request, folder, log=log)
    summary = _run(settings, planned.folder, workers, budget, log=log)
    if html is not None and summary.certificate is not None:
        write_file(html, summary.certificate.with_name("report.html").read_bytes(), "--html")
    _say_run(summary, json_=json_)


@certify.command("plan")
def certify_plan(
    subject: SubjectSpec = "tf_efficientnet_lite0",
    pool: PoolSpec = "sample",
    n: Images = 30,
    levels: Levels = "1,2,4,8",
    suite: Suite = "quick",
    claim: Claims = None,
    beacon: Beacon = "none",
    folder: Folder = Path("certificates"),
    log: Logged = True,
    classes: Classes = None,
    crowd: Crowd = None,
    harm: HarmFile = None,
    valid_days: Valid = 365,
    provider: Provider = None,
    responsible: Responsible = None,
    purpose: Purpose = None,
    store: Store = None,
    json_: Json = False,
) -> None:
    """Fix, sign and log what will be measured, before anything is."""
    settings = settings_of(store)
    request = _request(
        subject, pool, n, levels, suite, claim, beacon, classes, crowd, harm, valid_days, provider, responsible, purpose
    )
    planned = _planned(settings, request, folder, log=log)
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
    _say_run(summary, json_=json_)


def _request(
    subject: str,
    pool: str,
    n: int,
    levels: str,
    suite: str,
    claims: list[str] | None,
    beacon: str,
    classes: Path | None,
    crowd: str | None,
    harm: Path | None,
    valid_days: int,
    provider: str | None,
    responsible: str | None,
    purpose: str | None,
) -> "PlanRequest":
    from perturb.certificates.steps import PlanRequest
    from perturb.schemas.errors import SettingsError

    try:
        chosen = tuple(int(level) for level in levels.split(","))
    except ValueError as error:
        raise SettingsError(
            f"--levels {levels!r} is no list of levels; accepted: whole numbers, such as 1,2,4,8"
        ) from error
    return PlanRequest(
        subject=subject,
        pool=pool,
        n=n,
        levels=chosen,
        suite=suite,
        claims=tuple(claims or ()),
        beacon=beacon,
        classes=classes,
        crowd=crowd,
        harm=harm,
        valid_days=valid_days,
        provider=provider,
        responsible=responsible,
        purpose=purpose,
    )


def _planned(settings: "Settings", request: "PlanRequest", folder: Path, *, log: bool) -> "Planned":
    from perturb.certificates.beacon import time_of
    from perturb.certificates.steps import plan_certificate

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
    from perturb.certificates.steps import run_certificate

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


def _seconds(budget: str) -> float:
    from perturb.schemas.errors import SettingsError

    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = budget[:-1], budget[-1:]
    try:
        return float(number) * units[unit]
    except (ValueError, KeyError) as error:
        raise SettingsError(f"--budget {budget!r} is no time; accepted: 90s, 20m or 2h") from error


def _say_run(summary: "RunSummary", *, json_: bool) -> None:
    if summary.certificate is None:
        say(
            f"{summary.measured} of {summary.planned} images are measured; `perturb certify run {summary.folder}` "
            "continues, and with --accept-partial signs what there is"
        )
    else:
        say(styled("the certificate is ", (str(summary.certificate), "bold"), ", its page report.html beside it"))
    if json_:
        say_json({name: value if value is None else str(value) for name, value in vars(summary).items()})


def settings_of(store: str | None) -> "Settings":
    from perturb.schemas.settings import load_settings

    return load_settings(store=store)


def show_progress(text: str) -> None:
    """Tell on the terminal how far it is, on one line that is written over; nothing where it is not a terminal."""
    import sys

    from perturb.schemas.clean_text import in_line

    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{in_line(text)[:110]}")
        sys.stderr.flush()
