"""Small corpora for the tests of exports: real PNGs, rounds committed and sealed by the pipeline's own code."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from perturb.schemas.bounds import Bounds
from perturb.schemas.challenge import Terms
from perturb.schemas.image import encode_png, pixel_identity
from perturb.schemas.record import Record, record_id
from perturb.schemas.settings import SealSettings
from perturb.schemas.tier import GROUPS
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.dataset.day_index import Statistics
from perturb.sinks.dataset.plots import plot_names
from perturb.sinks.stores.base import Store
from perturb.subnet.keys import development_keypair
from perturb.tasks.corpus.commit import commit_records
from perturb.tasks.corpus.seal import seal_day
from perturb.tasks.export.operator_state import KEY_OBJECT

SIDE = 12
VALIDATOR = development_keypair("//PerturbValidator")
HOTKEYS = tuple(f"5Miner{number:03d}{'x' * 36}" for number in range(16))
# Of each corpus here: which records a fraction takes must not change from run to run.
PSEUDONYM_KEY = hashlib.sha256(b"the key of the tests' corpora").hexdigest().encode()
CLASSES = ("tench", "hen", "great white shark", "jay", "bulbul")


def plain_draw(statistics: Statistics) -> dict[str, bytes]:
    """Return, in place of `draw_plots`, the statistics that each figure would show."""
    return {name: statistics.model_dump_json().encode() for name in plot_names(statistics)}


@dataclass
class Made:
    """A sealed corpus and what went into it."""

    corpus: Corpus
    rows: list[dict[str, Any]] = field(default_factory=list)


def make_row(
    day: date,
    *,
    number: int,
    miner: int,
    original: np.ndarray,
    perturbed: np.ndarray,
    body: bytes,
    accepted: bool = True,
    **changes: Any,
) -> Record:
    """One plausible record; `changes` override columns."""
    made = datetime.combine(day, datetime.min.time(), UTC) + timedelta(minutes=number)
    identity = pixel_identity(perturbed)
    terms = Terms(
        task_salt=hashlib.md5(f"task{day}{number}".encode()).hexdigest(),
        true_label=number % len(CLASSES),
        true_label_name=CLASSES[number % len(CLASSES)],
        classifier="tf_efficientnet_lite0",
        classifier_sha256="a" * 64,
        bounds=Bounds(),
        timeout_ms=20_000,
        height=SIDE,
        width=SIDE,
        original_sha256=pixel_identity(original),
    )
    task_id = terms.digest()
    levels = int(np.abs(original.astype(int) - perturbed.astype(int)).max())
    random = np.random.default_rng(number * 1000 + miner)
    verdict: dict[str, Any] = dict.fromkeys(
        (*GROUPS["@verdict"], "duplicate_of", "duplicate_round", "perturbed_sha256"),
    )
    if accepted:
        verdict |= {
            "adversarial_label": miner % len(CLASSES),
            "adversarial_label_name": CLASSES[miner % len(CLASSES)],
            "adversarial_confidence": float(random.uniform(0.2, 0.9)),
            "margin": float(random.uniform(0, 4)),
            "linf": levels / 255,
            "linf_levels": levels,
            "l0": 10,
            "l0_pixels": 5,
            "changed_share": 10 / original.size,
            "l2": 0.5,
            "rmse": 0.01,
            "psnr": float(random.uniform(38, 60)),
            "ssim": float(random.uniform(0.98, 1)),
            "ssim_definition": "test",
            "semantic_score": -1.5,
            "semantic_mismatch": True,
            "persists": {"jpeg95": True, "jpeg75": miner % 2 == 0, "half_size": False},
            "transfer": [
                {"classifier": "other", "classifier_sha256": "1" * 64, "flipped": miner % 3 == 0, "margin": 0.25}
            ],
            "perturbed_sha256": identity,
        }
    columns: dict[str, Any] = {
        "record_id": record_id(made, task_id, HOTKEYS[miner], identity),
        "round_id": f"{made:%Y%m%dT%H%M%S%f}Z-{number:08x}",
        "task_id": task_id,
        "created_at": made,
        "netuid": 26,
        "block": 100 + number,
        "validator_hotkey": VALIDATOR.ss58_address,
        "source": "sample",
        "source_id": f"photo-{number}",
        "source_url": None if number % 2 else f"https://photos.example/{number}",
        "author": "Ann Author",
        "license": "CC0",
        "subject": "a photograph",
        "synset": "n01440764",
        "true_class": None,
        "clean_confidence": 0.8,
        "clean_margin": 3.0,
        "subject_score": None,
        "target": "tf_efficientnet_lite0",
        "log_size": None,
        "judge": "none",
        "judge_sha256": None,
        "miner_uid": 1000 + miner,
        "miner_hotkey": HOTKEYS[miner],
        "response_ms": 100.0 + miner,
        "outcome": "accepted" if accepted else "no_flip",
        "detail": None if accepted else "the label stayed",
        "body_sha256": hashlib.sha256(body).hexdigest(),
        "request_nonce": f"nonce-{number}-{miner}",
        "miner_signature": f"{number:04x}{miner:04x}" * 16,
        "quality": 0.9,
        "speed": 0.5,
        "score": 0.78 if accepted else 0.0,
        "policy": "grid-1",
        **terms.model_dump(exclude={"bounds"}),
        **terms.bounds.model_dump(),
        **verdict,
        **dict.fromkeys(
            f"{image}_{part}" for image in ("original", "perturbed") for part in ("shard", "offset", "length")
        ),
    }
    return Record(**(columns | changes))


def make_corpus(
    store: Store,
    *,
    days: Sequence[date],
    rounds: int = 6,
    miners: int = 4,
    refused: int = 1,
    seed: int = 0,
    seal: bool = True,
    changes: Any = None,
) -> Made:
    """Commit `rounds` rounds on each day, the last `refused` miners of each refused, and seal the days.

    Rounds and days are signed by `VALIDATOR`; the key of a sealed corpus' exports is `PSEUDONYM_KEY`.
    """
    made = Made(Corpus(store))
    random = np.random.default_rng(seed)
    for day in days:
        for number in range(rounds):
            original = random.integers(8, 248, (SIDE, SIDE, 3), np.uint8)
            records, bodies = [], {}
            for miner in range(miners):
                step = random.integers(-1, 2, original.shape) * (1 + miner % 3)
                perturbed = (original.astype(int) + step).astype(np.uint8)
                body = encode_png(perturbed)
                accepted = miner < miners - refused
                more = changes(day, number, miner) if changes else {}
                record = make_row(
                    day,
                    number=number,
                    miner=miner,
                    original=original,
                    perturbed=perturbed,
                    body=body,
                    accepted=accepted,
                    **more,
                )
                records.append(record)
                if accepted:
                    bodies[record.record_id] = body
            commit_records(made.corpus, records, encode_png(original), bodies, signer=VALIDATOR)
            made.rows += [record.model_dump() for record in records]
        if seal:
            store.put_new(KEY_OBJECT, PSEUDONYM_KEY)
            seal_day(
                made.corpus,
                day,
                settings=SealSettings(grace_minutes=0, reverify_fraction=0),
                early=True,
                signer=VALIDATOR,
            )
    return made
