"""Audits claims that an answer is a duplicate, against the records that they name."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta

from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.record import Row, record_day
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing

# What a claim is compared by, of both records.
COLUMNS = (
    *("record_id", "round_id", "created_at", "outcome", "margin", "response_ms", "original_sha256", "perturbed_sha256"),
    *("duplicate_of", "duplicate_round"),
)
# Rounds of several producers overlap, so the one that is committed first may have been made later, by minutes.
_OVERLAP = timedelta(hours=1)


class DuplicateAuditor:
    """Compares duplicates with the records that they name, wherever the corpus has these.

    A record that the corpus lacks is no fault: its round may have died after it claimed its answers, and a corpus may
    be a copy of some days.
    """

    def __init__(self, corpus: Corpus, live: Iterable[RoundRef]):
        self._corpus = corpus
        self._live = {ref.round_id: ref for ref in live}

    def faults(self, claims: Sequence[Row]) -> Iterator[tuple[Row, str]]:
        """Yield the rows among `claims`, each of them a duplicate with `COLUMNS`, that are wrong, each with a sentence.

        A record of a round that cannot be read is passed over; the audit of that round reports why. Raises StoreError
        when the store cannot be read.
        """
        by_round: dict[str, list[Row]] = defaultdict(list)
        for row in claims:
            if row["duplicate_of"] is None or row["duplicate_round"] is None:
                yield row, "it is a duplicate, but does not name the record and the round that had its pixels before"
            elif record_day(row["duplicate_of"]) is None:
                # No record has such an ID, wherever its round is.
                yield row, str(_fault(row, None))
            else:
                by_round[row["duplicate_round"]].append(row)
        for rounds, read in self._sources(by_round):
            named = [row for round_id in rounds for row in by_round[round_id]]
            try:
                earlier = read([row["duplicate_of"] for row in named])
            except (CorpusError, ObjectMissing, ObjectCorrupt):
                continue
            for row in named:
                if fault := _fault(row, earlier.get(row["duplicate_of"])):
                    yield row, fault

    def _sources(self, by_round: Mapping[str, Sequence[Row]]) -> Iterator[tuple[list[str], "_Read"]]:
        """Yield the rounds that one read of metadata covers, and that read."""
        by_day: dict[str, list[str]] = defaultdict(list)
        sealed: dict[str, Manifest] = {}
        for round_id, claims in by_round.items():
            if round_id in self._live:
                yield [round_id], _Read(self._corpus, self._live[round_id])
            elif (manifest := self._day_of(round_id, claims[0]["duplicate_of"])) is not None:
                sealed[manifest.attempt] = manifest
                by_day[manifest.attempt].append(round_id)
        for attempt, rounds in by_day.items():
            yield rounds, _Read(self._corpus, sealed[attempt])

    def _day_of(self, round_id: str, record_id: str) -> Manifest | None:
        """Return the sealed day that took in a round, found by the ID of one of its records; None if there is none."""
        try:
            days = self._corpus.days_of(record_id)
            return next((manifest for manifest in days if round_id in self._corpus.claims(manifest)), None)
        except (CorpusError, ObjectMissing, ObjectCorrupt):
            return None


class _Read:
    """A read of the records with given IDs from one live round or sealed day."""

    def __init__(self, corpus: Corpus, place: RoundRef | Manifest):
        self._corpus, self._place = corpus, place

    def __call__(self, record_ids: Sequence[str]) -> dict[str, Row]:
        import pyarrow as pa
        import pyarrow.dataset as ds

        if isinstance(self._place, RoundRef):
            rows = self._corpus.read_round(self._place).rows
        else:
            wanted = ds.field("record_id").isin(record_ids)
            try:
                table = self._corpus.metadata(self._place).to_table(columns=list(COLUMNS), filter=wanted)
            except (pa.ArrowInvalid, FileNotFoundError) as error:
                raise CorpusError(f"the metadata of {self._place.day} cannot be read: {error}") from error
            rows = table.to_pylist()
        return {row["record_id"]: row for row in rows}


def _fault(row: Row, earlier: Row | None) -> str | None:
    name = f"record {row['duplicate_of']} of round {row['duplicate_round']}"
    if earlier is None or earlier["round_id"] != row["duplicate_round"]:
        return f"it is a duplicate of {name}, which that round does not have"
    if earlier["perturbed_sha256"] != row["perturbed_sha256"]:
        return f"it is a duplicate of {name}, which has other pixels"
    if earlier["round_id"] == row["round_id"]:
        order = earlier["response_ms"] <= row["response_ms"]
        return None if order else f"it is a duplicate of {name}, which came later"
    taken = earlier["outcome"] == Outcome.ACCEPTED or _paid(earlier)
    if not taken:
        return f"it is a duplicate of {name}, which was refused itself as {earlier['outcome']}"
    # The day that a paid duplicate was sealed in has its pixels for any photograph.
    if not _paid(row) and earlier["original_sha256"] != row["original_sha256"]:
        return f"it is a duplicate of {name}, which answers another photograph"
    if earlier["created_at"] > row["created_at"] + _OVERLAP:
        return f"it is a duplicate of {name}, which was made later"
    return None


def _paid(row: Row) -> bool:
    """Whether a duplicate was accepted in its round, and its pixels once more in another round of the day."""
    return row["outcome"] == Outcome.DUPLICATE and row["margin"] is not None
