"""The `seal` flow: a finished day becomes immutable."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from math import ceil

from prefect import flow, task
from pydantic import BaseModel

from perturb.flows.engine.artifacts import show_seal
from perturb.flows.engine.retry import when_not_ours, when_out_of_reach
from perturb.flows.engine.runner import worker_count, workers
from perturb.models.classifier import load_classifier
from perturb.schemas.pair import Pair, Reverify
from perturb.schemas.settings import Settings, load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.subnet.chain import open_chain
from perturb.subnet.keys import LOCAL_NETWORK, load_keypair
from perturb.tasks.corpus.seal import seal_day
from perturb.tasks.verify.reverify import reverify_pairs
from perturb.tasks.verify.reverify_by_reference import RecordRef, reverify_references

# A share of fewer records is not worth its way to a worker.
_LEAST = 8


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


@task(name="verify again", retries=2, retry_delay_seconds=5, retry_condition_fn=when_not_ours)
def _verify_again(references: list[RecordRef], store: str | None) -> list[str | None]:
    """Runs wherever the task runner puts it; a lost worker's share is done by another."""
    settings = load_settings(store=store)
    corpus = Corpus.open(settings)
    return reverify_references(corpus, references, classifier=load_classifier(settings.classifier), settings=settings)


# What a killed or refused sealer wrote counts for nothing until its place in the log is won, so it may be tried again.
@task(name="seal day", retries=2, retry_delay_seconds=10, retry_condition_fn=when_out_of_reach)
def _seal(day: date, store: str | None, early: bool, wait: bool) -> SealSummary:
    settings = load_settings(store=store)
    with _reverifier(settings) as reverify:
        return _seal_with(reverify, settings, day, early=early, wait=wait)


@contextmanager
def _reverifier(settings: Settings) -> Iterator[Reverify]:
    """Verifies records again here, or by reference on the workers of the runner that the settings name."""
    if settings.runner == "threads":
        yield partial(reverify_pairs, classifier=load_classifier(settings.classifier), settings=settings)
        return
    with workers(settings) as submit:

        def reverify(pairs: Sequence[Pair]) -> Iterator[str | None]:
            size = max(_LEAST, ceil(len(pairs) / worker_count(settings)))
            shares = [pairs[start : start + size] for start in range(0, len(pairs), size)]
            pending = [
                submit(_verify_again, references=[RecordRef.of(pair.row) for pair in share], store=settings.store_name)
                for share in shares
            ]
            return (fault for future in pending for fault in future.result())

        yield reverify


def _seal_with(reverify: Reverify, settings: Settings, day: date, *, early: bool, wait: bool) -> SealSummary:
    sealed = seal_day(
        Corpus.open(settings),
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

    With the runner `dask` or `ray` the records that are verified again are spread over its workers.
    """
    chosen = day or datetime.now(UTC).date() - timedelta(days=1)
    settings = load_settings(store=store)
    # Outside the task, which would try again: a store without conditional writes stays one.
    corpus = Corpus.open_for_writing(settings)
    sealed = _seal(chosen, store, early, wait)
    # Only the newest day: the root of an older one, sealed again, would stand in its place. Asked again for a day that
    # was sealed already, because a sealer may have died before this.
    newest = corpus.seal_log()[-1]
    return sealed.model_copy(update={"extrinsic": _anchor(sealed.merkle_root)}) if newest.day == chosen else sealed
