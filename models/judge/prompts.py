"""What the language model is told of a label, and the version under which its answers are kept."""

import hashlib
import re

from perturb.models.labels import NUM_CLASSES, Label

# Ends where a broader word would follow: "red fox or fox: the common Old World fox. Category:"
KIND = "{names}: {gloss}. Category:"
# Ends where another name of the same thing would follow.
NAME = "{name}: {gloss}. Also called:"
# The same, of nothing in particular: what the form alone makes likely.
NAME_OF_NOTHING = "thing: something. Also called:"

# Every 62nd class: the labels over which a subject's prior is averaged. ImageNet's order walks through its whole
# taxonomy, so these are animals, food, vehicles, tools and scenes in their shares.
REFERENCES = tuple(range(31, NUM_CLASSES, 62))

# "Tinca tinca": long in tokens, and a small model knows little of it.
_BINOMIAL = re.compile(r"[A-Z][a-z]+ [a-z]+")
_ARITHMETIC = "1"  # Raise when the way scores are computed from likelihoods changes.
_MAX_SUBJECT_WORDS = 12
_MAX_GLOSS_WORDS = 12


def template_version() -> str:
    """Names the prompts, the references and the arithmetic: scores of two versions never mix in the cache."""
    parts = (KIND, NAME, NAME_OF_NOTHING, repr(REFERENCES), str(_MAX_GLOSS_WORDS), _BINOMIAL.pattern)
    return f"{_ARITHMETIC}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:8]}"


def kind_prompt(label: Label) -> str:
    """Up to two of the label's English names and its gloss, asking for its kind."""
    further = [name for name in label.names[1:] if not _BINOMIAL.fullmatch(name)]
    return KIND.format(names=" or ".join([label.name, *further[:1]]), gloss=_first_clause(label))


def name_prompt(label: Label, name: str) -> str:
    """One name of the label and its gloss, asking for another name."""
    return NAME.format(name=name, gloss=_first_clause(label))


def subject_words(subject: str) -> str:
    """A subject as it is asked: a search phrase or a folder's name in lower case, `_` and `-` as spaces, 12 words.

    Empty when nothing readable is left.
    """
    return " ".join(subject.replace("_", " ").replace("-", " ").lower().split()[:_MAX_SUBJECT_WORDS])


def _first_clause(label: Label) -> str:
    # Long glosses drift into habitat and use; the genus stands in front.
    return " ".join(label.gloss.split(";")[0].split(",")[0].split()[:_MAX_GLOSS_WORDS])
