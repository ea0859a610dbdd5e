"""Commands on the corpus: `seal`, `audit`, `show`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from perturb.cli.output import Json, Store, say, say_json, table
from perturb.cli.root import Root, open_corpus

Day = Annotated[
    str | None, typer.Option("--day", metavar="YYYY-MM-DD", help="A production day, UTC.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Adds this module's commands to `app`."""
    app.command()(seal)
    app.command()(audit)
    app.command()(show)


def seal(
    day: Day = None,
    early: Annotated[
        bool, typer.Option("--early", help="Seal a day that is not over; later rounds go to the next.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the day is over instead of refusing.")] = False,
    store: Store = None,
    json_: Json = False,
) -> None:
    """Merge a finished day's rounds into immutable, signed shards. Sealing twice changes nothing.

    Without --day it is yesterday's. A sample of the records is verified again from its bytes first.
    """
    from perturb.flows.engine.prefect_server import check_server
    from perturb.flows.seal import seal as flow
    from perturb.sinks.corpus.keys import parse_day

    check_server()
    sealed = flow(day=parse_day(day) if day else None, store=store, early=early, wait=wait)
    how = "was sealed already" if sealed.already else "sealed"
    say(
        table(
            f"{sealed.day} {how}",
            ["", ""],
            [(k, str(v)) for k, v in sealed.model_dump().items() if k not in ("day", "already")],
        )
    )
    if json_:
        say_json(sealed.model_dump(mode="json"))


def audit(
    path: Root = None,
    day: Day = None,
    sample: Annotated[float, typer.Option(min=0, max=1, help="Share of the images whose bytes are read.")] = 1.0,
    deep: Annotated[
        bool, typer.Option("--deep/--no-deep", help="Compute metrics, flip and score again from the bytes.")
    ] = True,
    hotkey: Annotated[
        str | None, typer.Option(help="Demand that this validator signed everything.", show_default=False)
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
    json_: Json = False,
) -> None:
    """Check that a corpus is what was committed, from its bytes alone: digests, counts, pointers, signatures, verdicts.

    Exits 8 and names each fault when something doesn't hold.
    """
    if proof is not None:
        from perturb.cli.provenance import check_proof_file

        check_proof_file(proof, manifest=manifest, on_chain=on_chain, json_=json_)
        return
    from perturb.schemas.errors import AuditError
    from perturb.sinks.corpus.keys import parse_day
    from perturb.tasks.corpus.audit import audit as run

    settings, corpus = open_corpus(path)
    report = run(
        corpus,
        day=parse_day(day) if day else None,
        sample=sample,
        reverify=_reverifier(settings) if deep else None,
        hotkey=hotkey,
    )
    counts = asdict(report) | {"faults": [asdict(fault) for fault in report.faults]}
    say(table(f"audit of {settings.store}", ["", ""], [(k, str(v)) for k, v in counts.items() if k != "faults"]))
    if not report.faults:
        say("everything holds")
    for fault in report.faults:
        say(f"[red]FAULT[/] {fault.where}: {fault.what}")
    if json_:
        say_json(counts)
    if not report.holds:
        raise AuditError(f"{settings.store} does not hold (faults: {len(report.faults)}); each is named above")


def _reverifier(settings: Any) -> Any:
    from functools import partial

    from perturb.models.classifier import load_classifier
    from perturb.tasks.verify.reverify import reverify_pairs

    return partial(reverify_pairs, classifier=load_classifier(settings.classifier), settings=settings)


def show(
    path: Root = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file to write.")] = Path("contact-sheet.png"),
    number: Annotated[
        int, typer.Option("--number", "-n", min=1, max=200, help="Pairs to draw, the best scores first.")
    ] = 6,
    day: Day = None,
    json_: Json = False,
) -> None:
    """Draw a contact sheet: original, perturbed, difference x16, with labels, confidences, L-inf, SSIM and score."""
    from perturb.sinks.corpus.keys import parse_day
    from perturb.sinks.report.contact_sheet import check_picture, contact_sheet
    from perturb.tasks.monitor.best_pairs import best_pairs

    settings, corpus = open_corpus(path)
    check_picture(output)
    pairs = best_pairs(corpus, number, day=parse_day(day) if day else None)
    contact_sheet(pairs).save(output)
    say(f"{len(pairs)} pairs of {settings.store} drawn to {output}")
    if json_:
        say_json({"path": str(output), "pairs": len(pairs)})
