"""The prompts for the language model, and the version under which its scores are stored."""

import hashlib
import re

from perturb.models.labels import Label
from perturb.schemas.imagenet import NUM_CLASSES

# Ends where a broader word would follow: "red fox or fox: the common Old World fox. Category:"
KIND = "{names}: {gloss}. Category:"
# Ends where another name of the same thing would follow.
NAME = "{name}: {gloss}. Also called:"
# The same about an unspecified thing: the likelihood that comes from the form of the prompt alone.
NAME_OF_NOTHING = "thing: something. Also called:"

# Every 62nd class: the labels over which a subject's prior is averaged. ImageNet's order follows its taxonomy, so these
# are animals, food, vehicles, tools and scenes in proportion.
REFERENCES = tuple(range(31, NUM_CLASSES, 62))

# Such as "Tinca tinca": many tokens, and a small model knows little of them.
_BINOMIAL = re.compile(r"[A-Z][a-z]+ [a-z]+")
_ARITHMETIC = "1"  # Raise when the way scores are computed from likelihoods changes.
_MAX_SUBJECT_WORDS = 12
_MAX_GLOSS_WORDS = 12


def template_version() -> str:
    """Return the version of the prompts, references and arithmetic; the cache keeps the scores of versions apart."""
    parts = (KIND, NAME, NAME_OF_NOTHING, repr(REFERENCES), str(_MAX_GLOSS_WORDS), _BINOMIAL.pattern)
    return f"{_ARITHMETIC}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:8]}"


def kind_prompt(label: Label) -> str:
    """Return a prompt with up to two English names of the label and its gloss, which its category would continue."""
    further = [name for name in label.names[1:] if not _BINOMIAL.fullmatch(name)]
    return KIND.format(names=" or ".join([label.name, *further[:1]]), gloss=_first_clause(label))


def name_prompt(label: Label, name: str) -> str:
    """Return a prompt with one name of the label and its gloss, which another name would continue."""
    return NAME.format(name=name, gloss=_first_clause(label))


def subject_words(subject: str) -> str:
    """Return a search phrase or a folder's name in lower case, with `_` and `-` as spaces, cut to 12 words.

    The result is empty for a subject without a readable word.
    """
    return " ".join(subject.replace("_", " ").replace("-", " ").lower().split()[:_MAX_SUBJECT_WORDS])


def _first_clause(label: Label) -> str:
    # Long glosses go on to habitat and use; the genus comes first.
    return " ".join(label.gloss.split(";")[0].split(",")[0].split()[:_MAX_GLOSS_WORDS])
