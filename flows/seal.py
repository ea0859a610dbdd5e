"""The `seal` flow: a finished day becomes immutable."""

from datetime import UTC, date, datetime, timedelta
from functools import partial

from prefect import flow, task
from pydantic import BaseModel

from flows.artifacts import show_seal
from flows.retry import when_out_of_reach
from models.classifier import load_classifier
from schemas.settings import load_settings
from sinks.corpus import Corpus
from sinks.store import open_store
from subnet.chain import open_chain
from subnet.keys import LOCAL_NETWORK, load_keypair
from tasks.reverify import reverify_samples
from tasks.seal import seal_day


class SealSummary(BaseModel):
    """A sealed day in numbers; `already` where it was sealed before, `extrinsic` where its root went on chain."""

    day: date
    already: bool
    rounds: int
    records: int
    images: int
    duplicates: int
    reverified: int
    bytes: int
    merkle_root: str
    extrinsic: str | None = None


# What a killed or refused sealer wrote counts for nothing until its place in the log is won, so it may be tried again.
@task(name="seal day", retries=2, retry_delay_seconds=10, retry_condition_fn=when_out_of_reach)
def _seal(day: date, store: str | None, early: bool, wait: bool) -> SealSummary:
    settings = load_settings(store=store)
    reverify = partial(reverify_samples, classifier=load_classifier(settings.classifier), settings=settings)
    sealed = seal_day(
        Corpus(open_store(settings.store, settings.s3)),
        day,
        settings=settings.seal,
        signer=load_keypair(settings.subnet),
        reverify=reverify,
        early=early,
        wait=wait,
    )
    manifest = sealed.manifest
    if not sealed.already:
        show_seal(manifest, sealed.size)
    return SealSummary(
        day=day,
        already=sealed.already,
        rounds=len(manifest.rounds),
        records=manifest.records,
        images=manifest.images,
        duplicates=manifest.duplicates,
        reverified=manifest.reverified.records,
        bytes=sealed.size,
        merkle_root=manifest.merkle_root,
    )


@task(name="anchor root", retries=3, retry_delay_seconds=60, retry_condition_fn=when_out_of_reach)
def _anchor(merkle_root: str) -> str | None:
    """Puts the day's Merkle root on chain, unless it is there; the extrinsic's id, or None where nothing was sent."""
    settings = load_settings()
    if settings.subnet.network == LOCAL_NETWORK:
        return None
    chain, keypair = open_chain(settings.subnet), load_keypair(settings.subnet)
    return None if chain.read_commitment(keypair.ss58_address) == merkle_root else chain.commit(keypair, merkle_root)


@flow(name="seal")
def seal(day: date | None = None, store: str | None = None, early: bool = False, wait: bool = False) -> SealSummary:
    """Seals `day` (yesterday, UTC, where none is given) and puts its Merkle root on chain.

    A day that is sealed already stays as it is.
    """
    sealed = _seal(day or datetime.now(UTC).date() - timedelta(days=1), store, early, wait)
    return sealed.model_copy(update={"extrinsic": _anchor(sealed.merkle_root)})
