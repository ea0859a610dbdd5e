"""The classes of ImageNet-1k, by which challenges and records name labels."""

import json
from functools import cache
from importlib.resources import files

NUM_CLASSES = 1000


@cache
def class_names() -> tuple[str, ...]:
    """Return a name for each of the 1000 classes, in index order; no two are equal.

    It is the first lemma of the class in WordNet 3.0, the one that records state as `true_label_name`. Where classes
    share it, such as the two called `crane`, the WordNet ID follows in brackets. The names are kept in a file beside
    this one, so that reading them imports no network and the bytes of exports depend on no other package's version.
    """
    return tuple(json.loads((files("perturb.schemas") / "imagenet_names.json").read_text(encoding="utf-8")))
