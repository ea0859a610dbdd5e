"""Commands on what subscribers get: `export`, `share`, `publish`, `tiers`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from perturb.cli.arguments import Flow, Json, Store
from perturb.cli.orchestration import runs_as_flow
from perturb.cli.output import say, say_json, styled, table, write_file
from perturb.cli.tier_file import tiers

PANEL = "Deliver"


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    for command in (export, share, publish):
        app.command(rich_help_panel=PANEL)(command)
    app.add_typer(tiers, name="tiers", rich_help_panel=PANEL)


def export(
    tier: Annotated[str, typer.Option(help="A tier of the tier file.")],
    release: Annotated[
        str | None, typer.Option(help="Freeze the resulting file list under this name.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be added; add nothing.")] = False,
    store: Store = None,
    flow: Flow = None,
    json_: Json = False,
) -> None:
    """Add newly sealed days to a tier's dataset (Parquet and WebDataset). Files of earlier days never change.

    Only days that this validator or one of subnet.trusted_validators sealed are exported. The tier file (the `tiers`
    setting) says which records and columns a tier holds, in which layouts, and how many days it is delayed.
    """
    from perturb.schemas.settings import load_settings

    settings = load_settings(store=store)
    if not dry_run and runs_as_flow(flow, runner=settings.runner):
        from perturb.flows.export import export as export_flow

        (result,) = export_flow(tiers=[tier], store=store, release=release)
    else:
        from perturb.tasks.export.export_tiers import export_tiers

        (result,) = export_tiers(settings, [tier], release=release, dry_run=dry_run)
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
    for why, count in result.left.items():
        say(styled(("LEFT", "yellow"), f" {count} sealed days are not exported: {why}"))
    if json_:
        say_json(asdict(result))


def share(
    tier: Annotated[str, typer.Option(help="A tier that was exported.")],
    release: Annotated[
        str | None, typer.Option(help="Share what was frozen under this name.", show_default=False)
    ] = None,
    expires: Annotated[str, typer.Option(help="How long the links are valid, such as 30m, 12h or 7d.")] = "7d",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="JSON file to write \\[default: TIER.links.json].", show_default=False),
    ] = None,
    store: Store = None,
) -> None:
    """Write presigned links to a tier's files, with sizes and sha256: JSON, and plain lists for download tools.

    The store must be on S3. Everyone who has a link can download its file until the link expires.
    """
    from perturb.schemas.settings import load_settings
    from perturb.sinks.stores.open import open_store
    from perturb.subnet.trust import load_trust
    from perturb.tasks.export.share import parse_duration
    from perturb.tasks.export.share import share as presign

    settings = load_settings(store=store)
    shared = presign(
        open_store(settings.store, settings.s3),
        tier,
        release=release,
        expires=parse_duration(expires),
        trust=load_trust(settings.subnet),
    )
    written = output or Path(f"{tier}.links.json")
    write_file(written, shared.to_json(), "--output", private=True)
    plain = {".txt": shared.urls(), ".aria2": shared.downloads(), ".curl": shared.curl(), ".sha256": shared.checksums()}
    for suffix, text in plain.items():
        write_file(written.with_suffix(suffix), text.encode(), "--output", private=True)
    say(f"{len(shared.files)} links, valid until {shared.expires_at:%Y-%m-%d %H:%M} UTC, in {written}")
    say("beside it: .txt with one link a line, .aria2 for `aria2c -i`, .curl for `curl --create-dirs -fK`, and")
    say(".sha256 for `sha256sum -c`")


def publish(
    tier: Annotated[str, typer.Option(help="A tier that was exported.")],
    repo: Annotated[str, typer.Option(help="Dataset repository on the Hugging Face Hub: org/name.")],
    root: Annotated[str, typer.Option(help="parquet, wds or by_photo: the format to publish.")] = "parquet",
    private: Annotated[
        bool, typer.Option("--private/--public", help="Visibility of the repository, if it is created.")
    ] = True,
    store: Store = None,
    json_: Json = False,
) -> None:
    """Bring a dataset repository on the Hugging Face Hub up to a tier's export, in one commit.

    The Hub's token is read from HF_TOKEN or from `hf auth login`.
    """
    from perturb.schemas.settings import load_settings
    from perturb.sinks.stores.open import open_store
    from perturb.subnet.trust import load_trust
    from perturb.tasks.export.hub import publish as upload

    settings = load_settings(store=store)
    published = upload(
        open_store(settings.store, settings.s3),
        tier,
        repo=repo,
        root=root,
        private=private,
        trust=load_trust(settings.subnet),
    )
    say(f"{repo} is at version {published.version}: {len(published.sent)} files sent, {published.kept} were there")
    if json_:
        say_json(asdict(published))
