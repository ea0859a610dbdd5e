"""Commands on the corpus: `seal`, `gc`, `show`."""

from pathlib import Path
from typing import Annotated

import typer

from perturb.cli.arguments import Day, Flow, Json, Store, StorePath, open_corpus
from perturb.cli.orchestration import runs_as_flow
from perturb.cli.output import facts, say, say_json, styled, table

PANEL = "Corpus"


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    for command in (seal, gc, show):
        app.command(rich_help_panel=PANEL)(command)


def seal(
    day: Day = None,
    early: Annotated[
        bool, typer.Option("--early", help="Seal a day that is not over; later rounds go to the next day.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the day is over instead of refusing.")] = False,
    store: Store = None,
    flow: Flow = None,
    json_: Json = False,
) -> None:
    """Merge a finished day's rounds into immutable, signed shards. Sealing twice changes nothing.

    The default day is yesterday (UTC). A sample of the records is verified again from its bytes first; its size is the
    `seal.reverify_fraction` setting. Only rounds that this validator or one of subnet.trusted_validators signed are
    taken in. Where a chain and a wallet are configured, the day's Merkle root goes on the
    chain.
    """
    from perturb.schemas.settings import load_settings
    from perturb.sinks.corpus.keys import parse_day

    settings = load_settings(store=store)
    chosen = parse_day(day) if day else None
    if runs_as_flow(flow, runner=settings.runner):
        from perturb.flows.seal import seal as seal_flow

        sealed = seal_flow(day=chosen, store=store, early=early, wait=wait)
    else:
        from perturb.tasks.corpus.seal_and_anchor import seal_and_anchor

        sealed = seal_and_anchor(settings, day=chosen, early=early, wait=wait)
    how = "was sealed already" if sealed.already else "sealed"
    say(facts(f"{sealed.day} {how}", sealed.model_dump(exclude={"day", "already", "left"})))
    for why, count in sealed.left.items():
        say(styled(("LEFT", "yellow"), f" {count} rounds were not sealed: {why}"))
    if json_:
        say_json(sealed.model_dump(mode="json"))


def gc(
    path: StorePath = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed; remove nothing.")] = False,
    all_days: Annotated[
        bool, typer.Option("--all-days", help="Look through all sealed days, not only the 32 newest.")
    ] = False,
    flow: Flow = None,
    json_: Json = False,
) -> None:
    """Remove what no commit claims and what a sealed day replaced long enough ago.

    Objects without a commit are kept for a day. Rounds that a sealed day took in are kept for the
    `seal.keep_rounds_days` setting. Exports are left alone: the next export completes an interrupted one.
    """
    settings, _ = open_corpus(path)
    if runs_as_flow(flow):
        from perturb.flows.gc import gc as gc_flow

        report = gc_flow(store=path, dry_run=dry_run, all_days=all_days)
    else:
        from perturb.tasks.corpus.gc import clean_store

        report = clean_store(settings, dry_run=dry_run, all_days=all_days)
    kinds = {"never committed": report.orphans, "superseded": report.superseded, "unfinished": report.unfinished}
    rows = [(kind, len(entries), sum(entry.size for entry in entries)) for kind, entries in kinds.items()]
    say(table(f"{'would remove' if dry_run else 'removed'} from {settings.store}", ["", "objects", "bytes"], rows))
    if json_:
        keys = {kind.replace(" ", "_"): [entry.key for entry in entries] for kind, entries in kinds.items()}
        say_json({"dry_run": dry_run, "bytes": report.size, **keys})


def show(
    path: StorePath = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file to write.")] = Path("contact-sheet.png"),
    number: Annotated[
        int, typer.Option("--number", "-n", min=1, max=200, help="Pairs to draw, the best scores first.")
    ] = 6,
    day: Day = None,
    json_: Json = False,
) -> None:
    """Draw a contact sheet of the best pairs.

    Each pair is drawn as original, perturbed and the difference times 16, with labels, confidences, L-inf, SSIM and
    score. Pairs are drawn whoever signed them; `perturb audit` says whose they are.
    """
    from perturb.sinks.corpus.keys import parse_day
    from perturb.sinks.report.contact_sheet import check_picture, write_contact_sheet
    from perturb.tasks.monitor.best_pairs import best_pairs

    settings, corpus = open_corpus(path)
    check_picture(output)
    pairs = best_pairs(corpus, number, day=parse_day(day) if day else None)
    write_contact_sheet(output, pairs)
    say(f"{len(pairs)} pairs of {settings.store} drawn to {output}")
    if json_:
        say_json({"path": str(output), "pairs": len(pairs)})
