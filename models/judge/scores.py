"""The two scores, as arithmetic over a language model's likelihoods, without thresholds and cache.

Both are domain-conditional PMI (Holtzman et al. 2021, "Surface Form Competition: Why the Highest Probability Answer
Isn't Always Right"): how much more likely a label makes some words than its domain does.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from perturb.models.judge.language_model import LanguageModel, Prefixes
from perturb.models.judge.prompts import NAME_OF_NOTHING, REFERENCES, kind_prompt, name_prompt
from perturb.models.labels import imagenet_label

# Limits are rounded up to multiples of 1 / LIMIT_STEPS, so that float32 rounding rarely shows in them, and so that a
# table of all pairs takes two bytes a pair.
LIMIT_STEPS = 4096
_SUBJECTS_AT_ONCE = 8


class PairScore(NamedTuple):
    """How far two labels name one kind of thing, 0..1, and a `limit` that `score` can't exceed."""

    score: float
    limit: float


def reference_prefixes(model: LanguageModel) -> Prefixes:
    """Return the prompts of the reference labels, read once (14 MB for Gemma 3 270M)."""
    return Prefixes(model, [kind_prompt(imagenet_label(index)) for index in REFERENCES])


def subject_priors(references: Prefixes, subjects: Sequence[str]) -> list[float]:
    """Return for each subject the mean of `log p(subject | label)` over the reference labels, in nats."""
    priors: list[float] = []
    for first in range(0, len(subjects), _SUBJECTS_AT_ONCE):
        block = subjects[first : first + _SUBJECTS_AT_ONCE]
        asked = [(number, f" {subject}") for subject in block for number in range(len(REFERENCES))]
        values = [sum(tokens) for tokens in references.log_likelihoods(asked)]
        step = len(REFERENCES)
        priors += [sum(values[begin : begin + step]) / step for begin in range(0, len(values), step)]
    return priors


def belongs_scores(
    model: LanguageModel, pairs: Sequence[tuple[int, str]], *, priors: Mapping[str, float]
) -> list[float]:
    """Return how well labels belong to subjects: `PMI + prior / (2 n)` for a subject of n words, in nats.

    PMI is `log p(subject | label) - prior`. Plain PMI favours rare words, so half of the prior is added back; for one
    word that makes the score half of Daille's PMI² (1994). The prior of one word is added back, not that of each, so
    that a long phrase does not score lower for its length.
    """
    requests = [(kind_prompt(imagenet_label(label)), f" {subject}") for label, subject in pairs]
    return [
        above_prior(likelihood, subject, priors[subject])
        for likelihood, (_, subject) in zip(model.log_likelihoods(requests), pairs, strict=True)
    ]


def above_prior(likelihood: float, subject: str, prior: float) -> float:
    """Return the score of `belongs_scores` from `log p(subject | label)` and the subject's prior, both in nats."""
    return likelihood - prior * (1 - 0.5 / len(subject.split()))


def same_kind_scores(model: LanguageModel, pairs: Sequence[tuple[int, int]]) -> list[PairScore]:
    """Return how far two labels name one kind of thing, 0..1: shared name times shared category. Symmetric.

    Shared name: `PMI(name b; gloss a) / PMI(name b; gloss b)`, the part of what b's gloss says about b's name that a's
    gloss says as well, over the words that the two names do not have in common, averaged over both directions. Shared
    category: the Bhattacharyya coefficient of the next words that the model expects after both glosses; it separates
    the crane that flies from the crane that lifts.

    The limit has the likelihood of a name's first token in the place of the whole name's: further tokens can only make
    it less likely.
    """
    directions = [direction for one, other in pairs for direction in ((one, other), (other, one))]
    requests: list[tuple[str, str]] = []
    for one, other in directions:
        here, there = imagenet_label(one), imagenet_label(other)
        words = own_words(there.name, beside=here.name)
        requests += [
            (name_prompt(here, here.name), words),
            (name_prompt(there, there.name), words),
            (NAME_OF_NOTHING, words),
        ]
    with_words = list(dict.fromkeys(request for request in requests if request[1]))
    known = dict(zip(with_words, model.token_log_likelihoods(with_words), strict=True))
    shares: list[float] = []
    limits: list[float] = []
    for first in range(0, len(requests), 3):
        if not requests[first][1]:
            shares.append(1.0)
            limits.append(1.0)
            continue
        across, own, neutral = (known[request] for request in requests[first : first + 3])
        shares.append(share(sum(across), sum(own), sum(neutral)))
        limits.append(share(across[0], sum(own), sum(neutral)))
    return [
        PairScore(
            overlap * (shares[2 * number] + shares[2 * number + 1]) / 2,
            rounded_up(overlap * (limits[2 * number] + limits[2 * number + 1]) / 2),
        )
        for number, overlap in enumerate(_overlaps(model, pairs))
    ]


def rounded_up(limit: float) -> float:
    """Return `limit` rounded up to a multiple of 1 / LIMIT_STEPS, at most 1."""
    return min(LIMIT_STEPS, math.ceil(limit * LIMIT_STEPS)) / LIMIT_STEPS


def own_words(name: str, *, beside: str) -> str:
    """Return the words of `name` that `beside` lacks, each after a space: " labrador" beside golden retriever."""
    known = set(beside.lower().split())
    return "".join(f" {word}" for word in name.lower().split() if word not in known)


def share(across: float, own: float, neutral: float) -> float:
    """Return `across` as a part of `own`, both above `neutral`, within 0..1; 0 where `own` is not above `neutral`."""
    if own <= neutral:
        return 0.0
    return min(1.0, max(0.0, (across - neutral) / (own - neutral)))


def _overlaps(model: LanguageModel, pairs: Sequence[tuple[int, int]]) -> list[float]:
    labels = sorted({index for pair in pairs for index in pair})
    place = {index: number for number, index in enumerate(labels)}
    states = model.last_states([kind_prompt(imagenet_label(index)) for index in labels])
    found = model.overlaps(states, model.log_normalisers(states))
    return [float(found[place[one], place[other]]) for one, other in pairs]
