"""Commands that show a corpus to be what was committed: `audit`, `prove`, `log`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturb.cli.arguments import Day, Flow, Json, StorePath, open_corpus
from perturb.cli.orchestration import runs_as_flow
from perturb.cli.output import facts, say, say_json, show_progress, styled, write_file

if TYPE_CHECKING:
    from datetime import date

    from perturb.cli.proof_files import Against
    from perturb.tasks.corpus.audit_report import AuditReport

PANEL = "Certify"


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    for command in (audit, prove, log):
        app.command(rich_help_panel=PANEL)(command)


Since = Annotated[
    str | None,
    typer.Option(
        metavar="DAY",
        help="Audit the days from this one on, and the log from their first entry on.",
        show_default=False,
    ),
]
SinceEntry = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Audit the log from this entry on, and the days that it seals: `reached` of an earlier audit.",
        show_default=False,
    ),
]
Hotkeys = Annotated[
    list[str] | None,
    typer.Option(
        help="Require that this validator signed everything; may be given several times \\[default: the own hotkey and "
        "the subnet.trusted_validators setting].",
        show_default=False,
    ),
]
ProofFile = Annotated[
    Path | None,
    typer.Option(help="Check this file of `perturb prove` instead of a corpus, offline.", show_default=False),
]
ConsistencyFile = Annotated[
    Path | None,
    typer.Option(
        help="Check this file of `perturb log --consistency` offline; with --proof, the proof may lead to its newer "
        "head.",
        show_default=False,
    ),
]


def audit(
    path: StorePath = None,
    day: Day = None,
    since: Since = None,
    since_entry: SinceEntry = None,
    sample: Annotated[float, typer.Option(min=0, max=1, help="Share of the images whose bytes are read.")] = 1.0,
    deep: Annotated[
        bool, typer.Option("--deep/--no-deep", help="Compute metrics, flip and score again from the bytes.")
    ] = True,
    hotkey: Hotkeys = None,
    allow_unsigned: Annotated[
        bool,
        typer.Option(
            "--allow-unsigned", help="Accept what nobody signed. For trying things out: anybody may have written it."
        ),
    ] = False,
    proof: ProofFile = None,
    consistency: ConsistencyFile = None,
    head: Annotated[
        Path | None,
        typer.Option(
            help="Compare with a file of `perturb log --head`: the log once had its root.", show_default=False
        ),
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="Compare with a root of the log that you trust.", show_default=False)
    ] = None,
    on_chain: Annotated[
        str | None,
        typer.Option(help="Compare with the root that this hotkey committed on the chain.", show_default=False),
    ] = None,
    flow: Flow = None,
    json_: Json = False,
) -> None:
    """Check that a corpus is what was committed, from its bytes alone: digests, counts, pointers, signatures, verdicts.

    With --head, --root or --on-chain the log must once have had that root too: then nothing before it was changed.
    Everything must be signed by a validator that you name or are. Exits with 8 and names each fault where something
    does not hold.
    """
    from perturb.cli.proof_files import Against, check_proof_files
    from perturb.schemas.errors import SettingsError

    hotkeys = hotkey or []
    against = Against(head, root, on_chain, tuple(hotkeys))
    if proof is not None or consistency is not None:
        if allow_unsigned:
            raise SettingsError("--allow-unsigned is for a corpus: a proof that nobody signed proves nothing")
        check_proof_files(proof, consistency, against, json_=json_)
        return
    if sum(value is not None for value in (day, since, since_entry)) > 1:
        raise SettingsError("--day, --since and --since-entry exclude one another; give one of them")
    chosen = {"day": _parsed(day), "since": _parsed(since), "since_entry": since_entry, "sample": sample, "deep": deep}
    _audit_corpus(path, against, chosen, hotkeys, allow_unsigned=allow_unsigned, flow=flow, json_=json_)


def _parsed(day: str | None) -> "date | None":
    from perturb.sinks.corpus.keys import parse_day

    return None if day is None else parse_day(day)


def _audit_corpus(
    path: str | None,
    against: "Against",
    chosen: dict[str, Any],
    hotkeys: list[str],
    *,
    allow_unsigned: bool,
    flow: bool | None,
    json_: bool,
) -> None:
    from perturb.cli.proof_files import check_log_had
    from perturb.schemas.errors import AuditError
    from perturb.sinks.log.log import Log
    from perturb.subnet.trust import load_trust
    from perturb.tasks.corpus.audit import audit_store
    from perturb.tasks.corpus.audit_report import AuditFailed

    settings, corpus = open_corpus(path)
    trust = load_trust(settings.subnet, hotkeys=hotkeys, allow_unsigned=allow_unsigned)
    check_log_had(Log(corpus.store, trust=trust), against)
    if runs_as_flow(flow) and not allow_unsigned:
        from perturb.flows.audit import audit as audit_flow

        try:
            report = audit_flow(store=path, whole=True, hotkeys=hotkeys, **chosen)
        except AuditFailed as failed:
            report = failed.report
    else:
        report = audit_store(settings, hotkeys=hotkeys, allow_unsigned=allow_unsigned, tell=show_progress, **chosen)
    _say_audit(report, settings.store, json_=json_)
    if not report.holds:
        strangers = report.unsigned or len(report.signers) > len(set(report.signers) & set(hotkeys))
        hint = "; --hotkey and subnet.trusted_validators say whose signatures count" if strangers else ""
        raise AuditError(f"{settings.store} does not hold (faults: {len(report.faults)}); each is named above{hint}")


def _say_audit(report: "AuditReport", store: str, *, json_: bool) -> None:
    counts = asdict(report) | {"faults": [asdict(fault) for fault in report.faults]}
    figures = {name: value for name, value in counts.items() if name not in ("faults", "signers")}
    signers = ", ".join(f"{signer}: {count}" for signer, count in report.signers.items())
    say(facts(f"audit of {store}", figures | {"signers": signers or "none"}))
    if not report.faults and not report.unsigned:
        say("everything holds")
    elif not report.faults:
        say(
            styled(
                ("NOT SIGNED", "yellow"),
                f" rounds and days: {report.unsigned}, accepted because of --allow-unsigned. The rest holds; who wrote "
                "these is not known.",
            )
        )
    for fault in report.faults:
        say(styled(("FAULT", "red"), f" {fault.where}: {fault.what}"))
    if json_:
        say_json(counts)


def prove(
    record_id: Annotated[str, typer.Argument(help="ID of a sealed record.", show_default=False)],
    path: StorePath = None,
    entries: Annotated[
        int | None,
        typer.Option(min=1, help="Prove it in the log's first N entries \\[default: all].", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write \\[default: RECORD_ID.proof.json].", show_default=False),
    ] = None,
) -> None:
    """Write a proof that a record belongs to the corpus; `perturb audit --proof FILE` checks it offline.

    The proof has the record, its path in its day, the day's path in the log, and the log's signed head.
    """
    from perturb.subnet.trust import load_trust
    from perturb.tasks.corpus.prove import prove as make_proof

    settings, corpus = open_corpus(path)
    proof = make_proof(corpus, record_id, trust=load_trust(settings.subnet), entries=entries)
    written = output or Path(f"{record_id}.proof.json")
    write_file(written, proof.to_json(), "--output")
    say(
        f"record {record_id} is number {proof.index + 1} of {proof.size} on {proof.entry.detail['day']}, which is "
        f"entry {proof.entry.sequence} of {proof.head.size}; its proof is in {written}"
    )


def log(
    path: StorePath = None,
    last: Annotated[int, typer.Option(min=0, help="How many of the newest entries are shown.")] = 20,
    consistency: Annotated[
        tuple[int, int] | None,
        typer.Option(
            help="Write a proof that the log of NEW entries begins with that of OLD entries.",
            metavar="OLD NEW",
            show_default=False,
        ),
    ] = None,
    head: Annotated[bool, typer.Option("--head", help="Write the newest signed head.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write \\[default: log-OLD-NEW.consistency.json, log-NEW.head.json].",
            show_default=False,
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Show the log: what was sealed, planned, certified, promoted and revoked, in order, under one signed root.

    `--consistency` proves that it only grew, which `perturb audit --consistency FILE` checks offline.
    """
    from perturb.cli.proof_files import say_log, write_consistency, write_head
    from perturb.sinks.log.log import Log
    from perturb.subnet.trust import load_trust

    settings, corpus = open_corpus(path)
    entries = Log(corpus.store, trust=load_trust(settings.subnet))
    if consistency is not None:
        write_consistency(entries, *consistency, output)
    elif head:
        write_head(entries, output)
    else:
        say_log(entries, last, json_=json_)
