"""Verification of large rounds on the workers of the task runner.

The answers wait in the store; what travels are their keys, and verdicts come back. What depends on the round as a
whole (copies, the judge) is decided in the process that drew it.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil

from prefect import task

from perturb.flows.engine.production_line import Line
from perturb.flows.engine.retry import when_not_ours
from perturb.flows.engine.runner import Submit, worker_count, workers
from perturb.models.classifier import load_classifier
from perturb.models.judge.judge import NoJudge
from perturb.schemas.challenge import Challenge
from perturb.schemas.errors import PerturbError, StoreError
from perturb.schemas.response import Response
from perturb.schemas.settings import load_settings
from perturb.schemas.verdict import Verdict
from perturb.sinks.corpus.staging import Slice, read_staged, stage
from perturb.sinks.stores.open import open_store
from perturb.tasks.verify.merge_slices import merge_slices
from perturb.tasks.verify.round import verify

logger = logging.getLogger(__name__)
# Fewer answers are verified sooner than they are written, sent for and read.
_LEAST_ROUND = 32
_LEAST_SLICE = 8


@task(name="verify slice", retries=2, retry_delay_seconds=2, retry_condition_fn=when_not_ours)
def _verify_slice(key: str, sha256: str, store: str) -> list[Verdict]:
    """Runs wherever the task runner puts it; a lost worker's slice is verified by another."""
    settings = load_settings(store=store)
    part = read_staged(open_store(settings.store, settings.s3), key, sha256=sha256)
    # Where the weights lie and what they run on is the worker's own affair, what decides is the round's.
    own = settings.classifier
    decisive = part.classifier.model_copy(update={"weights": own.weights, "device": own.device})
    return verify(
        part.challenge,
        part.responses,
        classifier=load_classifier(decisive),
        judge=NoJudge(),
        settings=settings.model_copy(update={"classifier": decisive}),
    )


@contextmanager
def spreading(line: Line) -> Iterator[None]:
    """While it lasts, the line's large rounds are verified on the workers of the runner that its settings name."""
    if line.settings.runner == "threads":
        yield
        return
    with workers(line.settings) as submit:
        line.spread = lambda challenge, responses: _spread(line, submit, challenge, responses)
        yield


def _spread(line: Line, submit: Submit, challenge: Challenge, responses: Sequence[Response]) -> list[Verdict] | None:
    answered = [response for response in responses if response.failure is None]
    if len(answered) < _LEAST_ROUND:
        return None
    # Two for each worker: one that meets the dear answers does not keep all the others waiting.
    size = max(_LEAST_SLICE, ceil(len(answered) / (2 * worker_count(line.settings))))
    slices = [
        Slice(challenge, tuple(answered[start : start + size]), line.settings.classifier)
        for start in range(0, len(answered), size)
    ]
    try:
        apart = _verify_apart(line, submit, slices)
    except PerturbError:
        raise
    except Exception:
        # Whatever a cluster's end may raise: the answers are here, and so are the models.
        logger.exception("round %s could not be verified on the %s workers", challenge.round_id, line.settings.runner)
        return None
    return merge_slices(
        challenge, responses, apart, classifier=line.classifier, judge=line.judge, settings=line.settings
    )


def _verify_apart(line: Line, submit: Submit, slices: Sequence[Slice]) -> list[Verdict]:
    """Verdicts of all slices. What was staged stays after a failure: a retry stages the same, else it is garbage."""
    store = line.corpus.store
    staged = [stage(store, part, number=number) for number, part in enumerate(slices)]
    pending = [submit(_verify_slice, key=key, sha256=digest, store=line.settings.store_name) for key, digest in staged]
    verdicts = [verdict for future in pending for verdict in future.result()]
    for key, _ in staged:
        try:
            store.delete(key)
        except StoreError as error:
            logger.warning("%s is left to garbage collection: %s", key, error)
    return verdicts
