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

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from datetime import date, datetime
from typing import NamedTuple

import pyarrow as pa

from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.record import Row

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


class _Asked(NamedTuple):
    created_at: datetime
    netuid: int
    uid: int
    hotkey: str
    answered: bool
    accepted: bool


class AskedRounds:
    """The rows of many rounds, reduced to what the state of miners depends on."""

    def __init__(self) -> None:
        self._rounds: dict[str, list[_Asked]] = defaultdict(list)

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows that have `COLUMNS`. A row that is added twice counts once."""
        for row in rows:
            outcome = row["outcome"]
            if outcome != Outcome.NOT_ASKED:
                self._rounds[row["round_id"]].append(
                    _Asked(
                        row["created_at"],
                        row["netuid"],
                        row["miner_uid"],
                        row["miner_hotkey"],
                        row["body_sha256"] is not None,
                        outcome == Outcome.ACCEPTED,
                    )
                )

    def in_order(self) -> Iterable[tuple[str, list[_Asked]]]:
        """Return the rounds by their IDs."""
        return sorted(self._rounds.items())


def advance(state: MinerState, rounds: AskedRounds, *, day: date | None) -> dict[tuple[int, int], Tenure]:
    """Return the state after the rounds of a sealed `day`, or after live rounds (None)."""
    after = dict(state)
    for round_id, asked in rounds.in_order():
        counting = {one.netuid for one in asked if one.accepted}
        places: dict[tuple[int, int], list[_Asked]] = defaultdict(list)
        for one in asked:
            places[one.netuid, one.uid].append(one)
        for place, ours in places.items():
            if len({one.hotkey for one in ours}) > 1:
                # Two hotkeys at one uid in one challenge: neither holds it afterwards.
                after.pop(place, None)
            else:
                after[place] = _extended(after.get(place), round_id, ours, counts=place[0] in counting, day=day)
    return after


def _extended(
    before: Tenure | None, round_id: str, asked: Sequence[_Asked], *, counts: bool, day: date | None
) -> Tenure:
    """Return the tenure of a uid after one more challenge, which all of `asked` are of the same record."""
    one = asked[0]
    if before is None or before.miner_hotkey != one.hotkey:
        before = Tenure(one.netuid, one.uid, one.hotkey, one.created_at, round_id, 0, 0, 0, 0, None)
    return replace(
        before,
        asked=before.asked + 1,
        processed=before.processed + any(again.answered for again in asked),
        accepted=before.accepted + any(again.accepted for again in asked),
        counted=before.counted + counts,
        last_counted=day if counts else before.last_counted,
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
