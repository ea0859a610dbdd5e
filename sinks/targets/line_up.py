"""Line-ups on a store: `line-ups/{number}-{sha256}.json`, created once, and the log that says which is in force."""

import hashlib
import logging
from collections import Counter
from datetime import datetime
from typing import Literal

from perturb.schemas.errors import CorpusError, ModelError
from perturb.schemas.line_up import LineUp
from perturb.schemas.signature import Signer
from perturb.sinks.formats.version import FORMAT, Document, parse_document
from perturb.sinks.log.entry import Kind, LogRecord, NewEntry
from perturb.sinks.log.log import Log
from perturb.sinks.stores.base import ObjectMissing, Store

logger = logging.getLogger(__name__)
LINE_UPS = "line-ups/"
KINDS: tuple[Kind, ...] = ("promotion", "retirement", "rollback")


class LineUpDocument(Document):
    """A line-up as it is stored."""

    kind: Literal["line-up"] = "line-up"
    line_up: LineUp


class LineUps:
    """The line-ups that `log` names. All methods raise CorpusError for an invalid entry or document, and StoreError."""

    def __init__(self, log: Log):
        self.log = log

    def newest(self) -> tuple[LineUp | None, int]:
        """Return the line-up in force, None before the first promotion, and the number of the log's entries.

        Entries at the end of the log that do not count are passed over with a warning.
        """
        left: Counter[str] = Counter()
        record = self.log.newest_that_counts(left)
        for why in left:
            logger.warning("passed over: %s", why)
        entry = self.entry_at(record)
        return None if entry is None else self.of(entry), 0 if record is None else record.head.size

    def entry_at(self, record: LogRecord | None) -> LogRecord | None:
        """Return the newest entry about a line-up up to `record`, or None."""
        if record is None:
            return None
        places = [place for kind in KINDS if (place := record.entry.newest.get(kind)) is not None]
        if not places:
            return None
        return record if max(places) == record.entry.sequence else self.log.record(max(places))

    def of(self, entry: LogRecord) -> LineUp:
        """Return the line-up that an entry names. Raises CorpusError where it is missing or another one."""
        key = entry.entry.key
        data = self._read(key)
        if hashlib.sha256(data).hexdigest() != entry.entry.sha256:
            raise CorpusError(f"{key} is not the document of {entry.where}; restore it from a copy")
        return parse_document(LineUpDocument, data, key).line_up

    def read(self, key: str) -> LineUp:
        """Return the line-up at `key`, whose name has the beginning of its digest. Raises CorpusError otherwise."""
        data = self._read(key)
        line_up = parse_document(LineUpDocument, data, key).line_up
        if line_up_key(line_up, data) != key:
            raise CorpusError(f"{key} is not the document that its name says; restore it from a copy")
        return line_up

    def append(self, line_up: LineUp, *, signer: Signer | None, at: datetime) -> LogRecord:
        """Put `line_up` in force. Raises ModelError where another change was logged since it was made."""
        data = LineUpDocument(format=FORMAT, line_up=line_up).to_json()
        key = line_up_key(line_up, data)
        store: Store = self.log.store
        if not store.put_new(key, data):
            raise CorpusError(f"{key} exists with other content; delete it, and run this again")

        def unchanged(newest: LogRecord | None) -> None:
            entry = self.entry_at(newest)
            if (None if entry is None else entry.entry.key) != line_up.previous:
                raise ModelError("another change of the line-up came first; look at `perturb targets list`, and repeat")

        detail: dict[str, str | int] = {"number": line_up.number, "target": line_up.target}
        new = NewEntry(kind=line_up.event, key=key, sha256=hashlib.sha256(data).hexdigest(), detail=detail)
        return self.log.append(new, signer=signer, at=at, check=unchanged)

    def _read(self, key: str) -> bytes:
        try:
            return self.log.store.get(key)
        except ObjectMissing as error:
            raise CorpusError(f"{key} is missing, which the log names; restore it from a copy") from error


def line_up_key(line_up: LineUp, data: bytes) -> str:
    """Return the key of a line-up. Two changes at once have two keys; the log takes one of them."""
    return f"{LINE_UPS}{line_up.number:08d}-{hashlib.sha256(data).hexdigest()[:16]}.json"
