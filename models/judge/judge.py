"""The judge: a small language model that decides which labels name the same kind of thing.

    judge = load_judge(settings.judge, cache=settings.cache)
    judge.belongs([(249, "dog")])       # does the label malamute belong to the subject dog?
    judge.same_kind([(249, 250)])       # do malamute and Siberian husky name the same kind of thing?

The model generates no text. Both answers compare a score of likelihoods (models/judge/scores.py) with a threshold that
was calibrated for the model (models/judge/calibration.json). The same pair always gets the same score.
"""

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

from perturb.models.judge.cache import JudgementCache, Key
from perturb.models.judge.language_model import LanguageModel
from perturb.models.judge.prompts import subject_words, template_version
from perturb.models.judge.scores import belongs_scores, same_kind_scores, subject_priors
from perturb.models.judge.thresholds import Thresholds, thresholds_of
from perturb.schemas.errors import ModelError
from perturb.schemas.imagenet import NUM_CLASSES
from perturb.schemas.settings import JudgeSettings

_loading = Lock()
_models: dict[tuple[str, int, Path], LanguageModel] = {}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judgement:
    """A higher `score` means that the two belong together more; None where it was not computed."""

    score: float | None
    holds: bool


class Judge(Protocol):
    """The two questions that the pipeline puts to a judge."""

    name: str
    sha256: str | None

    def belongs(self, pairs: Sequence[tuple[int, str]]) -> list[Judgement]:
        """Return, for each (ImageNet-1k index, subject), whether the label belongs to the subject."""
        ...

    def same_kind(self, pairs: Sequence[tuple[int, int]]) -> list[Judgement]:
        """Return, for each two ImageNet-1k indices, whether they name the same kind of thing."""
        ...


class NoJudge:
    """The judge without a language model: every label belongs, and only equal labels are the same kind of thing."""

    name = "none"
    sha256: str | None = None

    def belongs(self, pairs: Sequence[tuple[int, str]]) -> list[Judgement]:
        """Return that every label belongs, without a score."""
        return [Judgement(score=None, holds=True) for _ in pairs]

    def same_kind(self, pairs: Sequence[tuple[int, int]]) -> list[Judgement]:
        """Return whether the two labels are the same label."""
        return [Judgement(score=None, holds=first == second) for first, second in pairs]


class LanguageJudge:
    """A causal language model with thresholds. `cache` keeps scores between processes; None computes each one anew."""

    def __init__(self, model: LanguageModel, *, cache: JudgementCache | None, thresholds: Thresholds) -> None:
        self.model = model
        self.cache = cache
        self.thresholds = thresholds
        self.name = model.name
        self.sha256: str | None = model.sha256
        self._priors: dict[str, float] = {}

    def belongs(self, pairs: Sequence[tuple[int, str]]) -> list[Judgement]:
        """Return, for each (ImageNet-1k index, subject), whether the label belongs to the subject.

        One call with all pairs is faster than several. The score is in nats. Every label belongs to a subject without
        a readable word, without a score. Raises ModelError for an index outside the classes, and when a score is not
        finite.
        """
        _check_indices([label for label, _ in pairs])
        keys = [(label, subject_words(subject)) for label, subject in pairs]
        scores = self._scores("belongs", [key for key in keys if key[1]], self._score_belongs)
        threshold = self.thresholds.belongs
        return [
            Judgement(score=scores[key], holds=scores[key] > threshold) if key[1] else Judgement(None, True)
            for key in keys
        ]

    def same_kind(self, pairs: Sequence[tuple[int, int]]) -> list[Judgement]:
        """Return, for each two ImageNet-1k indices, whether they name the same kind of thing.

        A label is the same kind as itself. The score is 0..1 and does not depend on the order. Raises as `belongs`.
        """
        _check_indices([index for pair in pairs for index in pair])
        keys = [(min(pair), str(max(pair))) for pair in pairs]
        different = [key for key, (first, second) in zip(keys, pairs, strict=True) if first != second]
        scores = self._scores("same_kind", different, self._score_same_kind)
        return [
            Judgement(score=scores[key], holds=scores[key] > self.thresholds.same_kind)
            if key in scores
            else Judgement(score=1.0, holds=True)
            for key in keys
        ]

    def uncached(self) -> "LanguageJudge":
        """Return the same judge without its cache, for measuring."""
        return LanguageJudge(self.model, cache=None, thresholds=self.thresholds)

    def _scores(
        self, question: str, keys: Sequence[Key], compute: Callable[[list[Key]], list[float]]
    ) -> Mapping[Key, float]:
        wanted = list(dict.fromkeys(keys))
        known = {} if self.cache is None else self.cache.get(question, wanted)
        missing = [key for key in wanted if key not in known]
        if not missing:
            return known
        fresh = dict(zip(missing, compute(missing), strict=True))
        for (label, target), score in fresh.items():
            if not math.isfinite(score):
                raise ModelError(
                    f"judge {self.name!r} gave {score} for label {label} and {target!r}; its weights are unusable, "
                    "choose another model, or set judge.name to 'none'"
                )
        if self.cache is not None:
            self.cache.put(question, fresh)
        return known | fresh

    def prepare_subjects(self, subjects: Sequence[str]) -> None:
        """Compute the priors of subjects, once each, so that later pairs with them cost no more than the pair."""
        new = [(-1, text) for text in map(subject_words, subjects) if text and text not in self._priors]
        found = self._scores("prior", new, lambda keys: subject_priors(self.model, [text for _, text in keys]))
        self._priors.update({text: value for (_, text), value in found.items()})

    def _score_belongs(self, keys: list[Key]) -> list[float]:
        self.prepare_subjects([subject for _, subject in keys])
        return belongs_scores(self.model, keys, priors=self._priors)

    def _score_same_kind(self, keys: list[Key]) -> list[float]:
        return same_kind_scores(self.model, [(first, int(second)) for first, second in keys])


