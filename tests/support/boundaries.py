"""The boundaries between two operations of a step on its store, and a process that is killed at one of them."""

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perturb.sinks.corpus import keys
from perturb.sinks.log.entry import entry_place
from perturb.sinks.log.log import LOG
from perturb.sinks.stores.base import Store

# What decides whether a day or a document counts. Boundaries at these come first where not all are met.
_DECISIVE = ("log entry", "hint", "tile", "manifest", "draft")


def object_kind(key: str) -> str:
    """Return what the object at `key` is, where it is one of those that sealing and logging turn on; otherwise ""."""
    if key.startswith(LOG):
        return "log entry" if entry_place(key) is not None else "tile" if "tiles/" in key else "hint"
    if key.endswith("/" + keys.MANIFEST):
        return "manifest" if key.count("/") == 2 else "draft"
    return ""


class Boundaries:
    """Meets every boundary of a step: counts and names them, or kills the process at one of them."""

    def __init__(self, kill_at: int | None = None):
        self.names: list[str] = []
        self._kill_at = kill_at
        self._lock = threading.Lock()

    def pass_by(self, name: str) -> None:
        """Between two operations."""
        with self._lock:
            if len(self.names) == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.names.append(name)

    def around(self, owner: Any, name: str) -> None:
        """Put a boundary before and after a function."""
        real = getattr(owner, name)

        def met(*arguments: Any, **options: Any) -> Any:
            texts = [given for given in (*arguments, *options.values()) if isinstance(given, str)]
            what = " ".join((name, *(kind for kind in map(object_kind, texts) if kind)))
            self.pass_by(f"before {what}")
            result = real(*arguments, **options)
            self.pass_by(f"after {what}")
            return result

        setattr(owner, name, met)

    def install(self, store: Store) -> None:
        """Around everything that changes a store."""
        for name in ("put_new", "put", "put_together", "delete", "discard"):
            self.around(type(store), name)
        if hasattr(store, "root"):
            for name in ("fsync", "link", "unlink", "rmdir"):
                self.around(os, name)
            for name in ("rename", "replace", "mkdir"):
                self.around(Path, name)
        else:
            self.around(store._client, "put_object")  # type: ignore[attr-defined]


def distinct(names: Sequence[str], most: int) -> list[int]:
    """Return the boundaries to kill at, `most` at most: the first and last of each name, then others evenly.

    Those at objects of sealing and logging come first.
    """
    places = range(len(names))
    wanted = dict.fromkeys(place for place in places if names[place].endswith(_DECISIVE))
    wanted |= {names.index(name): None for name in dict.fromkeys(names)}
    wanted |= {len(names) - 1 - names[::-1].index(name): None for name in dict.fromkeys(names)}
    wanted |= dict.fromkeys(places[:: max(1, len(names) // most)])
    return sorted(list(wanted)[:most])
