"""The history of a miner: counts from the running state of miners, and an average over its newest challenges.

Rules. A miner has *processed* a challenge that it answered with a body signed by its hotkey, accepted or refused. A
challenge *counts* towards averages if at least one miner's answer was accepted: a challenge that no miner solved does
not distinguish between them. A miner that was asked and did not answer has a score of 0 for the challenge. The history
of a uid begins after the last challenge at which another hotkey held that uid. Challenges are taken in the order of the
corpus: by the day that they are sealed in, within it by round ID, and live rounds last.

The counts stand in the state of the newest sealed day (`perturb.sinks.corpus.miner_state`), to which live rounds are
added. Records are read for averages only: of live rounds, and of as many newest days as hold the challenges that are
averaged over.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from math import fsum
from typing import TYPE_CHECKING, Protocol, TypeAlias

from perturb.schemas.errors import CorpusError
from perturb.schemas.neuron import Neuron
from perturb.schemas.outcome import Outcome
from perturb.sinks.corpus.miner_state import COLUMNS as _COUNTED
from perturb.sinks.corpus.miner_state import AskedRounds, MinerState, Tenure, advance

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset

    Records: TypeAlias = pa.Table | pyarrow.dataset.Dataset

COLUMNS = (*_COUNTED, "score")

_SCORES = """
-- A round is one challenge. Grouped, because a day that is sealed while its rounds are still there shows every record
-- twice.
WITH counting AS (
    SELECT round_id FROM records WHERE netuid = $netuid AND outcome <> $not_asked
    GROUP BY round_id HAVING bool_or(outcome = $accepted)
), scored AS (
    SELECT miner_uid, round_id, max(score) AS score
    FROM records JOIN wanted ON wanted.uid = records.miner_uid AND wanted.hotkey = records.miner_hotkey
    WHERE netuid = $netuid AND outcome <> $not_asked AND round_id IN (SELECT round_id FROM counting)
    GROUP BY miner_uid, round_id
)
SELECT miner_uid, score FROM (
    SELECT scored.*, missing, row_number() OVER (PARTITION BY miner_uid ORDER BY round_id DESC) AS age
    FROM scored JOIN wanted ON wanted.uid = scored.miner_uid
) WHERE age <= missing
"""


class History(Protocol):
    """The records of a corpus, the newest first, with the state of miners before them."""

    @property
    def live(self) -> "Records":
        """The records of live rounds, with `COLUMNS`."""
        ...

    @property
    def state(self) -> MinerState:
        """The state of miners at the end of the newest sealed day; empty before the first."""
        ...

    def day(self, day: date) -> tuple["Records", MinerState]:
        """Return the records of a sealed day with `COLUMNS`, and the state of miners at the end of the day before."""
        ...


@dataclass(frozen=True)
class WholeHistory:
    """Records that are all taken as live, so that nothing else is known about miners."""

    live: "Records"
    state: MinerState = field(default_factory=dict)

    def day(self, day: date) -> tuple["Records", MinerState]:
        """Raise CorpusError: there are no sealed days."""
        raise CorpusError(f"{day} is not among these records")


@dataclass(frozen=True)
class MinerHistory:
    """Counts of challenges of one neuron since it holds its uid.

    `average` is the mean score, 0 to 1, over the last `counted` challenges that count; 0 if `counted` is 0.
    """

    uid: int
    hotkey: str
    asked: int
    processed: int
    accepted: int
    counted: int
    average: float


def miner_histories(
    history: History, neurons: Sequence[Neuron], *, netuid: int, window: int = 100
) -> list[MinerHistory]:
    """Return the history of each of `neurons`, by uid.

    `window` is the number of latest challenges that the average is taken over. The order of rows does not matter. Days
    are read back from the newest one until each neuron has its challenges. Raises CorpusError where a column is
    missing, and where records and state contradict each other.
    """
    live = _rows(history.live)
    asked = AskedRounds()
    asked.add(live)
    now = advance(history.state, asked, day=None)
    tenures = {
        neuron.uid: tenure
        for neuron in neurons
        if (tenure := now.get((netuid, neuron.uid))) is not None and tenure.miner_hotkey == neuron.hotkey
    }
    wanted = {uid: (tenure.miner_hotkey, min(window, tenure.counted)) for uid, tenure in tenures.items()}
    scores: dict[int, list[float]] = defaultdict(list)
    missing = _take(live, wanted, scores, netuid)
    state, last = history.state, date.max
    while missing:
        # The newest challenges that a miner lacks are in the day that the state before the last day read names.
        days = {uid: tenure.last_counted for uid in missing if (tenure := state.get((netuid, uid))) is not None}
        day = max((day for day in days.values() if day is not None), default=date.max)
        if len(days) < len(missing) or not day < last:
            uid = next(iter(missing.keys() - days.keys() or missing))
            raise CorpusError(
                f"the state of miners says that uid {uid} has challenges that count before {last}, and no day has "
                "them; run `perturb audit`"
            )
        records, state = history.day(day)
        missing, last = _take(_rows(records), missing, scores, netuid), day
    return [_history(neuron, tenures.get(neuron.uid), scores[neuron.uid]) for neuron in sorted(neurons, key=_uid)]


_Wanted: TypeAlias = Mapping[int, tuple[str, int]]


def _take(records: "pa.Table", wanted: _Wanted, scores: Mapping[int, list[float]], netuid: int) -> _Wanted:
    """Add the newest scores of `records` to those of each wanted uid; return how many each hotkey still lacks.

    All challenges of a hotkey among the newest that count are its own at that uid without a break, because `wanted`
    asks for no more than it has.
    """
    import duckdb
    import pyarrow as pa

    asked = [(uid, hotkey, count) for uid, (hotkey, count) in wanted.items() if count]
    if not asked or not records.num_rows:
        return {uid: (hotkey, count) for uid, hotkey, count in asked}
    uids, hotkeys, counts = zip(*asked, strict=True)
    table = pa.table({"uid": pa.array(uids, pa.int64()), "hotkey": list(hotkeys), "missing": list(counts)})
    with duckdb.connect(":memory:", config={"enable_external_access": False}) as database:
        database.register("records", records)
        database.register("wanted", table)
        outcomes = {"accepted": str(Outcome.ACCEPTED), "not_asked": str(Outcome.NOT_ASKED)}
        found = database.execute(_SCORES, outcomes | {"netuid": netuid}).fetchall()
    for uid, score in found:
        scores[uid].append(score)
    taken = Counter(uid for uid, _ in found)
    return {uid: (hotkey, count - taken[uid]) for uid, hotkey, count in asked if count > taken[uid]}


def _history(neuron: Neuron, tenure: Tenure | None, scores: Sequence[float]) -> MinerHistory:
    if tenure is None:
        return MinerHistory(neuron.uid, neuron.hotkey, 0, 0, 0, 0, 0.0)
    # `fsum`, so that the order in which challenges were read does not change the last digit.
    average = fsum(scores) / len(scores) if scores else 0.0
    counts = (tenure.asked, tenure.processed, tenure.accepted)
    return MinerHistory(neuron.uid, neuron.hotkey, *counts, len(scores), average)


def _uid(neuron: Neuron) -> int:
    return neuron.uid


def _rows(records: "Records") -> "pa.Table":
    import pyarrow as pa

    missing = sorted(set(COLUMNS) - set(records.schema.names))
    if missing:
        raise CorpusError(f"the metadata has no column {', '.join(missing)}; give the records of a corpus")
    return records.select(list(COLUMNS)) if isinstance(records, pa.Table) else records.to_table(columns=list(COLUMNS))
