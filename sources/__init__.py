"""Where clean photographs come from: `open_source(settings)` gives the one that `settings.source` names."""

from perturb.sandbox.requirement import require_walls
from perturb.schemas.settings import Settings
from perturb.sources.base import Source

__all__ = ["Source", "open_source"]


def open_source(settings: Settings) -> Source:
    """Return the source that `settings.source` names. Raises SourceError that names what it lacks: a folder, a key."""
    require_walls(settings.decoder_walls)
    match settings.source.kind:
        case "sample":
            from perturb.sources.sample import SampleSource

            return SampleSource()
        case "folder":
            from perturb.sources.folder import FolderSource

            return FolderSource(settings.source.place)
        case "pexels":
            from perturb.sources.pexels import PexelsSource

            return PexelsSource(settings.pexels)
        case "hub":
            from perturb.sources.hub import HubSource

            return HubSource(settings.source.place, settings.hub)
