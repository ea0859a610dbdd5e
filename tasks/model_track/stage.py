"""What candidates are measured on: photographs of the newest trusted days, and the line-up's own scores on them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from perturb.models.classifier import load_classifier
from perturb.schemas.errors import CorpusError
from perturb.schemas.model_track import Baseline
from perturb.schemas.settings import Settings
from perturb.schemas.trust import Trust
from perturb.sinks.corpus.corpus import HORIZON, Corpus
from perturb.sinks.log.log import Log
from perturb.sinks.targets.line_up import LineUps
from perturb.sinks.targets.registry import Registry
from perturb.tasks.harden.pairs import TooFewPhotographs, read_photographs
from perturb.tasks.lineup.find import classifier_settings, load_target
from perturb.tasks.lineup.promote import read_standing
from perturb.tasks.model_track.isolated import Examination, measure_against_first
from perturb.tasks.model_track.rank import score_of
from perturb.tasks.tiers.grant import split_place


@dataclass(frozen=True, eq=False)
class Stage:
    """The examination, the days and pairs it was made of, and the best score of the line-up's targets."""

    examination: Examination
    days: tuple[str, ...]
    pairs: int
    baseline: Baseline


def set_stage(settings: Settings, trust: Trust, *, fewest: int, tell: Callable[[str], None]) -> Stage:
    """Read the newest days that `trust` covers, and measure the targets of the line-up on them.

    Tiers with a delay have not had these days. Miners know the photographs, which were their challenges: those of more
    than a day ago may have been trained on. Raises CorpusError where no day counts, TooFewPhotographs where the days
    have fewer than `fewest`, ModelError where a target is missing.
    """
    corpus = Corpus.open(settings)
    registry = Registry(corpus.store)
    standing = read_standing(registry, LineUps(Log(corpus.store, trust=trust)), settings)
    first = classifier_settings(settings, standing.first)
    own = load_classifier(first)
    newest = islice(corpus.days_back(trust), HORIZON)
    counting = (manifest for manifest in newest if manifest.refusal(trust) is None)
    manifests = list(islice(counting, settings.model_track.days))
    days = sorted(manifest.day for manifest in manifests)
    if not days:
        raise CorpusError(f"none of the last {HORIZON} sealed days counts; `perturb seal` seals one")
    tell(f"reading {', '.join(map(str, days))}")
    found = read_photographs(corpus, registry, days=days, size=(own.height, own.width))
    if len(found) < fewest:
        raise TooFewPhotographs(
            f"{len(found)} photographs of {own.height} x {own.width} pixels were perturbed on "
            f"{', '.join(map(str, days))}; at least {fewest} are needed to compare networks: "
            "raise model_track.days, or wait for more rounds"
        )
    # The test split of exports comes first: no recipe of this project trains on it.
    chosen = sorted(found, key=lambda one: split_place(one.identity))[: settings.model_track.photographs]
    # Nobody knows the seed of the fresh attacks before the day is sealed.
    seed = int(manifests[0].merkle_root[:8], 16)
    examination = Examination(first, [one.held_out() for one in chosen], settings.model_track.attacked, seed)
    scores = []
    for share in standing.shares:
        tell(f"measuring {share.target} of the line-up")
        network = load_target(settings, registry.get(share.target))
        score = score_of(measure_against_first(network, examination, tell=tell), settings.model_track)
        if score is not None:
            scores.append(Baseline(target=share.target, score=score))
    if not scores:
        raise TooFewPhotographs(
            f"no target of the line-up gets one of the {len(chosen)} photographs right, so that none can be attacked"
        )
    best = max(scores, key=lambda one: one.score.total)
    return Stage(examination, tuple(map(str, days)), sum(len(one.versions) for one in chosen), best)
