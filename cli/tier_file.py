"""Commands on the tier file: `tiers check`, `tiers preview`, `tiers policy`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from perturb.cli.arguments import Json, Store, open_corpus
from perturb.cli.output import say, say_json, styled, table

tiers = typer.Typer(help="Check the tier file, preview a tier, print the bucket policy.", no_args_is_help=True)


@tiers.command()
def check(store: Store = None, json_: Json = False) -> None:
    """Validate the tier file and verify on the corpus that tiers nest and export only granted columns."""
    from perturb.schemas.errors import TierError
    from perturb.schemas.settings import load_settings
    from perturb.subnet.trust import load_trust
    from perturb.tasks.export.preview import check_tiers
    from perturb.tasks.tiers.tier_file import load_tiers

    # The file first: a mistake in it is named where there is no corpus yet.
    load_tiers(load_settings(store=store).tiers)
    settings, corpus = open_corpus(store)
    found = check_tiers(corpus, settings.tiers, key=settings.pseudonym_key, trust=load_trust(settings.subnet))
    rows = [(t.name, t.records, t.image_bytes, len(t.columns), t.miner, t.within or "") for t in found.tiers]
    title = f"{settings.tiers} on {found.accepted} accepted records of {len(found.days)} sealed days"
    say(table(title, ["tier", "records", "image bytes", "columns", "miner", "within"], rows))
    _say_left(found.left)
    for note in found.notes:
        say(f"note: {note}")
    if json_:
        say_json(asdict(found))
    if not found.holds:
        raise TierError("; ".join(found.faults))


@tiers.command()
def preview(
    name: Annotated[str, typer.Argument(help="A tier of the tier file.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Contact sheet \\[default: NAME.png].", show_default=False)
    ] = None,
    store: Store = None,
) -> None:
    """Show what a tier would hold: counts, sizes, a few rows, and a contact sheet. Nothing is exported."""
    from perturb.sinks.report.contact_sheet import write_contact_sheet
    from perturb.subnet.trust import load_trust
    from perturb.tasks.export.preview import preview as preview_tier
    from perturb.tasks.tiers.tier_file import get_tier, load_tiers

    settings, corpus = open_corpus(store)
    tier, trust = get_tier(load_tiers(settings.tiers), name), load_trust(settings.subnet)
    seen = preview_tier(corpus, tier, key=settings.pseudonym_key, trust=trust)
    parts = {f"{day}": count for day, count in seen.days.items()} | seen.splits | seen.views
    title = f"tier {name}: {seen.records} records, {seen.image_bytes} bytes of images"
    say(table(title, ["of which", "records"], list(parts.items())))
    _say_left(seen.left)
    for row in seen.rows:
        say(table("", ["column", "value"], list(row.items())))
    if seen.pairs:
        written = output or Path(f"{name}.png")
        write_contact_sheet(written, seen.pairs)
        say(f"{len(seen.pairs)} pairs drawn to {written}")


def _say_left(left: Mapping[str, int]) -> None:
    for why, count in left.items():
        say(styled(("LEFT OUT", "yellow"), f" {count} sealed days: {why}"))


@tiers.command()
def policy(
    account: Annotated[str, typer.Option(help="Account of the users that the tiers are named after.")] = "",
    store: Store = None,
) -> None:
    """Print the bucket policy that lets each tier's principal read its own prefix and nothing else."""
    from perturb.schemas.settings import load_settings
    from perturb.tasks.export.bucket_policy import bucket_policy
    from perturb.tasks.tiers.tier_file import load_tiers

    settings = load_settings(store=store)
    typer.echo(bucket_policy(settings.store, list(load_tiers(settings.tiers)), account=account).decode())
