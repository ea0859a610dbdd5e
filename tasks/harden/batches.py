"""Which pairs are trained on together: half of each batch is of the newest target, a quarter at most of one miner.

A miner that wants the next network to learn something wrong would need many answers of its own in each batch.
"""

from collections import Counter, deque
from collections.abc import Sequence

import torch

BATCH = 32
MINER_SHARE = 0.25


def epoch_of(miners: Sequence[str], newest: Sequence[bool], random: torch.Generator) -> list[list[int]]:
    """Return one epoch: places of pairs, each once, in batches of at most 32, in an order that `random` fixes.

    `miners` and `newest` say for each pair who made it, and whether it was made against the newest target. A batch is
    smaller where the rules leave nothing else to take.
    """
    order = torch.randperm(len(miners), generator=random).tolist()
    queues = [deque(place for place in order if newest[place] is side) for side in (True, False)]
    if not all(queues):
        return _batches([queue for queue in queues if queue], [BATCH], miners)
    return _batches(queues, [BATCH // 2, BATCH // 2], miners)


def _batches(queues: list[deque[int]], quotas: list[int], miners: Sequence[str]) -> list[list[int]]:
    made = []
    # As many batches as the newest pairs need; older ones that are left over have their turn in another epoch.
    while queues[0]:
        taken: Counter[str] = Counter()
        batch = [
            place for queue, quota in zip(queues, quotas, strict=True) for place in _take(queue, quota, miners, taken)
        ]
        made.append(batch)
    return made


def _take(queue: deque[int], quota: int, miners: Sequence[str], taken: Counter[str]) -> list[int]:
    chosen: list[int] = []
    passed: list[int] = []
    while queue and len(chosen) < quota:
        place = queue.popleft()
        if taken[miners[place]] < MINER_SHARE * BATCH:
            taken[miners[place]] += 1
            chosen.append(place)
        else:
            passed.append(place)
    queue.extendleft(reversed(passed))
    return chosen
