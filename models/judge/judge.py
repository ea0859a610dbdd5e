"""The judge: a small language model that decides which labels name the same kind of thing.

    judge = load_judge(settings.judge, cache=settings.cache)
    judge.belongs([(249, "dog")])       # does the label malamute belong to the subject dog?
    judge.same_kind([(249, 250)])       # do malamute and Siberian husky name the same kind of thing?

The model generates no text. Both answers compare a score of likelihoods (models/judge/scores.py) with a threshold that
was calibrated for the model (models/judge/calibration.json). The same pair always gets the same score.
"""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from perturb.models.judge.cache import JudgementCache
from perturb.models.judge.judgement import Judge, Judgement, NoJudge
from perturb.models.judge.label_tables import SHIPPED, LabelTables, load_tables, tables_path
from perturb.models.judge.language_judge import LanguageJudge
from perturb.models.judge.language_model import LanguageModel
from perturb.models.judge.prompts import template_version
from perturb.models.judge.thresholds import thresholds_of
from perturb.schemas.imagenet import NUM_CLASSES
from perturb.schemas.settings import JudgeSettings

__all__ = ["Judge", "Judgement", "LanguageJudge", "NoJudge", "judge_for", "load_judge"]

_loading = Lock()
_models: dict[tuple[str, int, Path], LanguageModel] = {}
logger = logging.getLogger(__name__)


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
    return LanguageJudge(model, cache=kept, thresholds=thresholds, tables=_known_tables(model.sha256, cache))


def _known_tables(model: str, cache: Path) -> LabelTables | None:
    """The tables of the weights, from the package or from the cache folder: those with more results."""
    found = [load_tables(path, model=model) for path in (SHIPPED, tables_path(cache, model=model))]
    return max(filter(None, found), key=lambda tables: len(tables.scored), default=None)


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
    from perturb.models.judge.load_model import load_language_model

    if name == gemma.NAME:
        folder = str(gemma.gemma_folder(cache, tell=tell))
        tell("loading weights")
        return load_language_model(folder, name=name, sha256=gemma.gguf_sha256(), batch_size=batch_size)
    tell("loading weights")
    return load_language_model(name, name=name, sha256=None, batch_size=batch_size)
