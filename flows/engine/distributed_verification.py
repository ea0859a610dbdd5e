"""Verification of large rounds on the workers of the task runner.

The answers are written to the store; what travels are their keys, and verdicts come back. The checks that need the
whole round (duplicates, the judge) are made in the process that drew it.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil

from prefect import task

from perturb.flows.engine.production_line import ProductionLine, StaysHere, Verifier
from perturb.flows.engine.retry import when_not_ours
from perturb.flows.engine.runner import Submit, worker_count, workers
from perturb.models.judge.judge import NoJudge
from perturb.schemas.challenge import Challenge
from perturb.schemas.errors import PerturbError, StoreError
from perturb.schemas.response import Response
from perturb.schemas.settings import load_settings
from perturb.schemas.verdict import EarlierAnswer, Verdict
from perturb.sinks.corpus.staging import Slice, read_staged, stage
from perturb.sinks.stores.open import open_store
from perturb.tasks.lineup.find import classifier_of_digest
from perturb.tasks.verify.merge_slices import merge_slices
from perturb.tasks.verify.round import verify

logger = logging.getLogger(__name__)
# Fewer answers are verified sooner than they are written, sent for and read.
_MIN_ROUND = 32
_MIN_SLICE = 8


@task(name="verify slice", retries=2, retry_delay_seconds=2, retry_condition_fn=when_not_ours)
def _verify_slice(key: str, sha256: str, store: str) -> list[Verdict]:
    """Verify a slice on any worker; a lost worker's slice is verified by another."""
    settings = load_settings(store=store)
    part = read_staged(open_store(settings.store, settings.s3), key, sha256=sha256)
    # The worker decides where the weights lie and on which device they run; all other settings are the round's.
    own = settings.classifier
    decisive = part.classifier.model_copy(update={"weights": own.weights, "device": own.device})
    decided = settings.model_copy(update={"classifier": decisive})
    return verify(
        part.challenge,
        part.responses,
        classifier=classifier_of_digest(decided, part.challenge.task.classifier_sha256),
        judge=NoJudge(),
        settings=decided,
    )


class DistributedVerifier(StaysHere):
    """The `Verifier` that distributes large rounds over workers. Small rounds are verified in this process, and so is
    a round whose workers were lost."""

    def __init__(self, line: ProductionLine, submit: Submit):
        self._line = line
        self._submit = submit

    def __call__(
        self, challenge: Challenge, responses: Sequence[Response], earlier: Mapping[str, EarlierAnswer]
    ) -> list[Verdict]:
        """Return one verdict for each response, the same ones as `ProductionLine.verify` does."""
        answered = [response for response in responses if response.failure is None]
        if len(answered) < _MIN_ROUND:
            return self._line.verify(challenge, responses, earlier)
        try:
            verdicts = self._distribute(self._slices(challenge, answered))
        except PerturbError:
            raise
        except Exception:
            # The end of a cluster can raise anything. The answers are here, and so are the models.
            runner = self._line.settings.runner
            logger.exception("round %s could not be verified on the %s workers", challenge.round_id, runner)
            return self._line.verify(challenge, responses, earlier)
        line = self._line
        return merge_slices(
            challenge,
            responses,
            verdicts,
            classifier=line.classifier_of(challenge),
            judge=line.judge,
            settings=line.settings,
            earlier=earlier,
        )

    def _slices(self, challenge: Challenge, answered: Sequence[Response]) -> list[Slice]:
        # Two for each worker, so that a slice of expensive answers does not delay the rest.
        size = max(_MIN_SLICE, ceil(len(answered) / (2 * worker_count(self._line.settings))))
        return [
            Slice(challenge, tuple(answered[start : start + size]), self._line.settings.classifier)
            for start in range(0, len(answered), size)
        ]

    def _distribute(self, slices: Sequence[Slice]) -> list[Verdict]:
        """Return the verdicts of all slices. After a failure the staged slices stay: a retry stages the same ones."""
        store, name = self._line.corpus.store, self._line.settings.store_name
        staged = [stage(store, part, number=number) for number, part in enumerate(slices)]
        pending = [self._submit(_verify_slice, key=key, sha256=digest, store=name) for key, digest in staged]
        verdicts = [verdict for future in pending for verdict in future.result()]
        for key, _ in staged:
            try:
                store.delete(key)
            except StoreError as error:
                logger.warning("%s is left to garbage collection: %s", key, error)
        return verdicts


@contextmanager
def chosen_verifier(line: ProductionLine) -> Iterator[Verifier]:
    """Yield the verifier of the runner that the line's settings name; the workers last as long as the block."""
    if line.settings.runner == "threads":
        yield line.verify
        return
    with workers(line.settings) as submit:
        yield DistributedVerifier(line, submit)
