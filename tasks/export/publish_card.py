"""Publish a version of an export: figures and Croissant metadata first, then the cards, by which readers find files."""

from perturb.schemas.tier import Tier
from perturb.sinks.dataset.card import Contents, contents_of, make_card
from perturb.sinks.dataset.contents import ExportContents
from perturb.sinks.dataset.croissant import WITH_CROISSANT, make_croissant
from perturb.sinks.dataset.day_index import export_version
from perturb.sinks.dataset.keys import CARD, CROISSANT, figure_folder, figure_versions, format_folder
from perturb.sinks.dataset.plots import draw_plots, plot_names
from perturb.sinks.dataset.writers import formats_of
from perturb.sinks.stores.base import ObjectMissing, Store


def publish_cards(store: Store, tier: Tier, export: ExportContents) -> Contents:
    """Replace the cards of all formats by cards of the given contents and return what they list.

    Cards that are up to date are kept.

    Figures of each version have keys of their own, so that readers of the previous card still find those of its
    version. Those of older versions are removed. Croissant metadata is complete in itself and replaced like a card.
    """
    contents = contents_of(tier, export)
    meta = figure_folder(contents.version)
    figures = [meta + name for name in plot_names(contents.statistics)]
    folders = {format: format_folder(tier.name, format) for format in formats_of(tier)}
    cards = {format: make_card(contents, format, figures=figures) for format in folders}
    if all(_stored(store, folders[format] + CARD) == card for format, card in cards.items()):
        return contents
    plots = draw_plots(contents.statistics)
    for format in WITH_CROISSANT:
        if format in folders:
            store.put(folders[format] + CROISSANT, make_croissant(contents, format))
    for format, card in cards.items():
        for name, data in plots.items():
            store.put(folders[format] + meta + name, data)
        store.put(folders[format] + CARD, card)
        _remove_older(store, folders[format], contents)
    return contents


def _stored(store: Store, key: str) -> bytes | None:
    try:
        return store.get(key)
    except ObjectMissing:
        return None


def _remove_older(store: Store, folder: str, contents: Contents) -> None:
    kept = {contents.version, export_version(len(contents.days) - 1)}
    for version in figure_versions(store, folder):
        if version not in kept:
            for entry in list(store.entries(folder + figure_folder(version))):
                store.delete(entry.key)
