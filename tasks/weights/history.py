"""The history of a miner, as a query over the corpus' metadata: there is no second state that could disagree with it.

Rules. A miner has *processed* a challenge that it answered with a body signed by its hotkey, accepted or refused. A
challenge *counts* towards averages if at least one miner's answer was accepted: a challenge that no miner solved does
not distinguish between them. A miner that was asked and did not answer has a score of 0 for the challenge. The history
of a uid begins after the last challenge at which another hotkey held that uid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from perturb.schemas.errors import CorpusError
from perturb.schemas.neuron import Neuron
from perturb.schemas.outcome import Outcome

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset

    Records: TypeAlias = pa.Table | pyarrow.dataset.Dataset

COLUMNS = ("round_id", "netuid", "miner_uid", "miner_hotkey", "outcome", "body_sha256", "score")

_LOAD = """
CREATE TEMP TABLE judged AS
SELECT round_id, miner_uid, miner_hotkey, score, body_sha256 IS NOT NULL AS answered, outcome = $accepted AS accepted
FROM records WHERE netuid = $netuid AND outcome <> $not_asked
"""
_QUERY = """
-- A round is one challenge. Numbers instead of ids from here on: a year of records fits into memory then.
WITH rounds AS MATERIALIZED (
    SELECT round_id, row_number() OVER (ORDER BY round_id) AS number, bool_or(accepted) AS counts
    FROM judged GROUP BY round_id
),
-- Grouped, because a day that is sealed while its rounds are still there shows every record twice.
asked AS MATERIALIZED (
    SELECT neurons.uid, rounds.number, rounds.counts, judged.miner_hotkey = neurons.hotkey AS own,
           max(judged.score) AS score, bool_or(judged.answered) AS answered, bool_or(judged.accepted) AS accepted
    FROM judged
    JOIN neurons ON neurons.uid = judged.miner_uid
    JOIN rounds ON rounds.round_id = judged.round_id
    GROUP BY ALL
),
reset AS (SELECT uid, max(number) AS number FROM asked WHERE NOT own GROUP BY uid),
ranked AS (
    SELECT asked.*, row_number() OVER (PARTITION BY asked.uid, counts ORDER BY asked.number DESC) AS age
    FROM asked LEFT JOIN reset ON reset.uid = asked.uid
    WHERE own AND asked.number > coalesce(reset.number, 0)
)
SELECT neurons.uid, any_value(neurons.hotkey),
       count(ranked.number) AS asked,
       count(*) FILTER (ranked.answered) AS processed,
       count(*) FILTER (ranked.accepted) AS accepted,
       count(*) FILTER (ranked.counts AND ranked.age <= $window) AS counted,
       coalesce(avg(ranked.score) FILTER (ranked.counts AND ranked.age <= $window), 0) AS average
FROM neurons LEFT JOIN ranked ON ranked.uid = neurons.uid
GROUP BY neurons.uid
ORDER BY neurons.uid
"""


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
    records: "Records", neurons: Sequence[Neuron], *, netuid: int, window: int = 100
) -> list[MinerHistory]:
    """Return the history of each of `neurons`, by uid, from a table or dataset of records, of which `COLUMNS` are read.

    `window` is the number of latest challenges that the average is taken over. The order of rows does not matter.
    Raises CorpusError where a column is missing.
    """
    import duckdb
    import pyarrow as pa

    missing = sorted(set(COLUMNS) - set(records.schema.names))
    if missing:
        raise CorpusError(f"the metadata has no column {', '.join(missing)}; give the records of a corpus")
    now = pa.table(
        {
            "uid": pa.array([neuron.uid for neuron in neurons], pa.int64()),
            "hotkey": pa.array([neuron.hotkey for neuron in neurons], pa.string()),
        }
    )
    with duckdb.connect(":memory:", config={"enable_external_access": False}) as database:
        database.register("records", _stream(records))
        database.register("neurons", now)
        outcomes = {"accepted": str(Outcome.ACCEPTED), "not_asked": str(Outcome.NOT_ASKED)}
        database.execute(_LOAD, outcomes | {"netuid": netuid})
        rows = database.execute(_QUERY, {"window": window}).fetchall()
    return [MinerHistory(*row) for row in rows]


def _stream(records: "Records") -> "pa.RecordBatchReader":
    """One pass over `COLUMNS`, a few batches at a time: the default readahead of a scan holds gigabytes."""
    import pyarrow as pa

    if isinstance(records, pa.Table):
        return records.select(list(COLUMNS)).to_reader()
    return records.scanner(columns=list(COLUMNS), batch_size=2**16, batch_readahead=2, fragment_readahead=1).to_reader()
