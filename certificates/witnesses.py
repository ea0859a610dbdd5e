"""The images of a certificate, checked again: sizes of changes on integers, labels by one pass of the network each."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from perturb.certificates.folder import broken_name, clean_name
from perturb.certificates.measure import Measurement, distance_columns, measure_image
from perturb.certificates.plan import Plan
from perturb.certificates.subject import Subject
from perturb.certificates.tables import Row
from perturb.certificates.workers import one_thread
from perturb.models.prediction import predict_reproducibly
from perturb.sandbox.stored import decode_stored
from perturb.schemas.image import Pixels, pixel_identity
from perturb.schemas.png import PngRefused, stored_size

# Margins are stated of double precision, and computed here in single precision.
_MARGIN_TOLERANCE = 0.02


def witness_faults(results: Sequence[Row], members: Mapping[str, bytes], *, subject: Subject | None) -> list[str]:
    """Return what is wrong with the images, a sentence each. Without a `subject` no label is checked.

    Each measured image must be there with the pixels that its rows state, and for each broken one the file that breaks
    it, with the stated distances; the network must give both the stated labels.
    """
    first, broken = _by_image(results)
    expected = {clean_name(identity) for identity in first} | {broken_name(identity) for identity in broken}
    if expected != members.keys():
        strangers = sorted(expected ^ members.keys())
        return [f"evidence.tar lacks {strangers[0]}, or should not have it"]
    try:
        pixels = _decoded(members)
    except PngRefused as refused:
        return [f"evidence.tar: an image is refused: {refused.detail}"]
    faults = [
        f"evidence.tar: {clean_name(identity)} has other pixels"
        for identity in first
        if pixel_identity(pixels[clean_name(identity)]) != identity
    ]
    for identity, row in broken.items():
        faults += _size_faults(row, pixels[clean_name(identity)], pixels[broken_name(identity)])
    if faults or subject is None:
        return faults
    return _label_faults(first, broken, pixels, subject)


def _by_image(results: Sequence[Row]) -> tuple[dict[str, Row], dict[str, Row]]:
    """The measured images' first rows, and the rows of the smallest level at which images broke."""
    first: dict[str, Row] = {}
    broken: dict[str, Row] = {}
    for row in results:
        if row["status"] != "not_run":
            first.setdefault(row["identity"], row)
        if row["status"] == "broken":
            broken.setdefault(row["identity"], row)
    return first, broken


def _decoded(members: Mapping[str, bytes]) -> dict[str, Pixels]:
    found = decode_stored([(data, *stored_size(data)) for data in members.values()])
    pixels: dict[str, Pixels] = {}
    for name, image in zip(members, found, strict=True):
        if isinstance(image, PngRefused):
            raise image
        pixels[name] = image
    return pixels


def _size_faults(row: Row, clean: Pixels, perturbed: Pixels) -> list[str]:
    name = broken_name(row["identity"])
    if pixel_identity(perturbed) != row["perturbed"] or clean.shape != perturbed.shape:
        return [f"evidence.tar: {name} has other pixels than its row states"]
    measured = distance_columns(clean, perturbed)
    wrong = [column for column, value in measured.items() if row[column] != value]
    faults = [f"{name}: {column} is {measured[column]}, its row states {row[column]}" for column in wrong]
    if measured["linf_levels"] > row["level"]:
        faults.append(f"{name} changes a value by {measured['linf_levels']} levels, more than {row['level']}")
    return faults


def _label_faults(
    first: Mapping[str, Row], broken: Mapping[str, Row], pixels: Mapping[str, Pixels], subject: Subject
) -> list[str]:
    asked = [(clean_name(identity), row, "clean_label", "clean_margin", -1) for identity, row in first.items()]
    asked += [(broken_name(identity), row, "adversarial_label", "margin", 1) for identity, row in broken.items()]
    shape = (subject.classifier.height, subject.classifier.width, 3)
    faults = []
    for name, row, label, margin, sign in asked:
        if pixels[name].shape != shape:
            faults.append(f"{name} is {pixels[name].shape[:2]} pixels, the subject takes {shape[:2]}")
            continue
        # One at a time: hundreds of images of a large subject would not fit into memory together.
        (found,) = predict_reproducibly(
            np.ascontiguousarray(pixels[name])[None],
            true_label=row["label"],
            classifier=subject.classifier,
            boundaries=(),
        )
        if found.label != row[label]:
            faults.append(f"{name} is seen as class {found.label}, its row states {row[label]}")
        elif abs(sign * found.margin - float(row[margin])) > _MARGIN_TOLERANCE:
            faults.append(f"{name} has a margin of {sign * found.margin:.3f}, its row states {row[margin]}")
    return faults


def replay_faults(
    plan: Plan,
    results: Sequence[Row],
    members: Mapping[str, bytes],
    subject: Subject,
    randomness: bytes,
    *,
    count: int,
    tell: Callable[[str], None],
) -> list[str]:
    """Attack up to `count` surviving images again from their seeds; return those that fall now, a sentence each."""
    survivors = [row for row in results if row["status"] == "survived" and row["level"] == plan.levels[-1]]
    survivors += [
        row
        for row in reversed(results)
        if row["status"] == "survived" and row["identity"] not in {one["identity"] for one in survivors}
    ]
    chosen = list({row["identity"]: row for row in survivors}.values())[:count]
    pixels = _decoded({clean_name(row["identity"]): members[clean_name(row["identity"])] for row in chosen})
    what = Measurement(plan.levels, plan.suite.attacks, plan.suite.grid, plan.sha256, randomness)
    faults = []
    for place, row in enumerate(chosen, start=1):
        tell(f"L6 image {place} of {len(chosen)}")
        with one_thread():
            again = measure_image(
                subject.classifier, pixels[clean_name(row["identity"])], row["label"], index=row["index"], what=what
            )
        fell = {one["level"] for one in again.rows if one["status"] == "broken"}
        wrong = [
            one
            for one in results
            if one["identity"] == row["identity"] and one["status"] == "survived" and one["level"] in fell
        ]
        if wrong:
            faults.append(f"image {row['identity'][:12]}… falls at level {wrong[0]['level']}, its row says it survived")
    return faults
