"""Commands that prove a record, and that clear away what nobody needs: `audit --proof`'s check, `prove`, `gc`."""

from pathlib import Path
from typing import Annotated

import typer

from perturb.cli.output import Json, say, say_json, table
from perturb.cli.root import Root, open_corpus


def register(app: typer.Typer) -> None:
    """Adds this module's commands to `app`."""
    app.command()(prove)
    app.command()(gc)


def prove(
    record_id: Annotated[str, typer.Argument(help="A sealed record's id.", show_default=False)],
    path: Root = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write \\[default: RECORD_ID.proof.json].", show_default=False),
    ] = None,
) -> None:
    """Write a proof that a sealed record belongs to its day; `perturb audit --proof FILE` checks it offline."""
    from perturb.tasks.corpus.prove import prove as make

    _, corpus = open_corpus(path)
    proof = make(corpus, record_id)
    written = output or Path(f"{record_id}.proof.json")
    written.write_bytes(proof.to_json())
    say(f"record {record_id} is number {proof.index + 1} of {proof.size} on {proof.day}; its proof is in {written}")


def check_proof_file(proof_file: Path, *, manifest: Path | None, on_chain: str | None, json_: bool) -> None:
    """Checks a proof against a manifest file, or against the root that validator `on_chain` committed.

    Raises AuditError where it doesn't hold, SettingsError for a file that can't be read.
    """
    from dataclasses import asdict

    from perturb.cli.output import read_file
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
    if json_:
        say_json(asdict(report))
    if report.holds:
        say(
            "the proof holds"
            if report.against
            else "the path leads to its own root; that root is trusted by nothing yet"
        )
    else:
        raise AuditError(f"the proof does not hold: {'; '.join(report.faults)}")


def _committed_root(hotkey: str) -> str:
    from perturb.schemas.errors import SubnetError
    from perturb.schemas.settings import load_settings
    from perturb.subnet.chain import open_chain

    root = open_chain(load_settings().subnet).read_commitment(hotkey)
    if root is None:
        raise SubnetError(f"hotkey {hotkey} has committed no root on chain; ask the validator for its manifest instead")
    return root


def gc(
    path: Root = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go, and remove nothing.")] = False,
    json_: Json = False,
) -> None:
    """Remove what no commit object claims, after a day's grace, and rounds that were sealed long enough ago.

    How long superseded rounds stay is `seal.keep_rounds_days`. Exports are left alone: what an interrupted one left is
    what its next run writes.
    """
    from datetime import timedelta

    from perturb.tasks.corpus.gc import collect_garbage

    settings, corpus = open_corpus(path)
    keep = timedelta(days=settings.seal.keep_rounds_days)
    report = collect_garbage(corpus, keep_superseded=keep, dry_run=dry_run)
    kinds = {"never committed": report.orphans, "superseded": report.superseded, "unfinished": report.unfinished}
    rows = [(kind, len(entries), sum(entry.size for entry in entries)) for kind, entries in kinds.items()]
    say(table(f"{'would remove' if dry_run else 'removed'} from {settings.store}", ["", "objects", "bytes"], rows))
    if json_:
        keys = {kind.replace(" ", "_"): [entry.key for entry in entries] for kind, entries in kinds.items()}
        say_json({"dry_run": dry_run, "bytes": report.size, **keys})
