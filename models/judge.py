"""The judge: a small language model that compares names, so that a flip means something.

Two questions. `belongs`: does an ImageNet label belong to a broad subject ("malamute" to "dog")? `same_kind`: do two
ImageNet labels name the same kind of thing? Both are answered by domain-conditional PMI (Holtzman et al. 2021,
"Surface Form Competition"): how much likelier the label's name and WordNet gloss make the other words than a
neutral beginning does. Nothing is generated or parsed, and the same pair always gets the same score.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from models.judge_cache import JudgementCache, Key
from models.language_model import LanguageModel
from schemas.settings import JudgeSettings

TEMPLATE = "0"
_PROVISIONAL = {"belongs": 5.7, "same_kind": 16.0}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judgement:
    """`score` grows with how well the two belong together (nats; None where nothing was computed)."""

    score: float | None
    holds: bool


class Judge(Protocol):
    """What the pipeline asks of a judge."""

    name: str
    sha256: str | None

    def belongs(self, pairs: Sequence[tuple[int, str]]) -> list[Judgement]:
        """For (ImageNet-1k index, subject): whether the label belongs to the subject."""
        ...

    def same_kind(self, pairs: Sequence[tuple[int, int]]) -> list[Judgement]:
        """For two ImageNet-1k indices: whether they name the same kind of thing, so no semantic mismatch."""
        ...


class NoJudge:
    """Does without a language model: every subject fits, and only a label itself is the same kind of thing."""

    name = "none"
    sha256: str | None = None

    def belongs(self, pairs: Sequence[tuple[int, str]]) -> list[Judgement]:
        """Every label is taken to belong; nothing was measured."""
        return [Judgement(score=None, holds=True) for _ in pairs]

    def same_kind(self, pairs: Sequence[tuple[int, int]]) -> list[Judgement]:
        """Two labels are the same kind of thing when they are the same label."""
        return [Judgement(score=None, holds=first == second) for first, second in pairs]


class LanguageJudge:
    """A causal LM with thresholds; `cache` (None computes everything) keeps scores between processes."""

    def __init__(self, model: LanguageModel, *, cache: JudgementCache | None, thresholds: dict[str, float]) -> None:
        self.model = model
        self.cache = cache
        self.thresholds = thresholds
        self.name = model.name
        self.sha256: str | None = model.sha256

    def belongs(self, pairs: Sequence[tuple[int, str]]) -> list[Judgement]:
        """For (ImageNet-1k index, subject): whether the label belongs to the subject. One batch for all."""
        keys = [(label, " ".join(subject.split()).lower()) for label, subject in pairs]
        return self._judge("belongs", keys)

    def same_kind(self, pairs: Sequence[tuple[int, int]]) -> list[Judgement]:
        """For two ImageNet-1k indices: whether they name the same kind of thing. A label always is its own kind."""
        ordered = [(min(pair), max(pair)) for pair in pairs]
        judged = self._judge("same_kind", [(first, str(second)) for first, second in ordered])
        return [
            Judgement(score=judgement.score, holds=judgement.holds or first == second)
            for judgement, (first, second) in zip(judged, ordered, strict=True)
        ]

    def _judge(self, question: str, keys: Sequence[Key]) -> list[Judgement]:
        known = {} if self.cache is None else self.cache.get(question, keys)
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        if missing:
            fresh = dict(zip(missing, self._score(question, missing), strict=True))
            known |= fresh
            if self.cache is not None:
                self.cache.put(question, fresh)
        threshold = self.thresholds[question]
        return [Judgement(score=known[key], holds=known[key] > threshold) for key in keys]

    def _score(self, question: str, keys: Sequence[Key]) -> list[float]:
        from models.labels import imagenet_label

        requests: list[tuple[str, str]] = []
        for index, target in keys:
            label = imagenet_label(index)
            gloss = label.gloss.split(";")[0]
            if question == "belongs":
                a, b = (
                    f"{label.name}: {label.gloss}. A {label.name} is a kind of",
                    f"A {label.name} ({gloss}) is a kind of",
                )
                base, word = "A thing is a kind of", f" {target}"
            else:
                a, b = (
                    f"{label.name}: {label.gloss}. Another word for {label.name} is",
                    f"A {label.name} ({gloss}) is also called a",
                )
                base, word = "Another word for it is", f" {imagenet_label(int(target)).name}"
            requests += [(a, word), (b, word), (base, word), (base, word)]
        values = self.model.log_likelihoods(requests)
        return [sum(values[n : n + 2]) - sum(values[n + 2 : n + 4]) for n in range(0, len(values), 4)]


def load_judge(settings: JudgeSettings, *, cache: Path) -> Judge:
    """The judge that the settings name, loaded once per process; `cache` holds converted weights and judgements.

    Raises ModelError that says how to go on when the model can't be loaded.
    """
    return _load(settings, cache)


@lru_cache(maxsize=2)
def _load(settings: JudgeSettings, cache: Path) -> Judge:
    if settings.name == "none":
        return NoJudge()
    model = _load_model(settings, cache)
    thresholds = dict(_PROVISIONAL)
    if settings.subject_threshold is not None:
        thresholds["belongs"] = settings.subject_threshold
    if settings.mismatch_threshold is not None:
        thresholds["same_kind"] = settings.mismatch_threshold
    kept = JudgementCache(cache / "judgements.sqlite", model=model.sha256, template=TEMPLATE)
    return LanguageJudge(model, cache=kept, thresholds=thresholds)


def _load_model(settings: JudgeSettings, cache: Path) -> LanguageModel:
    from models import gemma
    from models.language_model import load_language_model

    if settings.name == gemma.NAME:
        folder = str(gemma.gemma_folder(cache))
        return load_language_model(folder, name=gemma.NAME, sha256=gemma.gguf_sha256(), batch_size=settings.batch_size)
    return load_language_model(settings.name, name=settings.name, sha256=None, batch_size=settings.batch_size)
