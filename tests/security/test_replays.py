"""An answer counts once: the pixels of an accepted answer are a duplicate in later rounds on the same photograph."""

import dataclasses
import hashlib
import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from perturb.models.judge.judge import NoJudge
from perturb.schemas.challenge import Challenge
from perturb.schemas.errors import CorpusError
from perturb.schemas.image import encode_png
from perturb.schemas.record import Record, make_record
from perturb.schemas.response import Response
from perturb.schemas.settings import SealSettings
from perturb.schemas.verdict import EarlierAnswer, Verdict
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.answers import AnswerLog
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.base import Buffer, Entry, ObjectWriter, Store
from perturb.sinks.stores.directory import DirectoryStore
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.commit import commit_records, commit_round
from perturb.tasks.corpus.gc import collect_garbage
from perturb.tasks.corpus.remember import remember_committed, verify_once
from perturb.tasks.corpus.seal import seal_day
from perturb.tasks.verify.reverify import refusal_faults, reverify_pairs
from perturb.tasks.verify.round import verify
from perturb.tasks.verify.score import score
from tests.support import verification_rounds as rounds
from tests.support.exports import no_fsync
from tests.support.small_corpora import small, whats

__all__ = ["no_fsync"]
pytestmark = pytest.mark.usefixtures("no_fsync")

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAYS = 90


# One photograph, real answers, the real gates


def _challenge(number: int, at: datetime) -> Challenge:
    return dataclasses.replace(rounds.challenge(), round_id=f"{at:%Y%m%dT%H%M%S%f}Z-{number:08x}", created_at=at)


def _produce(corpus: Corpus, number: int, bodies: Mapping[str, bytes], at: datetime, *, days: int = DAYS) -> list[str]:
    """Verify and commit a round on the photograph; `bodies` are the answers by their miner. Returns the outcomes."""
    challenge = _challenge(number, at)
    responses = [
        Response(place, miner, 100.0 + place, body, hashlib.sha256(body).hexdigest())
        for place, (miner, body) in enumerate(bodies.items())
    ]

    def verified(earlier: Mapping[str, EarlierAnswer]) -> list[Verdict]:
        return verify(
            challenge,
            responses,
            classifier=rounds.classifier(),
            judge=NoJudge(),
            settings=rounds.SETTINGS,
            earlier=earlier,
        )

    verdicts = verify_once(corpus, challenge, responses, verified, days=days)
    scores = [
        score(verdict, challenge.task, response.response_ms, policy="grid-1")
        for verdict, response in zip(verdicts, responses, strict=True)
    ]
    commit_round(corpus, challenge, responses, verdicts, scores, netuid=26, block=1, validator_hotkey="validator")
    return [verdict.outcome for verdict in verdicts]


def _reverify(pairs: Sequence[Any]) -> list[str | None]:
    return reverify_pairs(pairs, classifier=rounds.classifier(), settings=rounds.SETTINGS)


@pytest.mark.slow
def test_a_replay_is_a_duplicate_whoever_sends_it_until_the_window_ends(tmp_path: Path) -> None:
    corpus = Corpus(DirectoryStore(tmp_path))
    answer, other = encode_png(rounds.flipped()), encode_png(rounds.attack(want=3.0, seed=1))
    assert _produce(corpus, 1, {"alice": answer}, NOON) == ["accepted"]
    later = NOON + timedelta(days=20)
    # Another file of the same pixels is a replay too.
    buffer = io.BytesIO()
    Image.fromarray(rounds.flipped()).save(buffer, "PNG", compress_level=1)
    assert buffer.getvalue() != answer
    bodies = {"mallory": answer, "alice": answer, "eve": buffer.getvalue(), "bob": other}
    assert _produce(corpus, 2, bodies, later) == ["duplicate", "duplicate", "duplicate", "accepted"]
    assert _produce(corpus, 3, {"bob": other}, later + timedelta(minutes=1)) == ["duplicate"]
    assert _produce(corpus, 4, {"mallory": answer}, NOON + timedelta(days=DAYS, seconds=1)) == ["accepted"]
    assert _produce(corpus, 5, {"mallory": answer}, NOON + timedelta(days=DAYS, seconds=2)) == ["duplicate"]

    rows = {(row["round_id"][-1], row["miner_hotkey"]): row for row in corpus.table().to_pylist()}
    first = rows["1", "alice"]
    for miner in ("mallory", "alice", "eve"):
        assert rows["2", miner]["duplicate_of"] == first["record_id"]
        assert rows["2", miner]["duplicate_round"] == first["round_id"]
        assert first["record_id"] in rows["2", miner]["detail"]
        assert refusal_faults(rows["2", miner]) == []
    report = audit(corpus, reverify=_reverify)
    assert report.holds, whats(report)
    for day in ((NOON).date(), later.date(), (NOON + timedelta(days=DAYS)).date()):
        seal_day(corpus, day, settings=SealSettings(grace_minutes=0), early=True, reverify=_reverify)
    report = audit(Corpus(corpus.store), reverify=_reverify)
    assert (report.days, report.rounds, whats(report)) == (3, 0, "")
    # One day alone agrees as well: the earlier record is read where it is.
    assert audit(Corpus(corpus.store), day=later.date(), reverify=_reverify).holds


