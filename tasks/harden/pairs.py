"""What a network is hardened with: the photographs of the corpus, and their perturbed versions by target and miner."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from perturb.sandbox.stored import pair_pixels
from perturb.schemas.errors import CorpusError
from perturb.schemas.image import Pixels
from perturb.schemas.outcome import Outcome
from perturb.schemas.pair import Pair
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.verified import verified_metadata
from perturb.sinks.targets.registry import Registry
from perturb.tasks.targets.measure import HeldOut
from perturb.tasks.tiers.grant import split_place

FEWEST = 20
#: Where the photographs begin that a network was trained on which was trained on none.
NONE_TRAINED = 16**13
#: Days that are read by default, and perturbations at most: what hardening costs does not grow with the corpus.
NEWEST_DAYS = 28
MOST_PAIRS = 3000
_DAY_DIGITS = 8
# How many records are read at once. Their images are about 100 kB each.
_AT_ONCE = 64
# A share of channel values. Attacks on single values change less, those along the gradient's sign change more.
_FEW_VALUES = 0.2


class TooFewPhotographs(CorpusError):
    """The days have fewer photographs than a network can be hardened or measured with."""


@dataclass(frozen=True, eq=False)
class Version:
    """A perturbed version, uint8 (H, W, 3): against which target, by which miner, on which day."""

    pixels: Pixels
    target: str
    miner: str
    day: date


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph, uint8 (H, W, 3), its pixel identity and label, and its perturbed versions."""

    identity: str
    pixels: Pixels
    label: int
    versions: tuple[Version, ...]

    def held_out(self) -> HeldOut:
        """Return it as what networks are measured on."""
        names = sorted({version.target for version in self.versions})
        own = {name: tuple(one.pixels for one in self.versions if one.target == name) for name in names}
        return HeldOut(self.pixels, self.label, own)


@dataclass(frozen=True)
class Parts:
    """Photographs to train on, to choose the blend on, and to measure on; none is in two of them."""

    train: tuple[Photograph, ...]
    validation: tuple[Photograph, ...]
    test: tuple[Photograph, ...]

    @property
    def held_out_below(self) -> int:
        """The place (`split_place`) from which on photographs were trained on or chosen with."""
        return min(split_place(one.identity) for one in (*self.train, *self.validation))


def chosen_days(corpus: Corpus, days: Sequence[date] | None) -> list[date]:
    """Return `days`, or the newest 28 sealed ones, sorted.

    Raises CorpusError where no day is sealed, and for one of `days` that is not.
    """
    sealed = [manifest.day for manifest in corpus.newest_days(date.min, most=NEWEST_DAYS)]
    if not sealed:
        raise CorpusError("no day is sealed; `perturb seal` seals one, and hardening trains on sealed days only")
    if missing := [day for day in sorted(set(days or ()) - set(sealed)) if corpus.manifest(day) is None]:
        raise CorpusError(f"{missing[0]} is not sealed; the newest sealed days: {', '.join(map(str, sealed))}")
    return sorted(set(days or sealed))


def read_photographs(
    corpus: Corpus, registry: Registry, *, days: Sequence[date], size: tuple[int, int], most: int = MOST_PAIRS
) -> list[Photograph]:
    """Return the photographs of sealed days with their accepted perturbations, ordered by identity.

    `size` is that of the network, (height, width); other photographs are left out. Of more than `most` perturbations,
    those are taken whose record IDs, which are digests, end first in the alphabet. Raises CorpusError or
    ObjectCorrupt where the records of a day are not those of its manifest, or an image is not that of its record.
    """
    found: dict[str, tuple[Pixels, int, list[Version]]] = {}
    names: dict[str, str] = {}
    for row, pair in _pairs(corpus, days, size, most):
        clean, changed = pair_pixels(pair)
        sha256 = row["classifier_sha256"]
        if sha256 not in names:
            known = registry.by_digest(sha256)
            names[sha256] = known.name if known else sha256[:12]
        version = Version(changed, names[sha256], row["miner_hotkey"], row["created_at"].date())
        found.setdefault(row["original_sha256"], (clean, row["true_label"], []))[2].append(version)
    return [Photograph(key, *found[key][:2], tuple(found[key][2])) for key in sorted(found)]


