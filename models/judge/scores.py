"""The two scores, as arithmetic over a language model's likelihoods, without thresholds and cache.

Both are domain-conditional PMI (Holtzman et al. 2021, "Surface Form Competition: Why the Highest Probability Answer
Isn't Always Right"): how much more likely a label makes some words than its domain does.
"""

from collections.abc import Mapping, Sequence

from perturb.models.judge.language_model import LanguageModel
from perturb.models.judge.prompts import NAME_OF_NOTHING, REFERENCES, kind_prompt, name_prompt
from perturb.models.labels import imagenet_label


def subject_priors(model: LanguageModel, subjects: Sequence[str]) -> list[float]:
    """Return for each subject the mean of `log p(subject | label)` over the reference labels, in nats."""
    prompts = [kind_prompt(imagenet_label(index)) for index in REFERENCES]
    values = model.log_likelihoods([(prompt, f" {subject}") for subject in subjects for prompt in prompts])
    step = len(prompts)
    return [sum(values[first : first + step]) / step for first in range(0, len(values), step)]


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
        likelihood - priors[subject] * (1 - 0.5 / len(subject.split()))
        for likelihood, (_, subject) in zip(model.log_likelihoods(requests), pairs, strict=True)
    ]


def same_kind_scores(model: LanguageModel, pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Return how far two labels name one kind of thing, 0..1: shared name times shared category. Symmetric.

    Shared name: `PMI(name b; gloss a) / PMI(name b; gloss b)`, the part of what b's gloss says about b's name that a's
    gloss says as well, over the words that the two names do not have in common, averaged over both directions. Shared
    category: the Bhattacharyya coefficient of the next words that the model expects after both glosses; it separates
    the crane that flies from the crane that lifts.
    """
    directions = [direction for one, other in pairs for direction in ((one, other), (other, one))]
    requests: list[tuple[str, str]] = []
    for one, other in directions:
        here, there = imagenet_label(one), imagenet_label(other)
        own_words = _own_words(there.name, beside=here.name)
        requests += [
            (name_prompt(here, here.name), own_words),
            (name_prompt(there, there.name), own_words),
            (NAME_OF_NOTHING, own_words),
        ]
    with_words = [request for request in requests if request[1]]
    known = dict(zip(with_words, model.log_likelihoods(with_words), strict=True))
    shares = [
        _share(*(known[request] for request in requests[first : first + 3])) if requests[first][1] else 1.0
        for first in range(0, len(requests), 3)
    ]
    overlaps = model.overlaps([(kind_prompt(imagenet_label(a)), kind_prompt(imagenet_label(b))) for a, b in pairs])
    return [overlap * (shares[2 * number] + shares[2 * number + 1]) / 2 for number, overlap in enumerate(overlaps)]


def _own_words(name: str, *, beside: str) -> str:
    """The words of `name` that `beside` lacks, each after a space: " labrador" beside golden retriever."""
    known = set(beside.lower().split())
    return "".join(f" {word}" for word in name.lower().split() if word not in known)


def _share(across: float, own: float, neutral: float) -> float:
    """`across` as a part of `own`, both above `neutral`, limited to 0..1; 0 where `own` is not above `neutral`."""
    if own <= neutral:
        return 0.0
    return min(1.0, max(0.0, (across - neutral) / (own - neutral)))
