"""The log on a store: reading its newest entry, appending one, and the leaves for proofs.

    log = Log(store, trust=trust)
    record = log.append(NewEntry(kind="plan", key="certificates/…/plan.json", sha256=…), signer=hotkey, at=now)

The document must lie at its key before its entry is appended. Entries are created, never replaced: whoever creates
`log/00000042.json` has that place, and others append behind it.
"""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError
from perturb.schemas.signature import Signer
from perturb.schemas.trust import ANYONE, Trust
from perturb.sinks.formats.merkle import merkle_root
from perturb.sinks.formats.version import parse_document
from perturb.sinks.log.entry import TILE, Kind, LogRecord, NewEntry, log_key, next_record, tile_key
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing, Store

LOG = "log/"
# Where the newest entry was when this was written. Readers look on from there, so it may be wrong or missing.
_HINT = "log/newest.json"
_ATTEMPTS = 50
# Before it is appended, a document is looked for in so many of the newest entries of its kind.
_LOOKED_THROUGH = 8
# So many entries at the end of the log may be a stranger's before a reader gives up.
_PASSED_OVER = 256
_THREADS = 16


class Log:
    """The log of the corpus on `store`, as far as validators of `trust` signed it.

    Its newest entry is found by a number of requests that does not grow with the log. All methods raise CorpusError for
    an entry that is invalid or that nobody of `trust` signed, and StoreError when the store fails.
    """

    def __init__(self, store: Store, *, trust: Trust = ANYONE):
        self.store = store
        self._trust = trust

    def newest(self) -> LogRecord | None:
        """Return the newest entry with its head, or None for an empty log."""
        place = self._last_place()
        return None if place is None else self.record(place)

    def newest_that_counts(self, left: Counter[str] | None = None) -> LogRecord | None:
        """Return the newest entry that can be read and that a validator of the trust signed, or None.

        Entries behind it are passed over and counted in `left` by the reason: whoever writes to the store can add
        some. It is for readers; a writer that used it could not append. Raises CorpusError where none of the last
        `_PASSED_OVER` entries counts.
        """
        last = self._last_place()
        places = range(-1 if last is None else last, -1, -1)
        why = ""
        for place in places[:_PASSED_OVER]:
            try:
                return self.record(place)
            except (CorpusError, ObjectCorrupt) as error:
                why = str(error)
                if left is not None:
                    left[why] += 1
        if len(places) > _PASSED_OVER:
            raise CorpusError(f"none of the last {_PASSED_OVER} entries of the log counts: {why}")
        return None

    def before(self, record: LogRecord) -> LogRecord | None:
        """Return the entry before `record`, whoever signed it: its leaf is under the root of `record`. None at first.

        Raises CorpusError where it is missing, and where it is another one.
        """
        if record.entry.sequence == 0:
            return None
        key = log_key(record.entry.sequence - 1)
        try:
            earlier = parse_record(self.store.get(key), key)
        except ObjectMissing as error:
            raise CorpusError(f"{key} is missing from the log; restore it from a copy") from error
        check_follows(earlier, record)
        return earlier

    def newest_before(self, record: LogRecord | None, kind: Kind) -> LogRecord | None:
        """Return the newest entry of one kind up to `record`, or None where there is none."""
        if record is None or record.entry.kind == kind:
            return record
        place = record.entry.newest.get(kind)
        return None if place is None else self.record(place)

    def back(self, record: LogRecord | None, kind: Kind) -> Iterator[LogRecord]:
        """Yield the entries of one kind up to `record`, from the newest to the first; two reads an entry."""
        while (found := self.newest_before(record, kind)) is not None:
            yield found
            if found.entry.sequence == 0:
                return
            record = self.record(found.entry.sequence - 1)

    def record(self, sequence: int) -> LogRecord:
        """Return entry number `sequence`. Raises CorpusError when it is missing."""
        key = log_key(sequence)
        try:
            record = parse_record(self.store.get(key), key)
        except ObjectMissing as error:
            raise CorpusError(f"{key} is missing from the log; restore it from a copy") from error
        if record.entry.sequence != sequence:
            raise CorpusError(f"{key} holds entry {record.entry.sequence}; restore it from a copy")
        if refusal := record.head.refusal(self._trust):
            raise CorpusError(
                f"{key} ({record.entry.kind} {record.entry.key}) does not count: {refusal}; list the signer in "
                "subnet.trusted_validators if it is one of yours, otherwise restore the log from a copy"
            )
        return record

    def records(self, first: int = 0, last: int | None = None) -> Iterator[LogRecord]:
        """Yield the entries from number `first` to before `last` (default: to the newest) in their order.

        Each must follow from the one before: a log that was forked, cut or reordered raises CorpusError.
        """
        newest = self._last_place()
        end = 0 if newest is None else newest + 1
        before = self.record(first - 1) if 0 < first < end else None
        with ThreadPoolExecutor(_THREADS) as pool:
            for record in pool.map(self.record, range(first, end if last is None else min(end, last))):
                check_follows(before, record)
                yield record
                before = record

    def leaves(self, head: LogRecord) -> list[bytes]:
        """Return the leaves of all entries up to `head`, 32 bytes each. Raises CorpusError where they miss its root."""
        with ThreadPoolExecutor(_THREADS) as pool:
            tiles = list(pool.map(self._tile, range(head.entry.sequence // TILE)))
        joined = b"".join(tiles)
        leaves = [joined[at : at + 32] for at in range(0, len(joined), 32)]
        leaves += [bytes.fromhex(leaf) for leaf in head.tail] + [head.entry.leaf]
        if merkle_root(leaves) != head.head.root:
            raise CorpusError(
                f"the tiles below {tile_key(0).rpartition('/')[0]}/ do not lead to the root of {head.where}; "
                "run `perturb audit`, and restore them from a copy"
            )
        return leaves

    def try_append(
        self, last: LogRecord | None, new: NewEntry, *, signer: Signer | None, at: datetime
    ) -> LogRecord | None:
        """Append behind `last`, which `newest` returned. Returns None where another writer has that place."""
        if last is not None and (tile := last.full_tile) is not None:
            key = tile_key(last.entry.sequence // TILE)
            if not self.store.put_new(key, tile):
                raise CorpusError(f"{key} differs from the entries of the log; delete it, and run this again")
        record = next_record(last, new, signer, at)
        if not self.store.put_new(record.where, record.to_json()):
            return None
        self.store.put(_HINT, canonical_json({"sequence": record.entry.sequence}))
        return record

    def append(
        self,
        new: NewEntry,
        *,
        signer: Signer | None,
        at: datetime,
        check: Callable[[LogRecord | None], None] = lambda newest: None,
    ) -> LogRecord:
        """Append an entry behind the newest, whichever that is; return its record.

        Where one of the newest entries of its kind, or one that was appended meanwhile, is about the same document
        already, that one is returned: so a writer that was killed may append again. `check` is called with the newest
        entry before each try, and may raise.
        """
        last = self.newest()
        for seen in itertools.islice(self.back(last, new.kind), _LOOKED_THROUGH):
            if seen.entry.is_about(new):
                return seen
        for _ in range(_ATTEMPTS):
            check(last)
            if (record := self.try_append(last, new, signer=signer, at=at)) is not None:
                return record
            # One step, so that no entry that was appended meanwhile is passed over.
            last = self.record(0 if last is None else last.head.size)
            if last.entry.is_about(new):
                return last
        raise CorpusError(f"{new.key} could not be entered in the log: other writers were faster; run it again")

    def _last_place(self) -> int | None:
        """Return the number of the newest entry: the hint's, or one found by doubling steps from there."""
        known = self._hinted()
        step = 1
        while self._is_there(known + step):
            known, step = known + step, step * 2
        while step > 1:
            step //= 2
            if self._is_there(known + step):
                known += step
        return None if known < 0 else known

    def _hinted(self) -> int:
        """Return the number that the hint names if that entry exists, otherwise -1."""
        try:
            hint = json.loads(self.store.get(_HINT))
        except (ObjectMissing, ValueError, RecursionError):
            return -1
        place = hint.get("sequence") if isinstance(hint, dict) else None
        # A hint beyond the last number that a key can hold was not written by this program.
        if not isinstance(place, int) or not 0 <= place < 10**8:
            return -1
        return place if self._is_there(place) else -1

    def _is_there(self, place: int) -> bool:
        return self.store.head(log_key(place)) is not None

    def _tile(self, number: int) -> bytes:
        key = tile_key(number)
        try:
            return self.store.get(key)
        except ObjectMissing as error:
            raise CorpusError(f"{key} is missing from the log; restore it from a copy") from error


def parse_record(data: bytes, where: str) -> LogRecord:
    """Return an object of the log from its JSON. Raises CorpusError as `parse_document` does."""
    return parse_document(LogRecord, data, where)


def check_follows(before: LogRecord | None, record: LogRecord) -> None:
    """Raise CorpusError unless `record` is the entry behind `before` in one and the same tree."""
    size = 0 if before is None else before.head.size
    peaks = () if before is None else tuple(peak.hex() for peak in before.next_peaks)
    if record.entry.sequence != size or record.peaks != peaks:
        raise CorpusError(
            f"{record.where} does not follow from the entry before it: the log was forked, cut or reordered; "
            "restore it from a copy"
        )
    newest = {} if before is None else before.entry.newest
    if record.entry.newest != {**newest, record.entry.kind: size}:
        raise CorpusError(f"{record.where} does not say which entries of each kind are the newest before it")
    if before is not None and not before.entry.totals.is_within(record.entry.totals):
        raise CorpusError(f"{record.where} has smaller totals than the entry before it; restore it from a copy")
