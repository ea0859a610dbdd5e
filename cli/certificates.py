"""Commands on robustness certificates: `certificate verify`, `show`, `compare`, `challenge`, `revoke`, …"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturb.cli.arguments import Json, Store
from perturb.cli.certification import certify, comparison_table, settings_of
from perturb.cli.certification_terms import Classes
from perturb.cli.certify import PANEL
from perturb.cli.output import facts, say, say_json, show_progress, styled, write_file

if TYPE_CHECKING:
    from perturb.certificates.plan import Plan
    from perturb.certificates.subject import Subject
    from perturb.certificates.verify import Verification
    from perturb.schemas.settings import Settings

certificate = typer.Typer(help="Verify, show, compare and revoke robustness certificates.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the groups `certify` and `certificate` to `app`."""
    app.add_typer(certify, name="certify", rich_help_panel=PANEL)
    app.add_typer(certificate, name="certificate", rich_help_panel=PANEL)


def _in_folder(path: Path) -> Path:
    """Return the certificate in a folder, such as `certify plan` names; any other path as it is."""
    return path / "certificate.dsse.json" if path.is_dir() else path


CertificateFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="certificate.dsse.json, or the folder with it.", show_default=False, callback=_in_folder
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="The certified network: a file of weights, or a subject as `certify` takes it.", show_default=False
    ),
]


@certificate.command()
def verify(
    file: CertificateFile,
    weights: Weights = None,
    classes: Classes = None,
    evidence: Annotated[
        Path | None, typer.Option(help="Folder of the evidence \\[default: that of FILE].", show_default=False)
    ] = None,
    hotkey: Annotated[
        list[str] | None, typer.Option(help="Require that this hotkey signed it; may be repeated.", show_default=False)
    ] = None,
    replay: Annotated[int, typer.Option(min=0, help="Attack this many surviving images again.")] = 0,
    log: Annotated[str | None, typer.Option(help="Store whose log is read.", show_default=False)] = None,
    on_chain: Annotated[
        str | None, typer.Option(help="With --log: the head that this hotkey committed.", show_default=False)
    ] = None,
    json_: Json = False,
) -> None:
    """Verify a certificate from its files alone, without trusting its signer. Exits with 8 and names each fault."""
    from dataclasses import asdict
    from datetime import UTC, datetime

    from perturb.certificates.verify import Request, trusts
    from perturb.certificates.verify import verify as run_verification
    from perturb.schemas.errors import AuditError

    settings = settings_of(log)
    found = run_verification(
        Request(
            file,
            evidence,
            trusts(hotkey or []),
            datetime.now(UTC),
            lambda plan: _subject(plan, settings, weights, classes),
            replay=replay,
            log=_log(settings, [*(hotkey or []), *([on_chain] if on_chain else [])]) if log else None,
            on_chain=(lambda: _root(settings, on_chain)) if on_chain else None,
        ),
        tell=show_progress,
    )
    _say_verification(found)
    if json_:
        say_json({"holds": found.holds, "status": found.status, "levels": [asdict(level) for level in found.levels]})
    if not found.holds:
        raise AuditError(f"{file} does not hold; each fault is named above")


@certificate.command()
def show(
    file: CertificateFile,
    html: Annotated[Path | None, typer.Option(help="Write the page.", show_default=False)] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Sentences only.")] = False,
    cyclonedx: Annotated[Path | None, typer.Option(help="Write a CycloneDX 1.6 BOM.", show_default=False)] = None,
    eval_result: Annotated[
        Path | None, typer.Option(help="Write an eval-result attestation, signed anew.", show_default=False)
    ] = None,
    json_: Json = False,
) -> None:
    """Say what a certificate says, or write it in other forms. The signatures are checked, the rest is not."""
    from perturb.certificates.aging import open_certificate
    from perturb.certificates.compare import page_beside
    from perturb.certificates.narrative import narrative

    statement, plan, _ = open_certificate(file)
    if not summary:
        say(_figures(statement))
    for sentence in narrative(statement):
        say(sentence)
    if html:
        write_file(html, page_beside(file, None), "--html")
        say(styled("the page is in ", (str(html), "bold")))
    if cyclonedx:
        import json

        from perturb.certificates.exports import cyclonedx as to_cyclonedx

        write_file(cyclonedx, json.dumps(to_cyclonedx(statement), indent=1).encode(), "--cyclonedx")
    if eval_result:
        from perturb.certificates.exports import eval_result as to_eval_result
        from perturb.subnet.keys import companion_keypair

        companion = companion_keypair(settings_of(None).subnet, plan.signer)
        write_file(eval_result, to_eval_result(statement, companion), "--eval-result")
    if json_:
        say_json(statement)


@certificate.command()
def compare(
    first: Annotated[
        Path,
        typer.Argument(
            help="certificate.dsse.json of one network, or its folder.", show_default=False, callback=_in_folder
        ),
    ],
    second: Annotated[
        Path, typer.Argument(help="That of another, on the same pool.", show_default=False, callback=_in_folder)
    ],
    html: Annotated[
        Path | None, typer.Option(help="Write the first one's page with the comparison in it.", show_default=False)
    ] = None,
    json_: Json = False,
) -> None:
    """Compare two networks on the images that both certificates measured: paired, with exact tests."""
    from perturb.certificates.compare import compare as compared
    from perturb.certificates.compare import page_beside, read_side

    for file in (first, second):
        _checked(file)
    found = compared(read_side(first), read_side(second))
    say(comparison_table(found))
    if html:
        write_file(html, page_beside(first, found), "--html")
    if json_:
        say_json(found)