@pytest.mark.slow
def test_without_a_window_only_the_round_itself_is_compared(tmp_path: Path) -> None:
    corpus = Corpus(DirectoryStore(tmp_path))
    answer = encode_png(rounds.flipped())
    for number in (1, 2):
        assert _produce(corpus, number, {"alice": answer}, NOON, days=0) == ["accepted"]
    assert not list(corpus.store.entries(keys.ANSWERS))


# Claims that cannot be true


def _replayed(corpus: Corpus, **changes: Any) -> str:
    """Commit a round with three accepted answers, and a day later one with a replay whose row has `changes`."""
    made = small(1)
    first = commit_round(
        corpus, made.challenge, made.responses, made.verdicts, made.scores, netuid=26, block=1, validator_hotkey="v"
    )
    accepted = next(record for record in first.records if record.outcome == "accepted")
    refused = next(record for record in first.records if record.outcome != "accepted")
    changes = {name: value.format(refused=refused.record_id) if isinstance(value, str) else value
               for name, value in changes.items()}  # fmt: skip
    again = small(1, created_at=NOON + timedelta(days=1))
    task = again.challenge.task.model_copy(update={"task_salt": "f" * 32}).as_task()
    challenge = dataclasses.replace(again.challenge, task=task, round_id="20260201T120000000000Z-00000001")
    verdict = Verdict(
        outcome="duplicate",
        detail="the same pixels",
        perturbed_sha256=accepted.perturbed_sha256,
        duplicate_of=accepted.record_id,
        duplicate_round=accepted.round_id,
    )
    zero = again.scores[-1]
    assert zero.score == 0
    record = make_record(
        challenge, again.responses[0], verdict, zero, netuid=26, block=1, validator_hotkey="v"
    ).model_copy(update=changes)
    record = Record.model_validate(record.model_dump())
    commit_records(corpus, [record], challenge.png, {})
    return whats(audit(corpus))


def test_a_true_claim_is_no_fault(tmp_path: Path) -> None:
    assert _replayed(Corpus(DirectoryStore(tmp_path))) == ""


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"duplicate_of": "0" * 32}, "which that round does not have"),
        ({"duplicate_of": "{refused}"}, "which has other pixels"),
        ({"duplicate_of": None}, "does not name the record and the round"),
        ({"duplicate_round": None}, "does not name the record and the round"),
        ({"created_at": NOON - timedelta(days=1)}, "which was made later"),
    ],
)
@pytest.mark.parametrize("sealed", [False, True])
def test_a_false_claim_is_a_fault(tmp_path: Path, changes: dict[str, Any], fault: str, sealed: bool) -> None:
    corpus = Corpus(DirectoryStore(tmp_path))
    found = _replayed(corpus, **changes)
    if sealed:
        seal_day(corpus, date(2026, 2, 1), settings=SealSettings(grace_minutes=0), early=True)
        collect_garbage(corpus, grace=timedelta(0), keep_superseded=timedelta(0))
        found = whats(audit(Corpus(corpus.store)))
    assert fault in found


