"""The same scores as models/judge/scores.py, from tables of the labels where these suffice.

With tables a pair of labels needs the model only for how each gloss goes on with the other's name, and a subject of one
token needs it not at all.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from perturb.models.judge.label_tables import Floats, LabelTables, word_variants
from perturb.models.judge.language_model import LanguageModel
from perturb.models.judge.prompts import REFERENCES, kind_prompt, name_prompt, subject_words
from perturb.models.judge.scores import own_words, share
from perturb.models.labels import imagenet_label, imagenet_labels


def tabled_same_kind_scores(model: LanguageModel, tables: LabelTables, pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Return the `same_kind` scores of pairs of different labels, 0..1."""
    directions = [direction for one, other in pairs for direction in ((one, other), (other, one))]
    asked: list[tuple[str, str]] = []
    for one, other in directions:
        here, there = imagenet_label(one), imagenet_label(other)
        asked.append((name_prompt(here, here.name), own_words(there.name, beside=here.name)))
    known = _name_likelihoods(model, tables, directions, asked)
    shares: list[float] = []
    for (_, other), request in zip(directions, asked, strict=True):
        if not request[1]:
            shares.append(1.0)
            continue
        variant = word_variants()[other, request[1]]
        shares.append(share(known[request], float(tables.own[variant]), float(tables.neutral[variant])))
    return [
        tables.overlap(*pair) * (shares[2 * number] + shares[2 * number + 1]) / 2 for number, pair in enumerate(pairs)
    ]


def subject_likelihoods(
    model: LanguageModel, tables: LabelTables | None, pairs: Sequence[tuple[int, str]]
) -> list[float]:
    """Return `log p(subject | label)` in nats for each (label, subject)."""
    coded = [model.encode(f" {subject}") for _, subject in pairs]
    short = [n for n, tokens in enumerate(coded) if len(tokens) == 1] if tables is not None else []
    found: dict[int, float] = {}
    if tables is not None and short:
        kinds = (tables.kind_states, tables.kind_normalisers)
        values = _first_tokens(model, *kinds, [pairs[n][0] for n in short], [coded[n][0] for n in short])
        found = dict(zip(short, values, strict=True))
    asked = [n for n in range(len(pairs)) if n not in found]
    values = model.log_likelihoods([(kind_prompt(imagenet_label(pairs[n][0])), f" {pairs[n][1]}") for n in asked])
    found.update(zip(asked, values, strict=True))
    return [found[n] for n in range(len(pairs))]


def tabled_prior(model: LanguageModel, tables: LabelTables, subject: str) -> float | None:
    """Return a subject's prior in nats, or None where the tables do not suffice."""
    label = label_by_name().get(subject)
    if label is not None and np.isfinite(tables.name_priors[label]):
        return float(tables.name_priors[label])
    tokens = model.encode(f" {subject}")
    if len(tokens) != 1:
        return None
    kinds = (tables.kind_states, tables.kind_normalisers)
    return sum(_first_tokens(model, *kinds, REFERENCES, tokens * len(REFERENCES))) / len(REFERENCES)


def tabled_belongs_score(tables: LabelTables, label: int, subject: str) -> float | None:
    """Return how well a label belongs to its own name, in nats; None for another subject and where it is unknown."""
    if subject != subject_words(imagenet_label(label).name) or not np.isfinite(tables.name_scores[label]):
        return None
    return float(tables.name_scores[label])


@cache
def label_by_name() -> dict[str, int]:
    """Return a label for each of the names, as subjects are read; of two labels with one name the first."""
    return {subject_words(label.name): label.index for label in reversed(imagenet_labels())}


def _name_likelihoods(
    model: LanguageModel,
    tables: LabelTables,
    directions: Sequence[tuple[int, int]],
    asked: Sequence[tuple[str, str]],
) -> dict[tuple[str, str], float]:
    """The log-likelihood of each (name prompt, words) that has words; that of one token needs no forward pass."""
    label = {request: here for request, (here, _) in zip(asked, directions, strict=True) if request[1]}
    token = {request: model.encode(request[1]) for request in label}
    short = [request for request in label if len(token[request]) == 1] if len(tables.name_states) else []
    names = (tables.name_states, tables.name_normalisers)
    values = _first_tokens(model, *names, [label[r] for r in short], [token[r][0] for r in short]) if short else []
    found = dict(zip(short, values, strict=True))
    longer = [request for request in label if request not in found]
    return found | dict(zip(longer, model.log_likelihoods(longer), strict=True))


def _first_tokens(
    model: LanguageModel,
    states: Floats,
    normalisers: Floats,
    labels: Sequence[int],
    tokens: Sequence[int],
) -> list[float]:
    """The log-probabilities of one token behind each label's prompt."""
    import torch

    rows, device = list(labels), model.head.device
    logits = model.paired_logits(torch.from_numpy(states[rows]).to(device), torch.tensor(list(tokens), device=device))
    return [float(value) for value in logits.cpu().numpy() - normalisers[rows]]
