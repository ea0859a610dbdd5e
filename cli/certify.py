"""Commands that show a corpus to be what was committed: `audit`, `prove`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb.cli.arguments import Day, Flow, Json, StorePath, open_corpus
from perturb.cli.orchestration import runs_as_flow
from perturb.cli.output import facts, read_file, say, say_json, styled, write_file

if TYPE_CHECKING:
    from perturb.tasks.corpus.audit import AuditReport

PANEL = "Certify"


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    for command in (audit, prove):
        app.command(rich_help_panel=PANEL)(command)


def audit(
    path: StorePath = None,
    day: Day = None,
    sample: Annotated[float, typer.Option(min=0, max=1, help="Share of the images whose bytes are read.")] = 1.0,
    deep: Annotated[
        bool, typer.Option("--deep/--no-deep", help="Compute metrics, flip and score again from the bytes.")
    ] = True,
    hotkey: Annotated[
        str | None, typer.Option(help="Require that this validator signed everything.", show_default=False)
    ] = None,
    proof: Annotated[
        Path | None, typer.Option(help="Check this inclusion proof instead of a corpus.", show_default=False)
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="With --proof: the sealed day's manifest.json.", show_default=False)
    ] = None,
    on_chain: Annotated[
        str | None, typer.Option(help="With --proof: the root that this hotkey committed.", show_default=False)
    ] = None,
    flow: Flow = None,
    json_: Json = False,
) -> None:
    """Check that a corpus is what was committed, from its bytes alone: digests, counts, pointers, signatures, verdicts.

    Exits with 8 and names each fault where something does not hold.
    """
    if proof is not None:
        check_proof_file(proof, manifest=manifest, on_chain=on_chain, json_=json_)
        return
    from perturb.schemas.errors import AuditError
    from perturb.sinks.corpus.keys import parse_day
    from perturb.tasks.corpus.audit import AuditFailed, audit_store

    settings, _ = open_corpus(path)
    chosen = parse_day(day) if day else None
    if runs_as_flow(flow):
        from perturb.flows.audit import audit as audit_flow

        try:
            report = audit_flow(store=path, sample=sample, deep=deep, day=chosen, hotkey=hotkey)
        except AuditFailed as failed:
            report = failed.report
    else:
        report = audit_store(settings, day=chosen, sample=sample, deep=deep, hotkey=hotkey)
    _say_audit(report, settings.store, json_=json_)
    if not report.holds:
        raise AuditError(f"{settings.store} does not hold (faults: {len(report.faults)}); each is named above")


def _say_audit(report: "AuditReport", store: str, *, json_: bool) -> None:
    counts = asdict(report) | {"faults": [asdict(fault) for fault in report.faults]}
    say(facts(f"audit of {store}", {name: value for name, value in counts.items() if name != "faults"}))
    if not report.faults:
        say("everything holds")
    for fault in report.faults:
        say(styled(("FAULT", "red"), f" {fault.where}: {fault.what}"))
    if json_:
        say_json(counts)


def prove(
    record_id: Annotated[str, typer.Argument(help="ID of a sealed record.", show_default=False)],
    path: StorePath = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write \\[default: RECORD_ID.proof.json].", show_default=False),
    ] = None,
) -> None:
    """Write a proof that a sealed record belongs to its day; `perturb audit --proof FILE` checks it offline."""
    from perturb.tasks.corpus.prove import prove as make_proof

    _, corpus = open_corpus(path)
    proof = make_proof(corpus, record_id)
    written = output or Path(f"{record_id}.proof.json")
    write_file(written, proof.to_json(), "--output")
    say(f"record {record_id} is number {proof.index + 1} of {proof.size} on {proof.day}; its proof is in {written}")


def check_proof_file(proof_file: Path, *, manifest: Path | None, on_chain: str | None, json_: bool) -> None:
    """Check a proof against a manifest file, against the root that validator `on_chain` committed, or both.

    Raises AuditError where it does not hold, SettingsError for a file that cannot be read, SubnetError where the chain
    has no root of that validator.
    """
    from perturb.schemas.errors import AuditError
    from perturb.sinks.corpus.manifest import parse_manifest
    from perturb.tasks.corpus.prove import check_proof, parse_proof

    proof = parse_proof(read_file(proof_file, "--proof"), str(proof_file))
    report = check_proof(
        proof,
        manifest=parse_manifest(read_file(manifest, "--manifest"), str(manifest)) if manifest else None,
        root=_committed_root(on_chain) if on_chain else None,
        hotkey=on_chain,
    )
    compared = " and ".join(report.against) or "nothing but itself: name a --manifest or --on-chain HOTKEY to trust"
    say(f"record {report.record_id} of {report.day}, root {report.merkle_root}, compared with {compared}")
    if report.holds:
        say(
            "the proof holds"
            if report.against
            else "the path leads to the proof's own root, which has not been compared with a manifest or the chain"
        )
    if json_:
        say_json(asdict(report))
    if not report.holds:
        raise AuditError(f"the proof does not hold: {'; '.join(report.faults)}")


def _committed_root(hotkey: str) -> str:
    from perturb.schemas.errors import SubnetError
    from perturb.schemas.settings import load_settings
    from perturb.subnet.chain import open_chain

    root = open_chain(load_settings().subnet).read_commitment(hotkey)
    if root is None:
        raise SubnetError(f"hotkey {hotkey} has committed no root on chain; ask the validator for its manifest instead")
    return root
