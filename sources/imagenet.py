"""ImageNet-1k's classes for sources: names as search prompts, and the class index of a WordNet ID."""

from functools import cache
from importlib.metadata import distribution
from pathlib import Path


@cache
def class_of_synset() -> dict[str, int]:
    """Return the class index of each WordNet ID (`n01440764`), in index order."""
    return {synset: index for index, synset in enumerate(_lines("imagenet_synsets.txt"))}


@cache
def class_names() -> tuple[str, ...]:
    """Return the usual English name of each class, in index order."""
    return tuple(name_of_synset()[synset] for synset in class_of_synset())


@cache
def name_of_synset() -> dict[str, str]:
    """Return the usual English name of each WordNet ID of ImageNet, the 21,000 classes beyond ImageNet-1k included."""
    lemmas = (line.split("\t", 1) for line in _lines("imagenet_synset_to_lemma.txt") if "\t" in line)
    return {synset: names.partition(",")[0].strip() for synset, names in lemmas}


def _lines(name: str) -> list[str]:
    # timm's own reader would import torch, which sources do not need. pyproject.toml bounds timm's version.
    file = Path(str(distribution("timm").locate_file(f"timm/data/_info/{name}")))
    return file.read_text(encoding="utf-8").splitlines()