def _pairs(
    corpus: Corpus, days: Sequence[date], size: tuple[int, int], most: int
) -> Iterator[tuple[Mapping[str, Any], Pair]]:
    wanted = (ds.field("outcome") == Outcome.ACCEPTED) & ds.field("duplicate_of").is_null()
    wanted &= (ds.field("height") == size[0]) & (ds.field("width") == size[1])
    sealed = [manifest for day in days if (manifest := corpus.manifest(day)) is not None]
    with ExitStack() as stack:
        metadata = [stack.enter_context(verified_metadata(corpus.store, manifest)) for manifest in sealed]
        found = [table.to_table(["record_id"], filter=wanted)["record_id"] for table in metadata]
        # An ID begins with its day.
        ids = sorted((one for column in found for one in column.to_pylist()), key=lambda one: one[_DAY_DIGITS:])
        chosen = wanted & ds.field("record_id").isin(pa.array(ids[:most], pa.string()))
        for table in metadata:
            rows = table.to_table(filter=chosen).to_pylist()
            for at in range(0, len(rows), _AT_ONCE):
                for pair in corpus.read_pairs(rows[at : at + _AT_ONCE]):
                    yield pair.row, pair


def divide(photographs: Sequence[Photograph], *, below: int = NONE_TRAINED) -> Parts:
    """Divide photographs as exports do: by a number that follows from the pixels (`split_place`).

    The test split of exports is measured on, and never trained on. In a small corpus it is too small to tell anything,
    so that the photographs next to it are measured on too: up to two fifths of all, at most 64; and an eighth of all,
    at most 32, are for the blend. `below` is where the photographs begin that an ancestor was trained on.
    """
    order = sorted(photographs, key=lambda one: split_place(one.identity))
    places = [split_place(one.identity) for one in order]
    own = max(sum(place * 1000 < 50 * NONE_TRAINED for place in places), min(64, 2 * len(order) // 5))
    test = min(own, sum(place < below for place in places))
    validation = max(
        sum(place * 1000 < 100 * NONE_TRAINED for place in places), test + min(32, max(1, len(order) // 8))
    )
    parts = Parts(tuple(order[validation:]), tuple(order[test:validation]), tuple(order[:test]))
    if not (parts.train and parts.validation and parts.test):
        raise CorpusError(
            f"of {len(order)} photographs {len(parts.train)} are left to train on, {len(parts.validation)} for the "
            f"blend and {len(parts.test)} to measure on; each needs some: harden on more days"
        )
    return parts


def warnings(photographs: Sequence[Photograph]) -> list[str]:
    """Return a sentence for each reason to expect little of these pairs."""
    versions = [version for one in photographs for version in one.versions]
    found = []
    miners = Counter(version.miner for version in versions)
    if len(miners) == 1:
        found.append(f"all {len(versions)} pairs are from one miner ({next(iter(miners))})")
    sparse = [
        float((version.pixels != one.pixels).mean()) < _FEW_VALUES for one in photographs for version in one.versions
    ]
    if versions and len(set(sparse)) == 1:
        kind = "few values, as the attack `grid` does" if sparse[0] else "most values, as attacks by gradient signs do"
        found.append(f"all {len(versions)} perturbations change {kind}: they may be of one attack")
    return found


def stack(photographs: Sequence[Photograph]) -> tuple[Pixels, np.ndarray]:
    """Return the clean images, uint8 (N, H, W, 3), and their labels, int64 (N,)."""
    return np.stack([one.pixels for one in photographs]), np.array([one.label for one in photographs], np.int64)
