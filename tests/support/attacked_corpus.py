"""A sealed corpus of real photographs, small, each perturbed against the embedded network as several miners would."""

from datetime import date

import numpy as np
import skimage.data

from perturb.models.classifier import Classifier
from perturb.schemas.image import Pixels, encode_png
from perturb.schemas.settings import SealSettings
from perturb.schemas.signature import Signer
from perturb.sinks.corpus.corpus import Corpus
from perturb.tasks.corpus.commit import commit_records
from perturb.tasks.corpus.seal import seal_day
from perturb.tasks.targets.fresh import pgd
from tests.support.corpora import make_row

DAY = date(2026, 1, 1)


def photographs(classifier: Classifier, count: int) -> list[Pixels]:
    """Return `count` parts of scikit-image's photographs at the network's size, uint8 (H, W, 3)."""
    names = ("chelsea", "coffee", "rocket", "astronaut")
    whole = [np.ascontiguousarray(getattr(skimage.data, name)()) for name in names]
    shifts = [(0, 0), (20, 30), (10, 60), (35, 10)]
    made = [image[top : top + 250, left : left + 380] for top, left in shifts for image in whole]
    return [classifier.prepare(np.ascontiguousarray(image)) for image in made[:count]]


def seal_attacked(
    corpus: Corpus, classifier: Classifier, *, count: int, miners: int, signer: Signer | None = None
) -> None:
    """Seal a day on which each of `miners` perturbed each of `count` photographs by PGD at one or two levels."""
    for number, pixels in enumerate(photographs(classifier, count)):
        label = int(classifier.logits(pixels[None])[0].argmax())
        records, bodies = [], {}
        for miner in range(miners):
            level = 1 + miner % 2
            changed = pgd(classifier, pixels[None], np.array([label]), level=level, seed=miner).pixels[0]
            body = encode_png(changed)
            record = make_row(
                DAY, number=number, miner=miner, original=pixels, perturbed=changed, body=body, true_label=label,
                height=pixels.shape[0], width=pixels.shape[1], classifier_sha256=classifier.sha256,
            )  # fmt: skip
            records.append(record)
            bodies[record.record_id] = body
        commit_records(corpus, records, encode_png(pixels), bodies, signer=signer)
    seal_day(corpus, DAY, settings=SealSettings(grace_minutes=0, reverify_fraction=0), signer=signer, early=True)
