"""The judge with a language model: scores from tables, from the cache, or computed, which gives the same."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from perturb.models.hypernyms import is_named_by
from perturb.models.judge.cache import JudgementCache, Key
from perturb.models.judge.judgement import Judgement
from perturb.models.judge.label_tables import LabelTables
from perturb.models.judge.language_model import LanguageModel, Prefixes
from perturb.models.judge.preparation import precompute, prepare
from perturb.models.judge.prompts import subject_words
from perturb.models.judge.scores import PairScore, above_prior, reference_prefixes, same_kind_scores, subject_priors
from perturb.models.judge.tabled_scores import (
    subject_likelihoods,
    tabled_belongs_score,
    tabled_prior,
    tabled_same_kind_scores,
)
from perturb.models.judge.thresholds import Thresholds
from perturb.schemas.errors import ModelError
from perturb.schemas.imagenet import NUM_CLASSES


class LanguageJudge:
    """A causal language model with thresholds.

    `cache` keeps scores between processes; None computes each one anew. `tables` hold what is known of the labels
    before a question is asked; None computes that with each question. Neither changes an answer.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        cache: JudgementCache | None,
        thresholds: Thresholds,
        tables: LabelTables | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.thresholds = thresholds
        self.tables = tables
        self.name = model.name
        self.sha256: str | None = model.sha256
        self._priors: dict[str, float] = {}

    def belongs(self, pairs: Sequence[tuple[int, str]]) -> list[Judgement]:
        """Return, for each (ImageNet-1k index, subject), whether the label belongs to the subject.

        It does where WordNet says so (`is_named_by`), and where the score, in nats, is above the threshold. One call
        with all pairs is faster than several. Every label belongs to a subject without a readable word, without a
        score. Raises ModelError for an index outside the classes, and when a score is not finite.
        """
        _check_indices([label for label, _ in pairs])
        keys = [(label, subject_words(subject)) for label, subject in pairs]
        scores = self._scores("belongs", [key for key in keys if key[1]], self._known_belongs, self._score_belongs)
        threshold = self.thresholds.belongs
        return [
            Judgement(score=scores[key], holds=scores[key] > threshold or is_named_by(key[1], key[0]))
            if key[1]
            else Judgement(None, True)
            for key in keys
        ]

    def same_kind(self, pairs: Sequence[tuple[int, int]]) -> list[Judgement]:
        """Return, for each two ImageNet-1k indices, whether they name the same kind of thing.

        A label is the same kind as itself. The score is 0..1 and does not depend on the order. Where a limit of the
        score is not above the threshold, it decides and stands in the place of the score. Raises as `belongs`.
        """
        _check_indices([index for pair in pairs for index in pair])
        keys = [(min(pair), str(max(pair))) for pair in pairs]
        different = [key for key, (first, second) in zip(keys, pairs, strict=True) if first != second]
        threshold = self.thresholds.same_kind
        limits = self._limits(different)
        scores = self._scores(
            "same_kind",
            [key for key in different if limits[key] > threshold],
            self._known_same_kind,
            lambda missing: [found.score for found in self._score_same_kind(missing)],
        )
        decided = {key: Judgement(score=limit, holds=False, limit=True) for key, limit in limits.items()}
        decided |= {key: Judgement(score=score, holds=score > threshold) for key, score in scores.items()}
        return [decided.get(key, Judgement(score=1.0, holds=True)) for key in keys]

    def prepare(self, folder: Path, *, tell: Callable[[str], None] = lambda _: None) -> None:
        """Compute the tables of all labels where there are none, and keep them in `folder`.

        `tell` receives how far it is. Raises ModelError when `folder` cannot be written.
        """
        if self.tables is None:
            self.tables = prepare(self.model, folder, tell=tell)

    def precompute(self, folder: Path, *, tell: Callable[[str], None] = lambda _: None) -> None:
        """Compute what can be known before it is asked, where it is not yet known, and keep it in `folder`.

        That is every pair of labels whose limit is above the threshold, or a little below it, and every label's name as
        a subject. What was computed before a kill is kept. `tell` and errors as `prepare`.
        """
        self.tables = precompute(self.model, folder, start=self.tables, threshold=self.thresholds.same_kind, tell=tell)

    def uncached(self) -> "LanguageJudge":
        """Return the same judge without remembered judgements, for measuring; tables of single labels stay."""
        tables = None if self.tables is None else self.tables.without_results()
        return LanguageJudge(self.model, cache=None, thresholds=self.thresholds, tables=tables)

    def prepare_subjects(self, subjects: Sequence[str]) -> None:
        """Compute the priors of subjects, once each, so that later pairs with them cost no more than the pair."""
        new = [(-1, text) for text in map(subject_words, subjects) if text and text not in self._priors]
        found = self._scores(
            "prior",
            new,
            lambda key: None if self.tables is None else tabled_prior(self.model, self.tables, key[1]),
            lambda keys: subject_priors(self._references, [text for _, text in keys]),
        )
        self._priors.update({text: value for (_, text), value in found.items()})

    def _scores(
        self,
        question: str,
        keys: Sequence[Key],
        look_up: Callable[[Key], float | None],
        compute: Callable[[list[Key]], list[float]],
    ) -> Mapping[Key, float]:
        """The scores of `keys`: from the tables, from the cache, or computed and put into the cache."""
        wanted = list(dict.fromkeys(keys))
        known = {key: score for key in wanted if (score := look_up(key)) is not None}
        asked = [key for key in wanted if key not in known]
        if self.cache is not None and asked:
            known |= self.cache.get(question, asked)
        missing = [key for key in asked if key not in known]
        if not missing:
            return known
        fresh = dict(zip(missing, compute(missing), strict=True))
        self._check_finite(fresh)
        if self.cache is not None:
            self.cache.put(question, fresh)
        return known | fresh

    def _check_finite(self, scores: Mapping[Key, float]) -> None:
        for (label, target), score in scores.items():
            if not math.isfinite(score):
                raise ModelError(
                    f"judge {self.name!r} gave {score} for label {label} and {target!r}; its weights are unusable, "
                    "choose another model, or set judge.name to 'none'"
                )

    @functools.cached_property
    def _references(self) -> Prefixes:
        return reference_prefixes(self.model)

    def _known_belongs(self, key: Key) -> float | None:
        return None if self.tables is None else tabled_belongs_score(self.tables, *key)

    def _score_belongs(self, keys: list[Key]) -> list[float]:
        self.prepare_subjects([subject for _, subject in keys])
        likelihoods = subject_likelihoods(self.model, self.tables, keys)
        return [
            above_prior(likelihood, subject, self._priors[subject])
            for likelihood, (_, subject) in zip(likelihoods, keys, strict=True)
        ]

    def _limits(self, keys: list[Key]) -> Mapping[Key, float]:
        if self.tables is not None:
            return {key: self.tables.limit(*_pair(key)) for key in keys}
        return self._scores(
            "same_kind_limit",
            keys,
            lambda key: None,
            lambda missing: [found.limit for found in self._score_same_kind(missing)],
        )

    def _known_same_kind(self, key: Key) -> float | None:
        return None if self.tables is None else self.tables.score(*_pair(key))

    def _score_same_kind(self, keys: list[Key]) -> list[PairScore]:
        pairs = [_pair(key) for key in keys]
        if self.tables is None:
            return same_kind_scores(self.model, pairs)
        found = tabled_same_kind_scores(self.model, self.tables, pairs)
        return [PairScore(score, self.tables.limit(*pair)) for score, pair in zip(found, pairs, strict=True)]


def _pair(key: Key) -> tuple[int, int]:
    return key[0], int(key[1])


def _check_indices(indices: Sequence[int]) -> None:
    for index in indices:
        if not 0 <= index < NUM_CLASSES:
            raise ModelError(f"label {index} is not an ImageNet-1k class; accepted: 0 to {NUM_CLASSES - 1}")
