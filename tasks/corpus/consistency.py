"""Proofs that the log only grew: that a later head's tree begins with an earlier one's."""

from typing import Annotated, Literal

from perturb.schemas.errors import CorpusError
from perturb.schemas.trust import Trust
from perturb.sinks.formats.fields import Hex64
from perturb.sinks.formats.version import FORMAT, Document, parse_document
from perturb.sinks.log.entry import Head, LogRecord
from perturb.sinks.log.log import Log
from perturb.sinks.log.tree import appended, consistency_path, is_consistent, root_of_peaks

# So many heads are compared with a root before the whole log is. A root on chain is seldom older.
_NEWEST_HEADS = 8


class ConsistencyProof(Document):
    """Two heads of one log, and the hashes that show it (RFC 9162, section 2.1.4)."""

    kind: Literal["consistency-proof"] = "consistency-proof"
    old: Head
    new: Head
    path: tuple[Annotated[str, Hex64], ...]

    def faults(self, trust: Trust) -> list[str]:
        """Return what is wrong: the new tree does not begin with the old one, or the new head does not count."""
        faults = []
        if not is_consistent(self.old.size, self.old.root, self.new.size, self.new.root, self.path):
            faults.append(
                f"the log of {self.new.size} entries does not begin with that of {self.old.size}: it was forked, cut "
                "or reordered in between"
            )
        faults += [
            f"the head over {head.size} entries does not count: {refusal}"
            for head in (self.old, self.new)
            if (refusal := head.refusal(trust))
        ]
        return faults


class HeadFile(Document):
    """A signed head of the log in a file of its own."""

    kind: Literal["log-head"] = "log-head"
    head: Head


def prove_consistency(log: Log, old_size: int, new_size: int | None = None) -> ConsistencyProof:
    """Return the proof that the log over `new_size` entries (default: all) begins with that over `old_size`.

    Raises CorpusError when the log does not have so many entries.
    """
    newest = log.newest()
    length = 0 if newest is None else newest.head.size
    later = length if new_size is None else new_size
    if newest is None or not 1 <= old_size <= later <= length:
        raise CorpusError(
            f"the log has {length} entries; asked for were {old_size} and {later}; accepted: 1 <= OLD <= NEW <= "
            f"{length}"
        )
    old, new = log.record(old_size - 1), newest if later == length else log.record(later - 1)
    path = consistency_path(log.leaves(new), old_size)
    return ConsistencyProof(format=FORMAT, old=old.head, new=new.head, path=tuple(path))


def plain_root(root: str) -> str:
    """Return a root as the log writes it: 64 hex digits without `0x` or `sha256:` before them."""
    return root.removeprefix("sha256:").removeprefix("0x").lower()


def length_at(log: Log, newest: LogRecord, root: str) -> int | None:
    """Return how many entries the log up to `newest` had when its root was `root`, or None where it never was.

    The newest heads are compared first; only for an older root are the leaves of all entries read.
    """
    wanted = plain_root(root)
    last = newest.entry.sequence
    for place in range(last, max(last - _NEWEST_HEADS, -1), -1):
        if (newest if place == last else log.record(place)).head.root == wanted:
            return place + 1
    peaks: list[bytes] = []
    for size, leaf in enumerate(log.leaves(newest)):
        peaks = appended(peaks, size, leaf)
        if root_of_peaks(peaks) == wanted:
            return size + 1
    return None


def root_fault(log: Log, root: str, whose: str) -> str | None:
    """Return a sentence where the log never had `root`, which `whose` names; None where it had.

    Raises CorpusError for a log that is invalid.
    """
    newest = log.newest()
    if newest is not None and length_at(log, newest, root) is not None:
        return None
    length = 0 if newest is None else newest.head.size
    return (
        f"the log of {length} entries never had root {plain_root(root)} ({whose}): it was forked, cut or replaced "
        "since, or the root is another corpus'; restore the log from a copy, or name the store that the root is of"
    )


def parse_consistency(data: bytes, where: str) -> ConsistencyProof:
    """Return a consistency proof from the bytes of its file. Raises CorpusError as `parse_document` does."""
    return parse_document(ConsistencyProof, data, where, hint="it is made by `perturb log --consistency OLD NEW`")


def parse_head(data: bytes, where: str) -> Head:
    """Return the head in a file. Raises CorpusError as `parse_document` does."""
    return parse_document(HeadFile, data, where, hint="it is made by `perturb log --head`").head
