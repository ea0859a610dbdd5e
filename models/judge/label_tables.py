"""What a judge knows of the 1000 labels before it is asked: tables of one model under one version of the prompts.

A file of such tables stands in the cache folder for any judge that was prepared (models/judge/preparation.py), and in
this folder for the embedded judge, with scores besides.
"""

import logging
import os
import tempfile
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from perturb.models.judge.prompts import template_version
from perturb.models.judge.scores import LIMIT_STEPS, own_words
from perturb.models.labels import imagenet_labels
from perturb.schemas.imagenet import NUM_CLASSES

SUFFIX = ".labels.npz"
SHIPPED = Path(__file__).with_name("gemma-3-270m" + SUFFIX)
NUM_PAIRS = NUM_CLASSES * (NUM_CLASSES - 1) // 2
OVERLAP_STEPS = 65535
_FORMAT = 1
logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LabelTables:
    """Tables over the labels (1000), their pairs (499,500, see `pair_number`) and their words (`word_variants`).

    `model` is the sha256 of the weights, `template` the version of the prompts. The tables up to `neutral` are
    complete: `kind_states` (1000, width) and `kind_normalisers` (1000) predict the first token behind each label's kind
    prompt; `overlaps` (pairs, in units of 1 / OVERLAP_STEPS) are the shared categories; `limits` (pairs, in units of
    1 / LIMIT_STEPS) are what no pair's `same_kind` score exceeds; `own` and `neutral` (words) are the log-likelihoods
    of a label's words behind its own gloss and behind none, in nats. `name_states` and `name_normalisers` are the same
    as those of the kinds, behind each label's name prompt; both are empty in the package, where most scores are known.

    The others hold results, as many as were computed: `scored` are numbers of pairs in increasing order, `scores` their
    `same_kind` scores; `name_priors` and `name_scores` (1000, NaN where unknown) are the prior of each label's name as
    a subject, and how well the label belongs to it, in nats.
    """

    model: str
    template: str
    kind_states: Floats
    kind_normalisers: Floats
    name_states: Floats
    name_normalisers: Floats
    overlaps: npt.NDArray[np.uint16]
    limits: npt.NDArray[np.uint16]
    own: Floats
    neutral: Floats
    scored: npt.NDArray[np.int32]
    scores: Floats
    name_priors: Floats
    name_scores: Floats

    def limit(self, one: int, other: int) -> float:
        """Return what the `same_kind` score of two different labels does not exceed."""
        return int(self.limits[pair_number(one, other)]) / LIMIT_STEPS

    def decided(self, threshold: float) -> int:
        """Return the number of pairs whose limit is not above `threshold`."""
        return int((self.limits <= threshold * LIMIT_STEPS).sum())

    def overlap(self, one: int, other: int) -> float:
        """Return the shared category of two different labels, to 1e-5."""
        return int(self.overlaps[pair_number(one, other)]) / OVERLAP_STEPS

    def score(self, one: int, other: int) -> float | None:
        """Return the `same_kind` score of two different labels, or None where it was not computed."""
        number = pair_number(one, other)
        place = int(np.searchsorted(self.scored, number))
        known = place < len(self.scored) and int(self.scored[place]) == number
        return float(self.scores[place]) if known else None

    def with_scores(self, scores: dict[tuple[int, int], float]) -> "LabelTables":
        """Return these tables with further `same_kind` scores of pairs of different labels."""
        known = dict(zip(self.scored.tolist(), self.scores.tolist(), strict=True))
        known |= {pair_number(*pair): score for pair, score in scores.items()}
        ordered = sorted(known.items())
        return replace(
            self,
            scored=np.array([number for number, _ in ordered], np.int32),
            scores=np.array([score for _, score in ordered], np.float32),
        )

    def without_results(self) -> "LabelTables":
        """Return only what depends on one label alone, and the limits."""
        return replace(
            self,
            scored=np.empty(0, np.int32),
            scores=np.empty(0, np.float32),
            name_priors=np.full(NUM_CLASSES, np.nan, np.float32),
            name_scores=np.full(NUM_CLASSES, np.nan, np.float32),
        )

    def for_package(self) -> "LabelTables":
        """Return these tables without what is hardly used where all results are known."""
        return replace(self, name_states=self.name_states[:0], name_normalisers=self.name_normalisers[:0])

    def save(self, path: Path) -> None:
        """Write the tables by one rename, so that a killed process leaves no half file. Raises OSError."""
        save_arrays(path, {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)})


