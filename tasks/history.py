"""A miner's history: a query over the corpus' own metadata, so that there is no second state to keep right.

Rules. A challenge is *processed* by a miner that answered it with a body signed by its hotkey, whatever became of the
answer. It *counts* towards averages where at least one miner's answer was accepted: a challenge that nobody solved says
nothing about anybody. Whoever was asked and didn't answer has a score of 0 for it. A uid's history begins after the
last challenge at which another hotkey held that uid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from schemas.errors import CorpusError
from schemas.neuron import Neuron
from schemas.outcome import Outcome

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset

    Records: TypeAlias = pa.Table | pyarrow.dataset.Dataset

COLUMNS = ("round_id", "task_id", "netuid", "miner_uid", "miner_hotkey", "outcome", "body_sha256", "score")

_QUERY = """
WITH asked AS (
    -- A day that is sealed while its rounds are still there shows every record twice.
    SELECT DISTINCT task_id, round_id, miner_uid, miner_hotkey, score,
           body_sha256 IS NOT NULL AS answered, outcome = $accepted AS accepted
    FROM records
    WHERE netuid = $netuid AND outcome <> $not_asked
),
solved AS (SELECT DISTINCT task_id FROM asked WHERE accepted),
-- The last challenge at which a uid was held by a hotkey other than the one that holds it now.
current AS (SELECT uid, hotkey FROM neurons),
reset AS (
    SELECT current.uid, max(asked.round_id) AS round_id
    FROM asked JOIN current ON asked.miner_uid = current.uid AND asked.miner_hotkey <> current.hotkey
    GROUP BY current.uid
),
own AS (
    SELECT current.uid, asked.*, asked.task_id IN (SELECT task_id FROM solved) AS counts
    FROM asked
    JOIN current ON asked.miner_uid = current.uid AND asked.miner_hotkey = current.hotkey
    LEFT JOIN reset ON reset.uid = current.uid
    WHERE reset.round_id IS NULL OR asked.round_id > reset.round_id
),
ranked AS (
    SELECT *, row_number() OVER (PARTITION BY uid, counts ORDER BY round_id DESC, task_id DESC) AS age
    FROM own
)
SELECT current.uid, current.hotkey,
       count(ranked.task_id) AS asked,
       count(*) FILTER (ranked.answered) AS processed,
       count(*) FILTER (ranked.accepted) AS accepted,
       count(*) FILTER (ranked.counts AND ranked.age <= $window) AS counted,
       coalesce(avg(ranked.score) FILTER (ranked.counts AND ranked.age <= $window), 0) AS average
FROM current LEFT JOIN ranked ON ranked.uid = current.uid
GROUP BY current.uid, current.hotkey
ORDER BY current.uid
"""


@dataclass(frozen=True)
class MinerHistory:
    """What the corpus knows of one neuron since it holds its uid.

    `average` is the mean score over the last `counted` challenges that count, 0 where there are none.
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
    """The history of each of `neurons`, by uid, from a table or dataset of records (`COLUMNS` are read).

    `window` is how many of the latest challenges the average runs over. Rows in any order. Raises CorpusError where a
    column is missing.
    """
    import duckdb
    import pyarrow as pa

    missing = sorted(set(COLUMNS) - set(records.schema.names))
    if missing:
        raise CorpusError(f"the metadata has no column {', '.join(missing)}; give the corpus' own records")
    now = pa.table(
        {
            "uid": pa.array([neuron.uid for neuron in neurons], pa.int64()),
            "hotkey": pa.array([neuron.hotkey for neuron in neurons], pa.string()),
        }
    )
    with duckdb.connect(":memory:", config={"enable_external_access": False}) as database:
        database.register("records", records)
        database.register("neurons", now)
        rows = database.execute(
            _QUERY,
            {
                "accepted": str(Outcome.ACCEPTED),
                "not_asked": str(Outcome.NOT_ASKED),
                "netuid": netuid,
                "window": window,
            },
        ).fetchall()
    return [MinerHistory(*row) for row in rows]