def load_judge(settings: JudgeSettings, *, cache: Path, tell: Callable[[str], None] = lambda _: None) -> Judge:
    """Return the judge that the settings name; a process loads its weights once.

    `cache` is the folder of converted weights and judgements. `tell` receives what is being done, such as "loading
    weights" or "converting weights 35 %". Raises ModelError, with what to do, when the model cannot be loaded.
    """
    if settings.name == "none":
        return NoJudge()
    with _loading:  # Two threads that come first at once must not both load a gigabyte.
        key = (settings.name, settings.batch_size, cache)
        if key not in _models:
            _models[key] = _load_model(*key, tell)
        model = _models[key]
    thresholds = thresholds_of(model, template=template_version()).overridden(
        belongs=settings.subject_threshold, same_kind=settings.mismatch_threshold
    )
    kept = JudgementCache(cache / "judgements.sqlite", model=model.sha256, template=template_version())
    return LanguageJudge(model, cache=kept, thresholds=thresholds)


def judge_for(judge: Judge, *, num_classes: int) -> Judge:
    """Return `judge` for a classifier of ImageNet-1k's classes, and `NoJudge` for a classifier of other classes.

    A judge knows class numbers as ImageNet-1k's only; for another network the same number means another thing.
    """
    if num_classes == NUM_CLASSES or isinstance(judge, NoJudge):
        return judge
    _warn_of_classes(num_classes)
    return NoJudge()


@functools.cache
def _warn_of_classes(num_classes: int) -> None:
    logger.warning(
        "the classifier has %d classes, not the %d of ImageNet-1k that judges know, so no judge is used",
        num_classes,
        NUM_CLASSES,
    )


def _load_model(name: str, batch_size: int, cache: Path, tell: Callable[[str], None]) -> LanguageModel:
    from perturb.models.judge import gemma
    from perturb.models.judge.language_model import load_language_model

    if name == gemma.NAME:
        folder = str(gemma.gemma_folder(cache, tell=tell))
        tell("loading weights")
        return load_language_model(folder, name=name, sha256=gemma.gguf_sha256(), batch_size=batch_size)
    tell("loading weights")
    return load_language_model(name, name=name, sha256=None, batch_size=batch_size)


def _check_indices(indices: Sequence[int]) -> None:
    for index in indices:
        if not 0 <= index < NUM_CLASSES:
            raise ModelError(f"label {index} is not an ImageNet-1k class; accepted: 0 to {NUM_CLASSES - 1}")
