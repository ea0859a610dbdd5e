"""Which walls a decoder must have, and what is said about those that are missing."""

import logging
import platform

from perturb.sandbox.walls import Wall
from perturb.schemas.errors import PerturbError
from perturb.schemas.settings import WallRequirement

logger = logging.getLogger(__name__)

ALL = ~Wall(0)
_NEEDED: dict[WallRequirement, Wall] = {"none": Wall(0), "seccomp": Wall.SECCOMP, "all": ALL}
_required: WallRequirement = "seccomp"
_said: set[Wall] = set()


def require_walls(required: WallRequirement) -> None:
    """Set what the decoders of this process must have, the setting `decoder_walls`."""
    global _required
    _required = required


def check_walls(standing: Wall) -> None:
    """Raise PerturbError unless the required walls stand. Warn, once, of others that are missing."""
    missing = missing_walls(standing)
    if not missing:
        return
    if any(wall in _NEEDED[_required] for wall in missing):
        raise PerturbError(
            f"images of strangers can't be decoded safely: {describe(standing)}; use a kernel that has what is "
            f"missing, or set decoder_walls (now {_required!r}) to 'none' for trying things out"
        )
    if standing not in _said:
        _said.add(standing)
        logger.warning("a wall around the image decoders is missing: %s", describe(standing))


def missing_walls(standing: Wall) -> list[Wall]:
    """Return the walls that don't stand."""
    return [wall for wall in Wall if wall not in standing]


def describe(standing: Wall) -> str:
    """Return which walls stand around a decoder and what the others would have done, for people."""
    missing = "; ".join(f"{_name(wall)} ({wall.meaning})" for wall in missing_walls(standing))
    stand = ", ".join(_name(wall) for wall in Wall if wall in standing) or "none"
    return f"standing: {stand}" + (f"; missing on Linux {platform.release()}: {missing}" if missing else "")


def _name(wall: Wall) -> str:
    return (wall.name or "").lower().replace("_", " ")
