"""Whether the target of a round is the one that line-up, round id and log give: a check for auditors."""

from datetime import datetime, timedelta
from functools import lru_cache

from perturb.schemas.errors import CorpusError
from perturb.schemas.line_up import LineUp, draw_target
from perturb.schemas.record import Row
from perturb.sinks.log.entry import LogRecord
from perturb.sinks.log.log import Log
from perturb.sinks.targets.line_up import LineUps

# A validator reads the log once a minute, and its clock is not the sealer's.
TOLERANCE = timedelta(minutes=10)


class DrawChecker:
    """Repeats the draws of rounds. An entry of the log is read once.

    What it shows: target and share were fixed by a signed entry before the round. What it does not show: how many round
    ids were drawn, since the validator draws 32 bits of them itself.
    """

    def __init__(self, log: Log):
        self._log = log
        self._line_ups = LineUps(log)
        self._newest: LogRecord | None = None
        self._unreadable = False
        self._known = lru_cache(maxsize=64)(self._at)
        self._seen = lru_cache(maxsize=1024)(self._fault)

    def fault(self, row: Row) -> str | None:
        """Return what is wrong with the draw of a record's round, or None. Raises StoreError.

        Where log or line-up cannot be read, the first record says so, and no draw is repeated after it.
        """
        if self._unreadable:
            return None
        try:
            return self._seen(
                row["round_id"], row["created_at"], row["target"], row["classifier_sha256"], row.get("log_size")
            )
        except CorpusError as error:
            self._unreadable = True
            return f"its draw cannot be repeated: {error}"

    def _fault(self, round_id: str, created_at: datetime, target: str, sha256: str, log_size: int | None) -> str | None:
        if log_size is None:
            return self._undrawn(created_at)
        newest = self._log_newest()
        size = 0 if newest is None else newest.head.size
        if not 0 < log_size <= size:
            return f"log_size is {log_size}, the log has {size} entries"
        if self._log.record(log_size - 1).entry.at > created_at + TOLERANCE:
            return f"log_size is {log_size}, but the log was not so long at {created_at:%Y-%m-%d %H:%M}"
        if log_size < size and self._log.record(log_size).entry.at < created_at - TOLERANCE:
            return f"log_size is {log_size}, but the log was longer at {created_at:%Y-%m-%d %H:%M}"
        line_up = self._known(log_size)
        if line_up is None:
            return f"log_size is {log_size}, but the log had no line-up then"
        drawn = draw_target(line_up.shares, round_id, log_size)
        if (drawn.target, drawn.sha256) != (target, sha256):
            return f"the target is {target} ({sha256[:12]}…), line-up {line_up.number} gives {drawn.target}"
        return None

    def _undrawn(self, created_at: datetime) -> str | None:
        """Return a fault where the round had to be drawn: a line-up was in force before it."""
        entry = self._line_ups.entry_at(self._log_newest())
        while entry is not None and entry.entry.sequence and entry.entry.at > created_at - TOLERANCE:
            entry = self._line_ups.entry_at(self._log.record(entry.entry.sequence - 1))
        if entry is None or entry.entry.at > created_at - TOLERANCE:
            return None
        return f"it names no draw, though a line-up was in force since {entry.entry.at:%Y-%m-%d %H:%M}"

    def _at(self, log_size: int) -> LineUp | None:
        entry = self._line_ups.entry_at(self._log.record(log_size - 1))
        return None if entry is None else self._line_ups.of(entry)

    def _log_newest(self) -> LogRecord | None:
        if self._newest is None:
            self._newest = self._log.newest_that_counts()
        return self._newest
