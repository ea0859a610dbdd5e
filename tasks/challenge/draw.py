"""Drawing photographs from a source until one of them makes a challenge."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from perturb.schemas.challenge import Challenge, Photo
from perturb.schemas.errors import SourceError
from perturb.tasks.challenge.package import Unfit

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draw:
    """The challenge that was found, and why the photographs before it were put back (reason -> count)."""

    challenge: Challenge
    redrawn: Counter[str]


def draw_challenge(photos: Iterator[Photo], make: Callable[[Photo], Challenge | Unfit], *, max_draws: int) -> Draw:
    """Return the first challenge that `make` finds among at most `max_draws` photographs.

    Raises SourceError with the counted reasons when none of them was fit, or when the source gives no more.
    """
    redrawn: Counter[str] = Counter()
    for _, photo in zip(range(max_draws), photos, strict=False):
        made = make(photo)
        if isinstance(made, Challenge):
            return Draw(made, redrawn)
        redrawn[made.reason] += 1
        logger.info("redrawing: %s %s: %s", photo.source, photo.source_id, made.detail)
    reasons = ", ".join(f"{reason} {count}" for reason, count in redrawn.most_common()) or "the source gave none"
    raise SourceError(
        f"none of {redrawn.total()} photographs made a challenge ({reasons}); "
        "choose another source, or lower challenge.min_clean_margin or challenge.min_clean_confidence"
    )
