"""The `seal` flow: a finished day becomes immutable, and its Merkle root goes on the chain."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from math import ceil

from prefect import flow, task

from perturb.flows.engine.artifacts import show_seal
from perturb.flows.engine.retry import when_not_ours, when_out_of_reach
from perturb.flows.engine.runner import worker_count, workers
from perturb.models.classifier import load_classifier
from perturb.schemas.pair import Pair, Reverify
from perturb.schemas.settings import Settings, load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.tasks.corpus.local_reverifier import local_reverifier
from perturb.tasks.corpus.seal_and_anchor import SealSummary, anchor_newest, seal_signed, yesterday
from perturb.tasks.verify.reverify_by_reference import RecordRef, reverify_references

# Sending a smaller share to a worker costs more than it saves. In records.
_LEAST = 8


@task(name="verify again", retries=2, retry_delay_seconds=5, retry_condition_fn=when_not_ours)
def _verify_again(references: list[RecordRef], store: str | None) -> list[str | None]:
    """Verify records again on any worker; another worker repeats the share of a lost one."""
    settings = load_settings(store=store)
    corpus = Corpus.open(settings)
    return reverify_references(corpus, references, classifier=load_classifier(settings.classifier), settings=settings)


# What a killed or refused sealer wrote counts for nothing until its place in the log is won, so it may be tried again.
@task(name="seal day", retries=2, retry_delay_seconds=10, retry_condition_fn=when_out_of_reach)
def _seal(day: date, store: str | None, early: bool, wait: bool) -> SealSummary:
    settings = load_settings(store=store)
    with _reverifier(settings) as reverify:
        sealed = seal_signed(settings, day, early=early, wait=wait, reverify=reverify)
    if not sealed.already:
        show_seal(sealed.manifest, sealed.size)
    return SealSummary.of(sealed)


@contextmanager
def _reverifier(settings: Settings) -> Iterator[Reverify]:
    """Verify records again in this process, or by reference on the workers of the configured runner."""
    if settings.runner == "threads":
        yield local_reverifier(settings)
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


@task(name="anchor root", retries=3, retry_delay_seconds=60, retry_condition_fn=when_out_of_reach)
def _anchor(day: date, store: str | None) -> str | None:
    return anchor_newest(load_settings(store=store), day)


@flow(name="seal")
def seal(day: date | None = None, store: str | None = None, early: bool = False, wait: bool = False) -> SealSummary:
    """Seal `day` (default: yesterday, UTC) and put the log's root on the chain.

    A day that is sealed already stays as it is. With the runner `dask` or `ray` the records that are verified again
    are divided among its workers.
    """
    # Outside the task, which would try again: a store without conditional writes stays one.
    Corpus.open_for_writing(load_settings(store=store))
    sealed = _seal(day or yesterday(), store, early, wait)
    return sealed.model_copy(update={"extrinsic": _anchor(sealed.day, store)})
