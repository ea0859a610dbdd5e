"""Commands for what leaves the house: `export`, `share`, `publish`, `tiers`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb.cli.output import Json, Store, say, say_json, table
from perturb.cli.tier_file import tiers

if TYPE_CHECKING:
    from perturb.schemas.settings import Settings
    from perturb.tasks.export.export import ExportResult


def register(app: typer.Typer) -> None:
    """Adds this module's commands to `app`."""
    app.command()(export)
    app.command()(share)
    app.command()(publish)
    app.add_typer(tiers, name="tiers")


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
        from perturb.flows.engine.prefect_server import check_server
        from perturb.flows.export import export as flow

        check_server()
        (result,) = flow(tiers=[tier], store=store, release=release)
    rows = [(str(day.day), day.records, day.files, day.bytes) for day in result.added]
    title = f"tier {tier}, version {result.version}: {result.records} records, {result.bytes} bytes in {result.path}"
    if rows:
        say(table(title, ["day added" if not dry_run else "day to add", "records", "files", "bytes"], rows))
    else:
        say(f"{title}; no day to add")
    if release and not dry_run:
        say(f"release {release}: {result.path}/releases/{release}.json")
    if result.waiting:
        say(f"{len(result.waiting)} sealed days are held back by the tier's delay")
    if json_:
        say_json(asdict(result))


def _plan(tier: str, store: str | None) -> "ExportResult":
    from perturb.sinks.corpus.corpus import Corpus
    from perturb.tasks.export.export import export as plan
    from perturb.tasks.tiers.tier_file import get_tier, load_tiers

    settings = _settings(store)
    corpus = Corpus.open(settings)
    return plan(corpus, get_tier(load_tiers(settings.tiers), tier), key=settings.pseudonym_key, dry_run=True)


def share(
    tier: Annotated[str, typer.Option(help="A tier that was exported.")],
    release: Annotated[
        str | None, typer.Option(help="Share what was frozen under this name.", show_default=False)
    ] = None,
    expires: Annotated[str, typer.Option(help="How long the links are good: 30m, 12h, 7d.")] = "7d",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="JSON file to write \\[default: TIER.links.json].", show_default=False),
    ] = None,
    store: Store = None,
) -> None:
    """Write presigned links to a tier's files, with sizes and sha256: JSON, and a plain list for download tools."""
    from perturb.sinks.stores.open import open_store
    from perturb.tasks.export.share import parse_duration
    from perturb.tasks.export.share import share as sign

    settings = _settings(store)
    shared = sign(open_store(settings.store, settings.s3), tier, release=release, expires=parse_duration(expires))
    written = output or Path(f"{tier}.links.json")
    written.write_bytes(shared.to_json())
    plain = {".txt": shared.urls(), ".aria2": shared.downloads(), ".curl": shared.curl(), ".sha256": shared.checksums()}
    for suffix, text in plain.items():
        written.with_suffix(suffix).write_text(text)
    say(f"{len(shared.files)} links, good until {shared.expires_at:%Y-%m-%d %H:%M} UTC, in {written}")
    say("beside it: .txt one link a line; .aria2 for `aria2c -i`, .curl for `curl --create-dirs -fK`, and")
    say(".sha256 for `sha256sum -c`")


def publish(
    tier: Annotated[str, typer.Option(help="A tier that was exported.")],
    repo: Annotated[str, typer.Option(help="Dataset repository on the Hugging Face Hub: org/name.")],
    root: Annotated[str, typer.Option(help="parquet or wds; a card describes one of them.")] = "parquet",
    private: Annotated[
        bool, typer.Option("--private/--public", help="Who may see a repository that is created.")
    ] = True,
    store: Store = None,
    json_: Json = False,
) -> None:
    """Bring a dataset repository on the Hugging Face Hub up to a tier's export, in one commit."""
    from perturb.sinks.stores.open import open_store
    from perturb.tasks.export.hub import publish as upload

    settings = _settings(store)
    published = upload(open_store(settings.store, settings.s3), tier, repo=repo, root=root, private=private)
    say(f"{repo} is at version {published.version}: {len(published.sent)} files sent, {published.kept} were there")
    if json_:
        say_json(asdict(published))


def _settings(store: str | None) -> "Settings":
    from perturb.schemas.settings import load_settings

    return load_settings(store=store)
