"""Computes the tables of a judge's labels: once for each model and version of the prompts, resumed after a kill.

`prepare` computes what depends on one label alone, and the limits of all pairs. `precompute` adds scores: of all pairs
that their limit does not decide, and of each label's name as a subject.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from perturb.models.judge.label_tables import (
    NUM_PAIRS,
    OVERLAP_STEPS,
    LabelTables,
    labels_that_share_a_word,
    load_arrays,
    load_tables,
    save_arrays,
    tables_path,
    word_variants,
)
from perturb.models.judge.language_model import LanguageModel, Prefixes
from perturb.models.judge.prompts import NAME_OF_NOTHING, kind_prompt, name_prompt, subject_words, template_version
from perturb.models.judge.scores import LIMIT_STEPS, above_prior, own_words, reference_prefixes, subject_priors
from perturb.models.judge.tabled_scores import subject_likelihoods, tabled_same_kind_scores
from perturb.models.labels import imagenet_labels
from perturb.schemas.errors import ModelError
from perturb.schemas.imagenet import NUM_CLASSES

_LABELS_AT_ONCE = 50
_PAIRS_AT_ONCE = 256
# The share of the time that the labels' own texts take; the rest are the words without a gloss, and the pairs.
_SHARE_OF_LABELS = 0.8
# Scores are computed for pairs whose limit lies this far below the threshold, so that it may be lowered a little.
_BELOW_THRESHOLD = 0.05
logger = logging.getLogger(__name__)

Tell = Callable[[str], None]


def prepare(model: LanguageModel, folder: Path, *, tell: Tell = lambda _: None) -> LabelTables:
    """Return the tables of `model` from `folder`, computed on first use (about a minute and a half on two cores).

    Of two processes that prepare at the same time one waits for the other. `tell` receives "preparing labels 35 %, 60 s
    left" and the like. Raises ModelError when `folder` cannot be written, and for weights whose results are not finite.
    """
    path = tables_path(folder, model=model.sha256)
    with _alone(path):
        return _prepared(model, path, tell)


def precompute(
    model: LanguageModel,
    folder: Path,
    *,
    start: LabelTables | None = None,
    threshold: float,
    tell: Tell = lambda _: None,
) -> LabelTables:
    """Return `start`, by default the tables in `folder`, with all results that can be known before they are asked.

    What was missing is kept in `folder`, also when a kill ends the work. `threshold` is that of `same_kind`. Raises as
    `prepare`.
    """
    path = tables_path(folder, model=model.sha256)
    with _alone(path):
        tables = start or _prepared(model, path, tell)
        for scored in _with_scores(model, tables, threshold - _BELOW_THRESHOLD, tell):
            tables = scored
            tables.save(path)
        for named in _with_names(model, tables, tell):
            tables = named
            tables.save(path)
    return tables


def undecided(tables: LabelTables, threshold: float) -> list[tuple[int, int]]:
    """Return the pairs of labels whose limit is above `threshold`, the smaller index first, in order."""
    rows, columns = np.triu_indices(NUM_CLASSES, 1)
    above = tables.limits > threshold * LIMIT_STEPS
    return list(zip(rows[above].tolist(), columns[above].tolist(), strict=True))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(path) + ".lock"):
            yield
    except OSError as error:
        raise ModelError(
            f"cannot prepare the judge under {path.parent}: {error}; set PERTURB_CACHE_DIR to a folder that is writable"
        ) from error


def _prepared(model: LanguageModel, path: Path, tell: Tell) -> LabelTables:
    tables = load_tables(path, model=model.sha256)
    if tables is None:
        partial = path.with_suffix(".partial")
        tables = _compute(model, partial, tell)
        tables.save(path)
        partial.unlink(missing_ok=True)
    return tables


def _compute(model: LanguageModel, partial: Path, tell: Tell) -> LabelTables:
    variants = word_variants()
    first = sorted({model.encode(words)[0] for _, words in variants})
    done, arrays = _resumed(partial, model, len(first))
    clock = _Clock(tell, "preparing labels", done=done / NUM_CLASSES * _SHARE_OF_LABELS)
    while done < NUM_CLASSES:
        end = min(done + _LABELS_AT_ONCE, NUM_CLASSES)
        _read_labels(model, range(done, end), first, arrays)
        done = end
        save_arrays(partial, {**arrays, "done": np.array(done)}, compress=False)
        clock.reached(done / NUM_CLASSES * _SHARE_OF_LABELS)
    words = sorted({words for _, words in variants})
    logs = dict(zip(words, model.log_likelihoods([(NAME_OF_NOTHING, text) for text in words]), strict=True))
    neutral = np.array([logs[text] for _, text in variants], np.float32)
    clock.reached(0.87)
    overlaps, normalisers = _overlaps(model, arrays["kind_states"])
    limits = overlaps * _shared_name_limits(model, first, arrays["first_logs"], arrays["own"], neutral)
    upper = np.triu_indices(NUM_CLASSES, 1)
    tables = LabelTables(
        model=model.sha256,
        template=template_version(),
        kind_states=arrays["kind_states"],
        kind_normalisers=normalisers,
        name_states=arrays["name_states"],
        name_normalisers=arrays["name_normalisers"],
        overlaps=np.rint(np.clip(overlaps[upper], 0, 1) * OVERLAP_STEPS).astype(np.uint16),
        limits=np.clip(np.ceil(limits[upper] * LIMIT_STEPS), 0, LIMIT_STEPS).astype(np.uint16),
        own=arrays["own"],
        neutral=neutral,
        scored=np.empty(0, np.int32),
        scores=np.empty(0, np.float32),
        name_priors=np.full(NUM_CLASSES, np.nan, np.float32),
        name_scores=np.full(NUM_CLASSES, np.nan, np.float32),
    )
    if not all(np.isfinite(part).all() for part in (normalisers, neutral, arrays["own"], limits)):
        raise ModelError(
            f"judge {model.name!r} gave values that are not finite; its weights are unusable, choose another model, or "
            "set judge.name to 'none'"
        )
    return tables


def _resumed(partial: Path, model: LanguageModel, tokens: int) -> tuple[int, dict[str, np.ndarray]]:
    """The number of labels that an earlier process read, and its arrays; zeros where there was none."""
    shapes = {
        "kind_states": (NUM_CLASSES, model.head.shape[1]),
        "name_states": (NUM_CLASSES, model.head.shape[1]),
        "name_normalisers": (NUM_CLASSES,),
        "first_logs": (NUM_CLASSES, tokens),
        "own": (len(word_variants()),),
    }
    try:
        found = load_arrays(partial)
        if found is not None:
            done = int(found.pop("done"))
            if {name: array.shape for name, array in found.items()} == shapes and 0 <= done <= NUM_CLASSES:
                return done, found
            raise ValueError("its tables have other sizes")
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("the judge's unfinished tables %s are damaged (%s); they are computed anew", partial, error)
    return 0, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def _read_labels(model: LanguageModel, labels: range, first: list[int], arrays: dict[str, np.ndarray]) -> None:
    """Fill in the rows of `labels`: states behind kind prompts, first tokens and own words behind name prompts."""
    known = [imagenet_labels()[index] for index in labels]
    arrays["kind_states"][labels.start : labels.stop] = model.last_states([kind_prompt(label) for label in known]).cpu()
    ordered = sorted(known, key=lambda label: len(model.encode(name_prompt(label, label.name))))
    words: dict[int, list[tuple[int, str]]] = {}
    for (index, text), number in word_variants().items():
        words.setdefault(index, []).append((number, text))
    for begin in range(0, len(ordered), model.batch_size):
        block = ordered[begin : begin + model.batch_size]
        prefixes = Prefixes(model, [name_prompt(label, label.name) for label in block])
        places = [label.index for label in block]
        arrays["name_states"][places] = prefixes.states.cpu()
        arrays["name_normalisers"][places] = prefixes.normalisers.cpu()
        logs = model.token_logits(prefixes.states, first) - prefixes.normalisers[:, None]
        arrays["first_logs"][places] = logs.cpu()
        asked = [(row, number, text) for row, label in enumerate(block) for number, text in words.get(label.index, ())]
        found = prefixes.log_likelihoods([(row, text) for row, _, text in asked])
        arrays["own"][[number for _, number, _ in asked]] = [sum(tokens) for tokens in found]


def _overlaps(model: LanguageModel, kind_states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import torch

    states = torch.from_numpy(kind_states).to(model.head.device)
    normalisers = model.log_normalisers(states)
    return model.overlaps(states, normalisers).cpu().numpy(), normalisers.cpu().numpy()


def _shared_name_limits(
    model: LanguageModel, first: list[int], first_logs: np.ndarray, own: np.ndarray, neutral: np.ndarray
) -> np.ndarray:
    """What the shared name of two labels does not exceed, (1000, 1000), symmetric; see `same_kind_scores`."""
    column = {token: number for number, token in enumerate(first)}
    names = [label.name for label in imagenet_labels()]

    def limit(here: int | slice, there: int, words: str) -> np.ndarray:
        number = word_variants()[there, words]
        across = first_logs[here, column[model.encode(words)[0]]]
        if own[number] <= neutral[number]:
            return np.zeros_like(across)
        part: np.ndarray = np.clip((across - neutral[number]) / (own[number] - neutral[number]), 0, 1)
        return part

    limits = np.empty((NUM_CLASSES, NUM_CLASSES))
    for there, name in enumerate(names):
        limits[:, there] = limit(slice(None), there, own_words(name, beside=""))
        for here in labels_that_share_a_word()[there]:
            words = own_words(name, beside=names[here])
            limits[here, there] = limit(here, there, words) if words else 1
    return (limits + limits.T) / 2


def _with_scores(model: LanguageModel, tables: LabelTables, above: float, tell: Tell) -> Iterator[LabelTables]:
    asked = [pair for pair in undecided(tables, above) if tables.score(*pair) is None]
    clock = _Clock(tell, f"scoring {len(asked)} of {NUM_PAIRS} pairs of labels")
    for first in range(0, len(asked), _PAIRS_AT_ONCE):
        block = asked[first : first + _PAIRS_AT_ONCE]
        tables = tables.with_scores(dict(zip(block, tabled_same_kind_scores(model, tables, block), strict=True)))
        clock.reached((first + len(block)) / len(asked))
        yield tables


def _with_names(model: LanguageModel, tables: LabelTables, tell: Tell) -> Iterator[LabelTables]:
    asked = [label for label in imagenet_labels() if not np.isfinite(tables.name_scores[label.index])]
    clock = _Clock(tell, "scoring the labels' names as subjects")
    references = reference_prefixes(model) if asked else None
    for first in range(0, len(asked), _LABELS_AT_ONCE):
        block = asked[first : first + _LABELS_AT_ONCE]
        subjects = [subject_words(label.name) for label in block]
        assert references is not None
        priors = subject_priors(references, subjects)
        likelihoods = subject_likelihoods(model, tables, [(x.index, s) for x, s in zip(block, subjects, strict=True)])
        places = [label.index for label in block]
        name_priors, name_scores = tables.name_priors.copy(), tables.name_scores.copy()
        name_priors[places] = priors
        name_scores[places] = [above_prior(*parts) for parts in zip(likelihoods, subjects, priors, strict=True)]
        tables = replace(tables, name_priors=name_priors, name_scores=name_scores)
        clock.reached((first + len(block)) / len(asked))
        yield tables


class _Clock:
    """Tells how far a work is and, after its first part, how long the rest takes."""

    def __init__(self, tell: Tell, title: str, *, done: float = 0.0) -> None:
        self._tell, self._title, self._begun = tell, title, done
        self._started = time.monotonic()
        tell(f"{title} {done:.0%}")

    def reached(self, share_done: float) -> None:
        spent, made = time.monotonic() - self._started, share_done - self._begun
        self._tell(f"{self._title} {share_done:.0%}, {spent / made * (1 - share_done):.0f} s left")
