"""The state of each miner at the end of a sealed day: since when it holds its uid, and its challenges since then.

    rounds = AskedRounds()
    rounds.add(rows)                                 # all rows of the day, in any order
    state = advance(state_of_the_day_before, rounds, day=day)

A challenge is a round. A miner was *asked* it unless its outcome is `not_asked`, has *processed* it when it answered
with a body signed by its hotkey, and its challenge *counts* if a miner's answer was accepted. What a hotkey did at a
uid is forgotten at the next challenge at which another hotkey holds the uid.

Challenges are taken in the order of the corpus: by the day that they are sealed in, within it by round ID. So the state
follows from the state of the day before and the rows of the day, whatever came late.
"""

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields, replace
from datetime import date, datetime
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.record import record_schema

SCHEMA = pa.schema(
    [
        ("netuid", pa.int64()),
        ("miner_uid", pa.int64()),
        ("miner_hotkey", pa.string()),
        ("since", pa.timestamp("us", tz="UTC")),
        ("since_round", pa.string()),
        ("asked", pa.int64()),
        ("processed", pa.int64()),
        ("accepted", pa.int64()),
        ("counted", pa.int64()),
        ("last_counted", pa.date32()),
    ]
)
#: The columns of a record that `AskedRounds` reads.
COLUMNS = ("round_id", "created_at", "netuid", "miner_uid", "miner_hotkey", "outcome", "body_sha256")
_PLACE = ("netuid", "miner_uid")
_ASKED = pa.schema([record_schema().field(name) for name in COLUMNS])


@dataclass(frozen=True)
class Tenure:
    """The challenges of one hotkey at one uid, without a break by another hotkey.

    `since` is when the first of them was made, `since_round` its round. `counted` of the `asked` count towards
    averages; `last_counted` is the sealed day that has the last of these, None where none counts or is not sealed yet.
    """

    netuid: int
    miner_uid: int
    miner_hotkey: str
    since: datetime
    since_round: str
    asked: int
    processed: int
    accepted: int
    counted: int
    last_counted: date | None


MinerState = Mapping[tuple[int, int], Tenure]
"""Tenures by subnet and uid; the latest one of each uid."""


