"""The `seal` flow: a finished day becomes immutable."""

from datetime import UTC, date, datetime, timedelta

from prefect import flow, task

from schemas.settings import load_settings
from sinks.corpus import Corpus
from sinks.store import open_store
from subnet.keys import load_keypair
from tasks.seal import SealSummary, seal_day


@task(name="seal day", retries=2, retry_delay_seconds=10)
def _seal(day: date, store: str | None, early: bool) -> SealSummary:
    settings = load_settings(store=store)
    corpus = Corpus(open_store(settings.store, settings.s3))
    return seal_day(corpus, day, settings=settings, signer=load_keypair(settings.subnet), early=early)


@flow(name="seal")
def seal(day: date | None = None, store: str | None = None, early: bool = False) -> SealSummary:
    """Seals `day` (yesterday, UTC, where none is given); a day that is sealed already stays as it is."""
    return _seal(day or datetime.now(UTC).date() - timedelta(days=1), store, early)
