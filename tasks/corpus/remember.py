"""Answers count once: verdicts in the light of what earlier rounds accepted for the same photograph."""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.challenge import Challenge
from perturb.schemas.errors import CorpusError, StoreError
from perturb.schemas.outcome import Outcome
from perturb.schemas.record import Row, record_id
from perturb.schemas.response import Response
from perturb.schemas.verdict import EarlierAnswer, Verdict
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.answers import SCHEMA, AnswerLog
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.base import ObjectMissing

log = logging.getLogger(__name__)
# Each failed attempt is another round on the same photograph that was claimed at the same moment.
_ATTEMPTS = 20
_COLUMNS = ["original_sha256", "perturbed_sha256", "record_id", "round_id", "created_at", "outcome", "margin"]

Verify = Callable[[Mapping[str, EarlierAnswer]], list[Verdict]]


def verify_once(
    corpus: Corpus, challenge: Challenge, responses: Sequence[Response], verify: Verify, *, days: int
) -> list[Verdict]:
    """Return the verdicts of `verify`, which is given the answers that other rounds accepted in the last `days`.

    The accepted answers among them are claimed before this returns: no other round on this store, of this producer or
    of another one, accepts the same pixels for the photograph afterwards. `verify` is called again where a round
    claimed some of them at the same time. With 0 days nothing is remembered. Raises what `verify` raises, StoreError
    when the store fails, and CorpusError when the state is damaged.
    """
    if not days:
        return verify({})
    answers = AnswerLog(corpus.store, days=days)
    verdicts: list[Verdict] | None = None
    accepted: dict[str, str] = {}
    for _ in range(_ATTEMPTS):
        past = answers.read(challenge.task.original_sha256, round_id=challenge.round_id, now=challenge.created_at)
        if verdicts is None or accepted.keys() & past.earlier.keys():
            verdicts = verify(past.earlier)
            accepted = _accepted(challenge, responses, verdicts)
        if answers.claim(past, accepted):
            return verdicts
    photograph = challenge.task.original_sha256
    raise StoreError(f"other rounds on photograph {photograph} were faster {_ATTEMPTS} times; run the step again")


def _accepted(challenge: Challenge, responses: Sequence[Response], verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Return the record ID of each accepted answer by its pixel identity."""
    made, task_id = challenge.created_at, challenge.task.task_id
    return {
        verdict.perturbed_sha256: record_id(made, task_id, response.miner_hotkey, verdict.perturbed_sha256)
        for response, verdict in zip(responses, verdicts, strict=True)
        if verdict.accepted and verdict.perturbed_sha256 is not None
    }


def remember_committed(corpus: Corpus, *, days: int, now: datetime | None = None) -> int:
    """Derive what was accepted in the last `days` from the committed rounds, unless that was done; return the records.

    A producer begins with it. A note in the store says for how many days the state is complete; where it is missing, as
    in a corpus that was restored without the state, or where `days` was raised, the metadata of these days are read.
    Where `days` was lowered the note is, because the state is from now on complete for fewer days.
    Raises StoreError when the store fails, and CorpusError when the corpus contradicts itself.
    """
    now = now or datetime.now(UTC)
    noted, records = _noted_days(corpus), 0
    if noted == days:
        return 0
    if noted < days:
        answers, since = AnswerLog(corpus.store, days=days), (now - timedelta(days=days)).date()
        sealed = {manifest.day for manifest in corpus.newest_days(since, most=days + 1)}
        for day in sorted({*sealed, *corpus.round_days()}):
            if day >= since:
                records += _remember_day(corpus, answers, day, now)
    corpus.store.put(keys.ANSWERS_NOTE, canonical_json({"days": days}))
    if records:
        log.info("remembered %d accepted answers of the last %d days", records, days)
    return records


def _noted_days(corpus: Corpus) -> int:
    try:
        noted = json.loads(corpus.store.get(keys.ANSWERS_NOTE))
        return int(noted["days"])
    except ObjectMissing:
        return 0
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{keys.ANSWERS_NOTE} is not readable; delete it, and it is made again") from error


def _remember_day(corpus: Corpus, answers: AnswerLog, day: date, now: datetime) -> int:
    by_photograph: dict[str, list[Row]] = defaultdict(list)
    for row in corpus.table(columns=_COLUMNS, days=[day]).to_pylist():
        # A duplicate that was measured was accepted in its round, and its pixels again in another one of the day.
        if row["outcome"] == Outcome.ACCEPTED or (row["outcome"] == Outcome.DUPLICATE and row["margin"] is not None):
            by_photograph[row["original_sha256"]].append(row)
    for original, rows in by_photograph.items():
        _remember_photograph(answers, original, rows, now)
    return sum(map(len, by_photograph.values()))


def _remember_photograph(answers: AnswerLog, original: str, rows: Sequence[Row], now: datetime) -> None:
    for _ in range(_ATTEMPTS):
        past = answers.read(original, round_id="", now=now)
        known = set(past.table["record_id"].to_pylist())
        missing = [
            {
                "perturbed_sha256": bytes.fromhex(row["perturbed_sha256"]),
                "record_id": bytes.fromhex(row["record_id"]),
                "round_id": row["round_id"],
                "created_at": row["created_at"],
            }
            for row in rows
            if bytes.fromhex(row["record_id"]) not in known
        ]
        if not missing or answers.add(past, pa.Table.from_pylist(missing, schema=SCHEMA)):
            return
    raise StoreError(f"the answers to photograph {original} changed {_ATTEMPTS} times; run the command again")
