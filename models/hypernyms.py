"""What the 1000 classes of ImageNet-1k are kinds of, by WordNet 3.0: how far a flip goes, and what a subject covers.

`hypernyms.json` holds the synsets of the classes and everything above them. It is an excerpt of WordNet 3.0, Copyright
2006 by Princeton University, whose licence (in the file) allows this use; `hypernyms_table.py` writes it.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from perturb.models.labels import imagenet_labels

# The height of `whole`, below which living things, artefacts and food have nothing in common. What covers more says
# nothing about a photograph.
SEVERE_HEIGHT = 15

_MAX_WORDS = 5


@dataclass(frozen=True)
class Synset:
    """One meaning of a word: `names` are its lemmas, `hypernyms` the WordNet IDs of what it is a kind of."""

    names: tuple[str, ...]
    hypernyms: tuple[str, ...]


@cache
def synsets() -> dict[str, Synset]:
    """Return the classes' synsets and all above them, by WordNet ID such as `n02121620`."""
    return {key: Synset(tuple(entry["names"]), tuple(entry["hypernyms"])) for key, entry in _table()["synsets"].items()}


@cache
def ancestors(synset: str) -> frozenset[str]:
    """Return the WordNet IDs of a synset and of everything that it is a kind of."""
    return frozenset({synset}).union(*(ancestors(above) for above in synsets()[synset].hypernyms))


@cache
def classes_below(synset: str) -> frozenset[int]:
    """Return the ImageNet-1k indices of the classes that are a kind of `synset`, or are it."""
    return frozenset(label.index for label in imagenet_labels() if synset in ancestors(label.synset))


@cache
def height(synset: str) -> int:
    """Return the number of steps from `synset` down to the class farthest below it; 0 for a class."""
    return max((1 + height(below) for below in _hyponyms().get(synset, ())), default=0)


def hypernym_height(first: int, second: int) -> int:
    """Return the height of the lowest hypernym that two ImageNet-1k classes share; 0 for the same class, at most 18.

    The severity of a mistake as in Bertinetto et al. 2020, "Making better mistakes", arXiv:1912.09393. Where several
    hypernyms are shared, the lowest counts. From `SEVERE_HEIGHT` on, the two have nothing in common that matters, such
    as an animal and an artefact.
    """
    labels = imagenet_labels()
    return min(height(shared) for shared in ancestors(labels[first].synset) & ancestors(labels[second].synset))


def covered_labels(subject: str | None, true_label: int) -> tuple[int, ...]:
    """Return the other classes under which a photograph of `subject`, of class `true_label`, is still seen right.

    A photograph with the subject "cat" that shows an Egyptian cat is still seen right as a tiger cat; with the subject
    "Egyptian cat" it is not. `subject` is a search phrase or a folder's name. Its most specific words that name the
    true label or a hypernym of it decide. Words that cover everything, such as "object", are passed over.
    """
    above = ancestors(imagenet_labels()[true_label].synset)
    named = {synset for synset in _named(subject or "") & above if height(synset) < SEVERE_HEIGHT}
    if not named:
        return ()
    return tuple(sorted(classes_below(min(named, key=lambda synset: (height(synset), synset))) - {true_label}))


def is_named_by(subject: str, label: int) -> bool:
    """Return whether words of `subject` name a class or a hypernym of it, in any of their meanings.

    A no says little: to WordNet a castle is no building.
    """
    return bool(_named(subject) & ancestors(imagenet_labels()[label].synset))


def _named(subject: str) -> set[str]:
    """The synsets that words of the subject name, singular or plural; of overlapping names the longest counts."""
    words = "".join(sign if sign.isalnum() or sign in "'." else " " for sign in subject.lower()).split()
    found: set[str] = set()
    place = 0
    while place < len(words):
        for length in range(min(_MAX_WORDS, len(words) - place), 0, -1):
            if meanings := _meanings(words[place : place + length]):
                found |= meanings
                place += length
                break
        else:
            place += 1
    return found


def _meanings(words: list[str]) -> frozenset[str]:
    return frozenset().union(
        *(_by_name().get("".join([*words[:-1], singular]), frozenset()) for singular in _singulars(words[-1]))
    )


def _singulars(word: str) -> list[str]:
    """The word and what it may be the plural of, by WordNet's rules for nouns (morphy) and its exceptions."""
    rules = (("s", ""), ("es", ""), ("ies", "y"), ("men", "man"), ("ves", "f"), ("ves", "fe"))
    cut = [word.removesuffix(plural) + singular for plural, singular in rules if word.endswith(plural)]
    return [word, *_table()["plurals"].get(word, ()), *cut]


@cache
def _by_name() -> dict[str, frozenset[str]]:
    """Synsets by lemma in lower case without anything but letters and digits: folders write "seashore" in many ways."""
    found: dict[str, set[str]] = {}
    for key, synset in synsets().items():
        for name in synset.names:
            found.setdefault("".join(sign for sign in name.lower() if sign.isalnum() or sign in "'."), set()).add(key)
    return {name: frozenset(keys) for name, keys in found.items()}


@cache
def _hyponyms() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, synset in synsets().items():
        for above in synset.hypernyms:
            found.setdefault(above, []).append(key)
    return found


@cache
def _table() -> dict:  # type: ignore[type-arg]
    return json.loads((resources.files("perturb.models") / "hypernyms.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]
