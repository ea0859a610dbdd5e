"""Which validators may send challenges: a list that is read again regularly, and kept while it cannot be read."""

import asyncio
import logging
from collections.abc import Callable

from perturb.schemas.errors import PerturbError

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 300.0


class ValidatorList:
    """Hotkeys that may send challenges. The constructor calls `find`, and raises what it raises.

    When a later call fails, the list stays as it is.
    """

    def __init__(self, find: Callable[[], frozenset[str]], *, refresh_seconds: float = REFRESH_SECONDS):
        self._find = find
        self._seconds = refresh_seconds
        self._hotkeys = find()
        if not self._hotkeys:
            logger.warning(
                "no validator may send challenges to this miner: "
                "the roster has no [[validator]], or no neuron of the subnet has a permit"
            )

    def allows(self, hotkey: str) -> bool:
        """Return whether `hotkey` may send challenges."""
        return hotkey in self._hotkeys

    async def keep_fresh(self) -> None:
        """Read the list again every `refresh_seconds`, until cancelled."""
        while True:
            await asyncio.sleep(self._seconds)
            try:
                self._hotkeys = await asyncio.to_thread(self._find)
            except PerturbError as error:
                logger.warning(
                    "the list of validators could not be read, so the %d known ones stay: %s", len(self._hotkeys), error
                )