def test_a_claim_on_a_refused_answer_or_on_another_photograph_is_a_fault() -> None:
    from perturb.tasks.corpus.audit_duplicates import COLUMNS, _fault

    row = dict.fromkeys(COLUMNS) | {
        "outcome": "duplicate", "round_id": "2", "created_at": NOON, "original_sha256": "o", "perturbed_sha256": "p",
        "duplicate_of": "r", "duplicate_round": "1",
    }  # fmt: skip
    earlier = row | {"record_id": "r", "round_id": "1", "outcome": "accepted"}
    assert _fault(row, earlier) is None
    assert "was refused itself as no_flip" in str(_fault(row, earlier | {"outcome": "no_flip"}))
    assert "answers another photograph" in str(_fault(row, earlier | {"original_sha256": "q"}))
    assert _fault(row, earlier | {"outcome": "duplicate", "margin": 1.0}) is None


# The state: several producers, crashes, loss

PHOTO = "ab" * 32


class Interrupted(Store):
    """A store that calls `between` before each operation: where another producer may run, or this one may die."""

    def __init__(self, store: Store, between: Callable[[int], None]):
        self._store, self._between, self.operations = store, between, 0
        self.url = store.url

    def _next(self) -> None:
        self.operations += 1
        self._between(self.operations)

    def put_new(self, key: str, data: Buffer) -> bool:
        self._next()
        return self._store.put_new(key, data)

    def get(self, key: str, *, sha256: str | None = None) -> bytes:
        self._next()
        return self._store.get(key, sha256=sha256)

    def entries(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
        self._next()
        return iter(list(self._store.entries(prefix, after=after)))

    def delete(self, key: str) -> None:
        self._next()
        self._store.delete(key)

    def create(self, key: str) -> AbstractContextManager[ObjectWriter]:
        raise NotImplementedError

    def put(self, key: str, data: Buffer) -> None:
        raise NotImplementedError

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        raise NotImplementedError

    def head(self, key: str) -> Entry | None:
        raise NotImplementedError

    def folders(self, prefix: str) -> list[str]:
        raise NotImplementedError

    def presign(self, key: str, *, expires_s: int = 3600) -> str:
        raise NotImplementedError

    def unfinished(self) -> list[Entry]:
        raise NotImplementedError

    def discard(self, unfinished: Entry) -> None:
        raise NotImplementedError


def _answer(store: Store, number: int, pixels: str = "cd" * 32) -> str:
    """Run a round in which one miner sends `pixels`; return the outcome."""
    asked = small(1).challenge
    task = asked.task.model_copy(update={"original_sha256": PHOTO, "task_salt": f"{number:032x}"}).as_task()
    challenge = dataclasses.replace(asked, task=task, round_id=f"round-{number}", created_at=NOON)
    response = Response(0, f"miner-{number}", 1.0)

    def verified(earlier: Mapping[str, EarlierAnswer]) -> list[Verdict]:
        outcome = "duplicate" if pixels in earlier else "accepted"
        return [Verdict(outcome=outcome, perturbed_sha256=pixels)]

    (verdict,) = verify_once(Corpus(store), challenge, [response], verified, days=DAYS)
    return str(verdict.outcome)


class Died(BaseException):
    """A producer that was killed: nothing catches it."""


# The first is paused before it writes; the second and the third meanwhile write and remove the number it will take.
@example(pauses=[3, 5], deaths=[None] * 5, before=1)
@settings(max_examples=80, deadline=None)
@given(
    pauses=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    deaths=st.lists(st.one_of(st.none(), st.integers(1, 9)), min_size=5, max_size=5),
    before=st.integers(0, 2),
)
def test_of_rounds_that_overlap_in_any_way_at_most_one_accepts(
    tmp_path_factory: pytest.TempPathFactory, pauses: list[int], deaths: list[int | None], before: int
) -> None:
    """Each producer stops before one of its operations while the next one runs to its end, or to its own death."""
    store = DirectoryStore(tmp_path_factory.mktemp("overlap"))
    for number in range(before):
        assert _answer(store, 100 + number, f"{number:064x}") == "accepted"
    outcomes: list[str] = []

    def run(number: int) -> None:
        def between(operation: int) -> None:
            if number < len(pauses) and operation == pauses[number]:
                run(number + 1)
            if operation == deaths[number]:
                raise Died

        try:
            # The third has another answer, which it may write in any case.
            outcome = _answer(Interrupted(store, between), number, "dd" * 32 if number == 2 else "cd" * 32)
            if number != 2:
                outcomes.append(outcome)
        except Died:
            outcomes.append("died")

    run(0)
    assert outcomes.count("accepted") <= 1
    if "died" not in outcomes:
        assert outcomes.count("accepted") == 1
    # However it went, the pixels are known afterwards if any round accepted them, and what was known before still is.
    last = _answer(store, 50)
    assert last == "duplicate" if "accepted" in outcomes else last in ("accepted", "duplicate")
    for number in range(before):
        assert _answer(store, 60 + number, f"{number:064x}") == "duplicate"
    assert _answer(store, 70, "ee" * 32) == "accepted"
    assert len(list(store.entries(keys.answers_folder(PHOTO)))) == 1


def test_threads_that_accept_the_same_pixels_at_once(tmp_path: Path) -> None:
    store, outcomes = DirectoryStore(tmp_path), list[str]()
    threads = [threading.Thread(target=lambda n=n: outcomes.append(_answer(store, n))) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["accepted", *["duplicate"] * 5]


def test_a_round_that_is_tried_again_keeps_its_own_answers(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    assert [_answer(store, 1) for _ in range(3)] == ["accepted"] * 3
    assert _answer(store, 2) == "duplicate"


def test_a_round_costs_the_same_however_many_came_before(tmp_path: Path) -> None:
    store, costs = DirectoryStore(tmp_path), []
    for number in range(30):
        counted = Interrupted(store, lambda _: None)
        assert _answer(counted, number, f"{number:064x}") == "accepted"
        costs.append(counted.operations)
    assert set(costs[1:]) == {costs[1]}
    assert costs[1] <= 5


def test_a_state_that_is_lost_is_derived_from_what_is_committed(tmp_path: Path) -> None:
    corpus = Corpus(DirectoryStore(tmp_path))
    found = _replayed(corpus)
    assert found == ""
    seal_day(corpus, NOON.date(), settings=SealSettings(grace_minutes=0), early=True)
    original = small(1).challenge.task.original_sha256
    now = NOON + timedelta(days=2)

    def known(days: int = DAYS) -> set[str]:
        past = AnswerLog(corpus.store, days=days).read(original, round_id="new", now=now)
        return set(past.earlier)

    accepted = {row["perturbed_sha256"] for row in corpus.table().to_pylist() if row["outcome"] == "accepted"}
    assert known() == set()
    assert remember_committed(Corpus(corpus.store), days=DAYS, now=now) == len(accepted) == 3
    assert known() == accepted
    # Done once; again only where the note is gone, and then nothing is there twice.
    assert remember_committed(Corpus(corpus.store), days=DAYS, now=now) == 0
    before = [entry.key for entry in corpus.store.entries(keys.ANSWERS)]
    corpus.store.delete(keys.ANSWERS_NOTE)
    assert remember_committed(Corpus(corpus.store), days=DAYS, now=now) == 3
    assert [entry.key for entry in corpus.store.entries(keys.ANSWERS)] == before
    # A window that was shorter for a while forgot; a longer one is derived again.
    assert remember_committed(Corpus(corpus.store), days=1, now=now) == 0
    assert remember_committed(Corpus(corpus.store), days=DAYS, now=now) == 3
    # Nothing of it is garbage while the window lasts, and all of it afterwards.
    assert not collect_garbage(corpus, keep_answers=timedelta(days=DAYS), dry_run=True).removed
    expired = datetime.now(UTC) + timedelta(days=DAYS + 2)
    report = collect_garbage(Corpus(corpus.store), keep_answers=timedelta(days=DAYS), now=expired)
    assert any(entry.key.startswith(keys.ANSWERS) for entry in report.removed)
    assert known() == set()


def test_a_damaged_state_stops_the_round_and_says_what_to_do(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    assert _answer(store, 1) == "accepted"
    (entry,) = store.entries(keys.answers_folder(PHOTO))
    store.put(entry.key, store.get(entry.key)[:-40])
    with pytest.raises(CorpusError, match=r"answers/ab/.*is not readable.*delete the folder answers/"):
        _answer(store, 2)
