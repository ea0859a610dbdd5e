"""Which validators may ask: a list that is read again now and then, and kept while it can't be read."""

import asyncio
import logging
from collections.abc import Callable

from perturb.schemas.errors import PerturbError

log = logging.getLogger(__name__)

REFRESH_SECONDS = 300.0


class ValidatorList:
    """Hotkeys that may ask. `find` is called once here, so its errors show at the start.

    Later errors keep the list that is held.
    """

    def __init__(self, find: Callable[[], frozenset[str]], *, refresh_seconds: float = REFRESH_SECONDS):
        self._find = find
        self._seconds = refresh_seconds
        self._hotkeys = find()
        if not self._hotkeys:
            log.warning("nobody may ask this miner: the roster has no [[validator]], or the subnet no permit holder")

    def allows(self, hotkey: str) -> bool:
        """Whether `hotkey` may ask."""
        return hotkey in self._hotkeys

    async def keep_fresh(self) -> None:
        """Read the list again every `refresh_seconds`, until cancelled."""
        while True:
            await asyncio.sleep(self._seconds)
            try:
                self._hotkeys = await asyncio.to_thread(self._find)
            except PerturbError as error:
                log.warning("going on with %d known validators: %s", len(self._hotkeys), error)
