"""Commands for what leaves the house: `export`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import Json, Store, say, say_json, table

if TYPE_CHECKING:
    from tasks.export import ExportResult


def register(app: typer.Typer) -> None:
    """Adds this module's commands to `app`."""
    app.command()(export)


def export(
    tier: Annotated[str, typer.Option(help="A tier of the tier file.")],
    release: Annotated[
        str | None, typer.Option(help="Freeze the resulting file list under this name.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be added, and add nothing.")] = False,
    store: Store = None,
    json_: Json = False,
) -> None:
    """Add newly sealed days to a tier's dataset (Parquet and WebDataset); older files never change."""
    if dry_run:
        result = _plan(tier, store)
    else:
        from flows.export import export as flow

        (result,) = flow(tiers=[tier], store=store, release=release)
    rows = [(str(day.day), day.records, day.files, day.bytes) for day in result.added]
    title = f"tier {tier}, version {result.version}: {result.records} records, {result.bytes} bytes in {result.path}"
    say(table(title, ["day added" if not dry_run else "day to add", "records", "files", "bytes"], rows))
    if result.waiting:
        say(f"{len(result.waiting)} sealed days are held back by the tier's delay")
    if json_:
        say_json(asdict(result))


def _plan(tier: str, store: str | None) -> "ExportResult":
    from schemas.settings import load_settings
    from sinks.corpus import Corpus
    from sinks.store import open_store
    from tasks.export import export as plan
    from tasks.tiers import get_tier, load_tiers

    settings = load_settings(store=store)
    corpus = Corpus(open_store(settings.store, settings.s3))
    return plan(corpus, get_tier(load_tiers(settings.tiers), tier), key=settings.pseudonym_key, dry_run=True)
