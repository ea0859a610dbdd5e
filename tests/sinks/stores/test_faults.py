"""What must survive: a bad network, a full disk, several producers and sealers at once."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from perturb.schemas.errors import CorpusError, StoreError
from perturb.schemas.settings import S3Settings, SealSettings
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.log.entry import NewEntry
from perturb.sinks.log.log import Log
from perturb.sinks.stores.base import ObjectCorrupt, Store
from perturb.sinks.stores.directory import DirectoryStore
from perturb.sinks.stores.open import open_store
from perturb.sinks.stores.s3 import S3Store
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.commit import commit_round
from perturb.tasks.corpus.gc import collect_garbage
from perturb.tasks.corpus.seal import seal_day
from tests.support.fake_s3 import fake_s3
from tests.support.faulty_proxy import FaultyProxy
from tests.support.full_disk import fill_the_disk
from tests.support.servers import Server
from tests.support.synthetic import DAY, make_round

TODAY = DAY.date()
LATER = datetime(2026, 2, 3, tzinfo=UTC)


def commit(corpus: Corpus, seed: int | tuple[int, ...]) -> str:
    made = make_round(seed, side=32, miners=2)
    return commit_round(
        corpus, made.challenge, made.responses, made.verdicts, made.scores, netuid=26, block=None, validator_hotkey="v"
    ).round_id


def seal(corpus: Corpus, day: date = TODAY) -> int:
    return seal_day(corpus, day, settings=SealSettings(shard_bytes=100_000), now=lambda: LATER).manifest.records


def test_a_hundred_rounds_through_a_bad_network(seaweed: Server, seaweed_store: Callable[..., S3Store]) -> None:
    host, _, port = seaweed.endpoint.removeprefix("http://").partition(":")
    proxy = FaultyProxy((host, int(port)), share=0.2, seed=7, hang_s=3.0)
    with proxy.running():
        prefix = f"faults-{os.getpid()}"
        corpus = Corpus(seaweed_store(endpoint=proxy.endpoint, prefix=prefix, timeout_s=2.0))
        with ThreadPoolExecutor(8) as pool:
            rounds = list(pool.map(lambda seed: commit(corpus, (1, seed)), range(100)))
        assert seal(corpus) == 300
    assert len(proxy.hit) >= 9, proxy.hit
    assert proxy.hit.total() > 0.15 * proxy.requests
    clear = Corpus(seaweed_store(prefix=prefix))
    report = audit(clear)
    assert report.holds, report.faults[:3]
    (manifest,) = clear.manifests()
    assert clear.claims(manifest) == set(rounds)


@pytest.mark.parametrize("fault", ["lost_answer", "corrupt_answer", "corrupt_request", "truncate"])
def test_one_fault_at_a_time(seaweed: Server, seaweed_store: Callable[..., S3Store], fault: str) -> None:
    host, _, port = seaweed.endpoint.removeprefix("http://").partition(":")
    proxy = FaultyProxy((host, int(port)), share=0.5, seed=3, faults=(fault,))
    with proxy.running():
        store = seaweed_store(endpoint=proxy.endpoint)
        data = os.urandom(50_000)
        for number in range(8):
            assert store.put_new(f"o/{number}", data), "we wrote it, whatever became of the answer"
            assert store.get(f"o/{number}") == data
        assert not store.put_new("o/0", b"another")
    assert proxy.hit[fault] >= 4


def test_bytes_that_never_arrive_right_are_an_error(seaweed: Server, seaweed_store: Callable[..., S3Store]) -> None:
    host, _, port = seaweed.endpoint.removeprefix("http://").partition(":")
    prefix = f"corrupt-{os.getpid()}"
    seaweed_store(prefix=prefix).put_new("a", b"data" * 1000)
    proxy = FaultyProxy((host, int(port)), share=1, faults=("corrupt_answer",))
    with proxy.running(), pytest.raises(ObjectCorrupt, match="does not arrive as it was written"):
        seaweed_store(endpoint=proxy.endpoint, prefix=prefix).get("a")


@pytest.mark.parametrize("status", [412, 409])
def test_a_taken_key_is_an_answer_whatever_its_status(s3_credentials: None, status: int) -> None:
    with fake_s3(taken_status=status) as service:
        settings = S3Settings(endpoint_url=service.endpoint, region="us-east-1", addressing_style="path")
        store = open_store("s3://bucket/x", settings)
        assert store.put_new("a", b"first")
        assert store.put_new("a", b"first"), "the digest says that this write won before"
        assert not store.put_new("a", b"second")
        assert store.get("a") == b"first"


def test_mistakes_of_the_operator(seaweed: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = S3Settings(endpoint_url=seaweed.endpoint, region="us-east-1", addressing_style="path")
    with pytest.raises(StoreError, match="bucket does not exist"):
        Corpus(open_store("s3://no-such-bucket/x", settings)).live_rounds()
    with pytest.raises(StoreError, match="accepted: a directory, or s3://bucket/prefix"):
        open_store("s3://", settings)
    with pytest.raises(StoreError, match="is not supported; accepted"):
        open_store("gs://bucket")
    nobody = settings.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "max_attempts": 1})
    with pytest.raises(StoreError, match=r"check s3\.endpoint_url"):
        list(open_store("s3://corpus", nobody).entries())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(StoreError, match="secret key is wrong") as caught:
        commit(Corpus(open_store("s3://corpus/wrong", settings)), 1)
    assert "not-the-secret" not in str(caught.value)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus(DirectoryStore(tmp_path))
    commit(corpus, 1)
    fill_the_disk(monkeypatch)
    with pytest.raises(StoreError, match="disk is full"):
        commit(corpus, 2)
    with pytest.raises(StoreError, match="disk is full"):
        seal(corpus)
    monkeypatch.undo()
    assert corpus.store.unfinished() == []
    assert audit(corpus).records == 3
    assert commit(corpus, 2)
    assert seal(corpus) == 6


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="choose a directory"):
        commit(Corpus(open_store(str(tmp_path / "file"))), 1)


def _produce(folder: str, producer: int, rounds: int) -> None:
    corpus = Corpus(open_store(folder))
    for number in range(rounds):
        commit(corpus, (2, producer, number))


def _seal(folder: str, barrier) -> None:  # type: ignore[no-untyped-def]
    barrier.wait()
    seal(Corpus(open_store(folder)))


@pytest.mark.slow
def test_two_producers_and_two_sealers_as_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    folder, barrier = str(tmp_path), context.Barrier(2)
    _produce(folder, 9, 3)
    producers = [context.Process(target=_produce, args=(folder, number, 8)) for number in range(2)]
    sealers = [context.Process(target=_seal, args=(folder, barrier)) for _ in range(2)]
    for process in producers + sealers:
        process.start()
    for process in producers + sealers:
        process.join(150)
        assert process.exitcode == 0
    corpus = Corpus(open_store(folder))
    assert corpus.sealed_days() == [TODAY]
    _check_all_there(corpus, rounds=19)
    # The loser's files are garbage, and only they.
    collect_garbage(corpus, grace=LATER - LATER)
    _check_all_there(corpus, rounds=19)


def test_many_at_once_on_one_store(make_store: Callable[[], Store]) -> None:
    start = threading.Barrier(5)

    def certify() -> None:
        store = make_store()
        start.wait()
        for number in range(8):
            new = NewEntry(kind="certificate", key=f"certificates/{number}.json", sha256=f"{number:064x}")
            Log(store).append(new, signer=None, at=LATER)

    def produce(number: int) -> None:
        corpus = Corpus(make_store())
        start.wait()
        for step in range(6):
            commit(corpus, (3, number, step))

    def seal_some(number: int) -> None:
        corpus = Corpus(make_store())
        start.wait()
        for day in (TODAY, date(2026, 2, 1)):
            try:
                seal(corpus, day)
            except CorpusError as error:
                if "no rounds" not in str(error) and "cannot be sealed after" not in str(error):
                    raise

    commit(Corpus(make_store()), (3, 9))
    with ThreadPoolExecutor(5) as pool:
        done = [pool.submit(produce, number) for number in range(2)] + [pool.submit(seal_some, n) for n in range(2)]
        for future in [*done, pool.submit(certify)]:
            future.result()
    corpus = Corpus(make_store())
    _check_all_there(corpus, rounds=13)
    entered = [record.entry for record in Log(corpus.store).records()]
    certificates = [entry.key for entry in entered if entry.kind == "certificate"]
    assert certificates == [f"certificates/{number}.json" for number in range(8)]
    assert [entry.key for entry in entered if entry.kind == "sealed-day"] == [
        keys.manifest_key(day) for day in corpus.sealed_days()
    ]


def _check_all_there(corpus: Corpus, *, rounds: int) -> None:
    report = audit(corpus)
    assert report.holds, report.faults[:3]
    ids = corpus.table(columns=["record_id"]).column(0).to_pylist()
    assert len(ids) == len(set(ids)) == report.records == 3 * rounds
