"""Collect: one challenge to all miners, and what came back from each of them."""

import logging
import time
from collections import Counter
from collections.abc import Sequence

from perturb.schemas.challenge import Challenge
from perturb.schemas.neuron import Neuron
from perturb.schemas.response import Response
from perturb.schemas.settings import SubnetSettings
from perturb.subnet.keys import Keypair
from perturb.subnet.transport import collect

log = logging.getLogger(__name__)


async def collect_responses(
    challenge: Challenge, neurons: Sequence[Neuron], keypair: Keypair, *, settings: SubnetSettings
) -> list[Response]:
    """Return one response for each of `neurons`, in their order; those without a body name the failure.

    Never raises for a miner's fault. Ends within the challenge's timeout for each batch of `max_concurrency` neurons.
    """
    started = time.monotonic()
    responses = await collect(challenge, neurons, keypair, settings=settings)
    failures = Counter(str(response.failure) for response in responses if response.failure)
    log.info(
        "task %s: %d of %d miners answered within %.2f s%s",
        challenge.task.task_id,
        len(responses) - failures.total(),
        len(responses),
        time.monotonic() - started,
        "".join(f", {reason} {count}" for reason, count in sorted(failures.items())),
    )
    return responses