@certificate.command()
def challenge(
    file: CertificateFile,
    record_id: Annotated[str, typer.Argument(help="A sealed record of the corpus.", show_default=False)],
    weights: Weights = None,
    classes: Classes = None,
    store: Store = None,
) -> None:
    """Refute a certificate: a sealed record breaks an image that survived. The refutation is entered in the log."""
    from perturb.certificates.aging import challenge as refute
    from perturb.certificates.aging import open_certificate
    from perturb.certificates.verify import Skipped
    from perturb.schemas.errors import ModelError

    settings = settings_of(store)
    _, plan, _ = open_certificate(file)
    try:
        subject = _subject(plan, settings, weights, classes)
    except Skipped as missing:
        raise ModelError(str(missing)) from None
    record = refute(settings, file, record_id, subject)
    say(f"refuted at level {record.entry.detail['level']} by {record_id}; log entry {record.entry.sequence}")


@certificate.command()
def countersign(file: CertificateFile) -> None:
    """Add the own hotkey's signature to a certificate, after verifying it: an auditor's, or a second evaluator's."""
    from perturb.certificates.aging import countersign as add_signature
    from perturb.subnet.keys import load_keypair

    hotkey = load_keypair(settings_of(None).subnet)
    _checked(file)
    write_file(file, add_signature(file, hotkey), "FILE")
    say(f"{file} is countersigned by {hotkey.ss58_address}")


@certificate.command()
def revoke(
    file: CertificateFile,
    reason: Annotated[str, typer.Option(help="Why it no longer counts; it is published.")],
    store: Store = None,
) -> None:
    """Enter in the log that a certificate no longer counts. Only its signer can."""
    from perturb.certificates.aging import revoke as enter_revocation

    record = enter_revocation(settings_of(store), file, reason)
    say(f"revoked; log entry {record.entry.sequence}")


def _subject(plan: "Plan", settings: "Settings", weights: str | None, classes: Path | None) -> "Subject":
    from perturb.certificates.places import TARGET, open_subject
    from perturb.certificates.verify import Skipped
    from perturb.schemas.errors import ModelError, SettingsError

    named = plan.subject
    is_target = named.architecture not in (None, named.name)
    spec = weights or (f"{TARGET}{named.name}" if is_target else named.name)
    if weights and named.architecture and Path(weights).is_file() and not weights.endswith(".onnx"):
        spec = f"{named.architecture}={weights}"
    try:
        return open_subject(spec, settings, classes=classes)
    except (ModelError, SettingsError) as error:
        if weights:
            raise
        raise Skipped(f"the subject's weights are not here ({error}); name them with --weights") from error


def _log(settings: "Settings", hotkeys: list[str]) -> Any:
    from perturb.certificates.entries import open_log

    return open_log(settings, hotkeys=hotkeys)


def _root(settings: "Settings", hotkey: str) -> str | None:
    from perturb.subnet.chain import open_chain

    return open_chain(settings.subnet).read_commitment(hotkey)


def _checked(file: Path) -> tuple[dict[str, Any], "Plan"]:
    """Return statement and plan of a certificate that holds from L1 to L4. Raises AuditError for another."""
    from datetime import UTC, datetime

    from perturb.certificates.aging import open_certificate
    from perturb.certificates.verify import Request, Skipped, trusts
    from perturb.certificates.verify import verify as run_verification
    from perturb.schemas.errors import AuditError

    def no_subject(plan: "Plan") -> "Subject":
        raise Skipped("the subject is not needed here")

    found = run_verification(Request(file, None, trusts([]), datetime.now(UTC), no_subject), tell=show_progress)
    if not found.holds:
        _say_verification(found)
        raise AuditError(f"{file} does not hold; each fault is named above")
    statement, plan, _ = open_certificate(file)
    return statement, plan


def _figures(statement: dict[str, Any]) -> Any:
    block = statement["predicate"]["robustness"]
    rows: dict[str, object] = {"correct without change": block["cleanAccuracy"]["share"]}
    rows |= {f"left at {level['epsilon']}": level["robust"]["share"] for level in block["levels"]}
    rows |= {
        f"claim {claim['metric']}{claim['comparator']}{claim['threshold']}": claim["verdict"].replace("_", " ")
        for claim in statement["predicate"]["claims"]
    }
    rows["flags"] = ", ".join(flag["name"] for flag in block["flags"]) or "none"
    rows["valid until"] = statement["predicate"]["validity"]["until"]
    return facts(statement["predicate"]["model"]["name"], rows)


def _say_verification(found: "Verification") -> None:
    colours = {"holds": "green", "fault": "red", "skipped": "yellow"}
    for level in found.levels:
        seconds = f" ({level.seconds:.2f} s)" if level.outcome != "skipped" else f": {level.note}"
        say(styled((level.outcome.upper(), colours[level.outcome]), f" {level.name} {level.what}{seconds}"))
        for fault in level.faults:
            say(f"  {fault}")
    say(styled("status: ", (found.status if found.holds else "does not hold", "bold")))
