"""Where clean photographs come from: `open_source(settings)` gives the one that `settings.source` names."""

from perturb.schemas.errors import SourceError
from perturb.schemas.settings import Settings
from perturb.sources.base import Source

ACCEPTED = "sample, folder:DIR, pexels, or hub:NAME"

__all__ = ["Source", "open_source"]


def open_source(settings: Settings) -> Source:
    """The source that `settings.source` names.

    Raises SourceError that lists the accepted forms, or names what this one lacks (a folder, a key).
    """
    kind, colon, place = settings.source.partition(":")
    match kind, bool(colon), place.strip():
        case "sample", False, _:
            from perturb.sources.sample import SampleSource

            return SampleSource()
        case "folder", True, directory if directory:
            from perturb.sources.folder import FolderSource

            return FolderSource(directory)
        case "pexels", False, _:
            from perturb.sources.pexels import PexelsSource

            return PexelsSource(settings.pexels)
        case "hub", True, name if name:
            from perturb.sources.hub import HubSource

            return HubSource(name, settings.hub)
    raise SourceError(
        f"source {settings.source!r} is not known; accepted: {ACCEPTED} "
        f"(set source in perturb.toml or PERTURB_SOURCE, e.g. PERTURB_SOURCE=folder:./photos)"
    )