def load_tables(path: Path, *, model: str) -> LabelTables | None:
    """Return the tables in `path` for these weights and the present prompts; None where the file is missing or others'.

    A damaged file is named in the log, and None is returned: the tables are then computed anew.
    """
    try:
        arrays = load_arrays(path)
        if arrays is None:
            return None
        told = {name: str(arrays.pop(name)) for name in ("model", "template")}
        if told != {"model": model, "template": template_version()}:
            return None
        tables = LabelTables(**told, **arrays)  # type: ignore[arg-type]
        _check(tables)
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("the judge's tables %s are damaged (%s); what they held is computed anew", path, error)
        return None
    return tables


def pair_number(one: int, other: int) -> int:
    """Return the place of a pair of different labels, in any order, in the rows of the upper triangle."""
    low, high = min(one, other), max(one, other)
    return low * NUM_CLASSES - low * (low + 1) // 2 + high - low - 1


@cache
def word_variants() -> dict[tuple[int, str], int]:
    """Return the number of each (label, words): its name, and what is left of it beside each other label's name."""
    names = [label.name for label in imagenet_labels()]
    variants = {
        (index, own_words(name, beside=beside))
        for index, name in enumerate(names)
        for beside in ("", *(names[other] for other in labels_that_share_a_word()[index]))
    }
    return {variant: number for number, variant in enumerate(sorted(v for v in variants if v[1]))}


@cache
def labels_that_share_a_word() -> tuple[tuple[int, ...], ...]:
    """Return for each label the others, in order, whose name has a word in common with its own."""
    words = [set(label.name.lower().split()) for label in imagenet_labels()]
    users: dict[str, set[int]] = {}
    for index, own in enumerate(words):
        for word in own:
            users.setdefault(word, set()).add(index)
    return tuple(
        tuple(sorted(set[int]().union(*(users[word] for word in own)) - {index})) for index, own in enumerate(words)
    )


def save_arrays(path: Path, arrays: dict[str, npt.NDArray[np.generic]], *, compress: bool = True) -> None:
    """Write named arrays with the format's version by one rename. Raises OSError."""
    write = np.savez_compressed if compress else np.savez
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file, **arrays, format=np.array(_FORMAT))  # type: ignore[arg-type]
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_arrays(path: Path) -> dict[str, npt.NDArray[np.generic]] | None:
    """Return what `save_arrays` wrote, or None where there is no file. Raises ValueError for a damaged file."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        version = int(arrays.pop("format"))
    # A damaged archive raises errors of zipfile, zlib, struct and numpy, whose only common base is Exception.
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if version != _FORMAT:
        raise ValueError(f"format {version}; accepted: {_FORMAT}")
    return arrays


def other_tables(folder: Path, *, model: str) -> list[Path]:
    """Return the files of tables in `folder` that belong to other weights or prompts and are not used."""
    return sorted(path for path in folder.glob("*" + SUFFIX) if path != tables_path(folder, model=model))


def tables_path(folder: Path, *, model: str) -> Path:
    """Return where the tables of these weights and the present prompts stand in the cache folder."""
    return folder / f"judge-{model[:12]}-{template_version()}{SUFFIX}"


def _check(tables: LabelTables) -> None:
    words, labels, scored = len(word_variants()), NUM_CLASSES, len(tables.scored)
    named = NUM_CLASSES if len(tables.name_states) else 0
    shapes = {
        "kind_states": (np.float32, (labels, *tables.kind_states.shape[1:])),
        "kind_normalisers": (np.float32, (labels,)),
        "name_states": (np.float32, (named, *tables.kind_states.shape[1:])),
        "name_normalisers": (np.float32, (named,)),
        "overlaps": (np.uint16, (NUM_PAIRS,)),
        "limits": (np.uint16, (NUM_PAIRS,)),
        "own": (np.float32, (words,)),
        "neutral": (np.float32, (words,)),
        "scored": (np.int32, (scored,)),
        "scores": (np.float32, (scored,)),
        "name_priors": (np.float32, (labels,)),
        "name_scores": (np.float32, (labels,)),
    }
    for name, (dtype, shape) in shapes.items():
        array = getattr(tables, name)
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype} {array.shape}; accepted: {np.dtype(dtype)} {shape}")
    _require(tables.kind_states.ndim == 2, "kind_states has not two dimensions")
    states = (tables.kind_states, tables.kind_normalisers, tables.name_states, tables.name_normalisers)
    finite = (*states, tables.own, tables.neutral, tables.scores)
    _require(all(np.isfinite(array).all() for array in finite), "a value is not finite")
    _require(int(tables.limits.max()) <= LIMIT_STEPS, "a limit is above 1")
    _require(bool((np.diff(tables.scored) > 0).all()), "scored is not in increasing order")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
