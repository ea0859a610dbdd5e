"""The pool of a certificate: the labelled images from which the sample is drawn."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from perturb.certificates.subject import Subject
from perturb.certificates.tables import Row, tree_root
from perturb.models.judge.judge import Judge
from perturb.models.prediction import predict_reproducibly
from perturb.schemas.challenge import Photo
from perturb.schemas.errors import SourceError
from perturb.schemas.image import Pixels, pixel_identity

SMALLEST = 20
SAMPLE_SIZE = 60
ACCEPTED = "folder:DIR with labelled photographs (see README, Your own photographs), or sample[:COUNT]"


@dataclass(frozen=True, eq=False)
class Pool:
    """The rows of pool.parquet, sorted by identity, and the reasons for which images were left out, with counts."""

    rows: list[Row]
    left_out: dict[str, int]

    @property
    def root(self) -> str:
        """The root of the tree over the rows."""
        return tree_root(self.rows)


def pool_photos(spec: str) -> Iterator[Photo]:
    """Yield the photographs of a pool once each, always in the same order. Raises SourceError for an unknown spec."""
    kind, _, place = spec.partition(":")
    if kind == "folder" and place:
        from perturb.sources.folder import FolderSource

        yield from FolderSource(place).every_photo()
    elif kind == "sample" and (not place or place.isdigit()):
        from perturb.sources.sample import SampleSource

        yield from itertools.islice(SampleSource().photos(seed=0), int(place or SAMPLE_SIZE))
    else:
        raise SourceError(f"pool {spec!r} is not known; accepted: {ACCEPTED}")


def read_pool(spec: str, subject: Subject, judge: Judge) -> Pool:
    """Return the pool of `spec` as `subject` sees it.

    A photograph's label is its source's where that states a class; else the subject's own label, where `judge` finds
    that it belongs to what the source says the photograph shows. Images without either, of classes that the subject
    doesn't have, and duplicates are left out and counted. Raises SourceError where fewer than 20 are left.
    """
    return _collected(spec, subject, lambda photo, pixels: _label(photo, pixels, subject, judge))


def read_pool_like(spec: str, subject: Subject, rows: Sequence[Row]) -> Pool:
    """Return the pool of `spec` with the labels that another plan gave its images, so that both networks meet the same.

    A label that a judge confirmed for the other network is of the kind `other-confirmed`. Raises what `read_pool` does.
    """
    known = {row["source"]: row for row in rows}

    def label_of(photo: Photo, _: Pixels) -> tuple[int | None, str]:
        row = known.get(_source(photo))
        if row is None:
            return None, "that the other plan left out"
        return row["label"], "source" if row["label_from"] == "source" else "other-confirmed"

    return _collected(spec, subject, label_of)


def _collected(spec: str, subject: Subject, label_of: Callable[[Photo, Pixels], tuple[int | None, str]]) -> Pool:
    rows: dict[str, Row] = {}
    left_out: Counter[str] = Counter()
    for photo in pool_photos(spec):
        pixels = subject.classifier.prepare(photo.pixels)
        label, label_from = label_of(photo, pixels)
        identity = pixel_identity(pixels)
        if label is None:
            left_out[label_from] += 1
        elif identity in rows:
            left_out["duplicate of another image"] += 1
        else:
            rows[identity] = {
                "identity": identity,
                "label": label,
                "label_from": label_from,
                "cluster": photo.source_id.partition("@")[0] if photo.source == "sample" else photo.source_id,
                "source": _source(photo),
                "license": photo.license,
            }
    if len(rows) < SMALLEST:
        reasons = "; ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise SourceError(
            f"pool {spec} has {len(rows)} usable images; accepted: {SMALLEST} or more, with labels "
            "that the subject knows" + (f" (left out: {reasons})" if reasons else "")
        )
    return Pool([rows[identity] for identity in sorted(rows)], dict(sorted(left_out.items())))


def pool_pixels(spec: str, subject: Subject, wanted: set[str]) -> dict[str, Pixels]:
    """Return the images of the pool with these identities, uint8 (H, W, 3) at the subject's size.

    Raises SourceError where one is no longer there: the photographs changed since the plan.
    """
    found: dict[str, Pixels] = {}
    for photo in pool_photos(spec):
        pixels = subject.classifier.prepare(photo.pixels)
        identity = pixel_identity(pixels)
        if identity in wanted:
            found[identity] = pixels
        if len(found) == len(wanted):
            return found
    missing = sorted(wanted - found.keys())
    raise SourceError(
        f"pool {spec} lacks {len(missing)} images that were there when it was planned, such as {missing[0][:12]}…; "
        "restore the photographs, or make a new plan"
    )


def _source(photo: Photo) -> str:
    return f"{photo.source}:{photo.source_id}"


def _label(photo: Photo, pixels: Pixels, subject: Subject, judge: Judge) -> tuple[int | None, str]:
    """The label and where it is from; None and the reason where there is none."""
    if subject.is_imagenet and photo.true_class is not None:
        return photo.true_class, "source"
    if subject.description.classes == "file":
        known = {name.casefold(): index for index, name in enumerate(subject.class_names)}
        index = known.get((photo.subject or "").casefold())
        return (index, "source") if index is not None else (None, "of a class that the subject doesn't have")
    if not subject.is_imagenet:
        return None, "without a label: the names of the subject's classes are not known (--classes FILE)"
    if not photo.subject or photo.subject == "photograph" or Path(photo.subject).name != photo.subject:
        return None, "without a label"
    (seen,) = predict_reproducibly(pixels[None], true_label=0, classifier=subject.classifier, boundaries=())
    if judge.name == "none":
        return None, "without a label, and there is no judge to confirm the subject's own"
    confirmed = judge.belongs([(seen.label, photo.subject)])[0].holds
    return (seen.label, "model-confirmed") if confirmed else (None, "whose label the judge does not confirm")
