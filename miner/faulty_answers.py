"""Answers that arrive in time, correctly signed, and are invalid, so that a healthy network shows refusals too."""

import hashlib

import numpy as np

from perturb.miner.answer import Answer
from perturb.schemas.challenge import Task
from perturb.schemas.image import Pixels, encode_png


def bad_answer() -> Answer:
    """Return the function that exceeds the L-inf bound on every other task and sends no image on the rest."""

    def answer(task: Task, clean: Pixels, deadline: float) -> bytes:
        answered[0] += 1
        seed = int(hashlib.sha256(task.task_id.encode()).hexdigest()[:8], 16)
        rng = np.random.default_rng(seed)
        if answered[0] % 2 == 0:
            return rng.bytes(2048)
        levels = 2 * task.bounds.max_levels + 1
        noise = rng.integers(-levels, levels, size=clean.shape, endpoint=True)
        return encode_png(np.clip(clean.astype(np.int16) + noise, 0, 255).astype(np.uint8))

    answered = [0]
    return answer