class AskedRounds:
    """The rows of many rounds, reduced to what the state of miners depends on."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def add(self, rows: pa.Table) -> None:
        """Add rows that have `COLUMNS`. A row that is added twice counts once."""
        self._tables.append(rows.select(COLUMNS).replace_schema_metadata(None))

    def challenges(self) -> pa.Table:
        """Return one row for each challenge of each uid, those of one uid as neighbours in the order of round IDs.

        `contested` tells that several hotkeys held the uid in it, `counted` that it counts towards averages.
        """
        rows = pa.concat_tables([pa.Table.from_batches([], _ASKED), *self._tables]).filter(
            pc.field("outcome") != str(Outcome.NOT_ASKED)
        )
        rows = rows.append_column("processed", pc.is_valid(rows["body_sha256"]))
        rows = rows.append_column("accepted", pc.equal(rows["outcome"], str(Outcome.ACCEPTED)))
        counted = rows.group_by(["netuid", "round_id"], use_threads=False).aggregate([("accepted", "any")])
        counted = counted.rename_columns(["netuid", "round_id", "counted"])
        own = rows.group_by([*_PLACE, "round_id"], use_threads=False).aggregate(
            [
                ("miner_hotkey", "first"),
                ("miner_hotkey", "count_distinct"),
                ("created_at", "min"),
                ("processed", "any"),
                ("accepted", "any"),
            ]
        )
        own = own.rename_columns([name.removesuffix("_any").removesuffix("_first") for name in own.column_names])
        own = own.append_column("contested", pc.greater(own["miner_hotkey_count_distinct"], 1))
        return own.join(counted, ["netuid", "round_id"]).sort_by(
            [(name, "ascending") for name in [*_PLACE, "round_id"]]
        )


def advance(state: MinerState, rounds: AskedRounds, *, day: date | None) -> dict[tuple[int, int], Tenure]:
    """Return the state after the rounds of a sealed `day`, or after live rounds (None)."""
    after, challenges = dict(state), rounds.challenges()
    if not challenges.num_rows:
        return after
    places = np.stack([challenges[name].to_numpy() for name in _PLACE])
    starts = np.flatnonzero(np.append(True, (places[:, 1:] != places[:, :-1]).any(axis=0)))
    for start, end in pairwise([*starts.tolist(), challenges.num_rows]):
        place = (int(places[0, start]), int(places[1, start]))
        tenure = _extended(after.pop(place, None), place, challenges.slice(start, end - start), day=day)
        if tenure is not None:
            after[place] = tenure
    return after


def _extended(
    before: Tenure | None, place: tuple[int, int], challenges: pa.Table, *, day: date | None
) -> Tenure | None:
    """Return the tenure of a uid after more challenges, or None where several hotkeys held it in the last of them."""
    held = pc.and_(
        pc.equal(challenges["miner_hotkey"], challenges["miner_hotkey"][-1]), pc.invert(challenges["contested"])
    )
    breaks = np.flatnonzero(~held.to_numpy())
    if breaks.size:
        before, challenges = None, challenges.slice(int(breaks[-1]) + 1)
    if not challenges.num_rows:
        return None
    hotkey = challenges["miner_hotkey"][0].as_py()
    if before is None or before.miner_hotkey != hotkey:
        since, since_round = challenges["created_at_min"][0].as_py(), challenges["round_id"][0].as_py()
        before = Tenure(*place, hotkey, since, since_round, 0, 0, 0, 0, None)
    counts = {name: int(np.count_nonzero(challenges[name].to_numpy())) for name in ("processed", "accepted", "counted")}
    return replace(
        before,
        asked=before.asked + challenges.num_rows,
        processed=before.processed + counts["processed"],
        accepted=before.accepted + counts["accepted"],
        counted=before.counted + counts["counted"],
        last_counted=day if counts["counted"] else before.last_counted,
    )


def state_table(state: MinerState) -> pa.Table:
    """Return a state as a table of `SCHEMA`, by subnet and uid."""
    names = [field.name for field in fields(Tenure)]
    columns = list(zip(*(astuple(state[place]) for place in sorted(state)), strict=True)) or [()] * len(names)
    return pa.table(
        [pa.array(column, SCHEMA.field(name).type) for name, column in zip(names, columns, strict=True)], SCHEMA
    )


def parse_state(table: pa.Table, where: str) -> dict[tuple[int, int], Tenure]:
    """Return the state that a table holds. Raises CorpusError for other columns and for a uid that stands twice."""
    if table.schema.remove_metadata() != SCHEMA:
        raise CorpusError(f"{where} has columns {', '.join(table.schema.names)}; restore it from a copy")
    state: dict[tuple[int, int], Tenure] = {}
    for row in table.to_pylist():
        tenure = Tenure(**row)
        if state.setdefault((tenure.netuid, tenure.miner_uid), tenure) is not tenure:
            raise CorpusError(f"{where} has uid {tenure.miner_uid} of subnet {tenure.netuid} twice; restore it")
    return state


def state_fault(stated: MinerState, expected: MinerState) -> str | None:
    """Return the first place at which a state does not follow from the day before and the records; None if it does."""
    for netuid, uid in sorted({*stated, *expected}):
        one, other = stated.get((netuid, uid)), expected.get((netuid, uid))
        if one == other:
            continue
        if one is None or other is None:
            there, what = ("no", "one") if one is None else ("a", "none")
            return f"it has {there} history of uid {uid}, from the day before and the records follows {what}"
        names = [name for name, value in asdict(one).items() if value != getattr(other, name)]
        return (
            f"{names[0]} of uid {uid} is {getattr(one, names[0])}, from the day before and the records follows "
            f"{getattr(other, names[0])}"
        )
    return None
